using System.Diagnostics;

using KtNotebooks.Experts;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Ops;
using KtNotebooks.Optim;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;
using KtNotebooks.Training;
using KtNotebooks.Weights;

namespace KtNotebooks.Evaluation;

/// <summary>What `kt bench train` measures.</summary>
/// <param name="Shape">A name of <see cref="ModelShapes"/>.</param>
/// <param name="Layers">The first so many layers; null: all.</param>
/// <param name="Tokens">Of an optimizer step.</param>
/// <param name="Sequence">Tokens of each sequence; the last one may be shorter.</param>
/// <param name="Rank">LoRA rank, on all linears and all routed experts.</param>
/// <param name="Executor">Where the experts are computed.</param>
/// <param name="Format">How they are stored.</param>
/// <param name="Device">Where everything else is.</param>
/// <param name="SlotBytes">Device memory of the streaming slots.</param>
/// <param name="SavedBytes">Device memory for the inputs of the stages; what is over goes to pinned host memory.</param>
/// <param name="MomentsOnHost">AdamW's moments wait in pinned host memory.</param>
/// <param name="PairsOnHost">The experts' low-rank pairs live, and are updated, in pinned host memory; always so where experts are split.</param>
/// <param name="ChunkRows">Rows that a stage works on at a time.</param>
/// <param name="Steps">Measured steps, after two to warm up.</param>
public sealed record TrainingBenchmarkSettings(string Shape, int? Layers, int Tokens, int Sequence, int Rank, ExecutorKind Executor, MatrixFormat Format, Device Device, long SlotBytes, long SavedBytes, bool MomentsOnHost, bool PairsOnHost, int ChunkRows, int Steps);

/// <summary>What it found; times are medians over the measured steps, in milliseconds.</summary>
/// <param name="Parameters">Of the base model.</param>
/// <param name="Trained">Of the adapter.</param>
/// <param name="StepMs">From the first kernel to the updated weights.</param>
/// <param name="Parts">Time on the compute stream by part of the step (attention, experts, dense, head, embedding, optimizer); waiting for copies is inside.</param>
/// <param name="CopyMs">Time of the copy stream.</param>
/// <param name="CopiedBytes">Expert bytes over the bus a step.</param>
/// <param name="PeakDeviceBytes">The most that was in use on the card as its driver sees it, contexts included; 0 on the CPU.</param>
/// <param name="PoolPeakBytes">The most that the engine's own pool held.</param>
/// <param name="ResidentHostBytes">Of the process at the end.</param>
/// <param name="Losses">Of all steps, the warm-up included: a check that something is computed.</param>
public sealed record TrainingBenchmarkResult(TrainingBenchmarkSettings Settings, string Card, long Parameters, long Trained, double StepMs, double FastestMs, double SlowestMs, IReadOnlyDictionary<string, double> Parts, double CopyMs, long CopiedBytes, long PeakDeviceBytes, long PoolPeakBytes, long ResidentHostBytes, IReadOnlyList<double> Losses)
{
    public double TokensPerSecond => Settings.Tokens / (StepMs / 1000);

    /// <summary>Rate of the bus while it copied.</summary>
    public double CopyGbPerSecond => CopyMs == 0 ? 0 : CopiedBytes / CopyMs / 1e6;
}

/// <summary>A real optimizer step (forward, loss, backward, clipping, AdamW) on weights of true shape: the same classes that `kt train` uses.</summary>
public static class TrainingBenchmark
{
    private const int WarmUp = 2;

    public static TrainingBenchmarkResult Run(TrainingBenchmarkSettings settings, Action<string> note, CancellationToken cancel = default)
    {
        ArgumentNullException.ThrowIfNull(settings);
        ArgumentNullException.ThrowIfNull(note);
        var watch = Stopwatch.StartNew();
        var card = settings.Device.Kind == DeviceKind.Cuda ? CudaDevice.Get(settings.Device.Index) : null;
        using var sampler = new MemorySampler(card);
        var config = ConfigFile.FromJson(settings.Shape, ModelShapes.Config(settings.Shape, settings.Layers).ToJsonString());
        using var executors = new ExpertExecutors();
        using var model = ModelFolder.Build(config, new PatternWeights(settings.Device, settings.Format), DType.BF16);
        var banks = model.All().OfType<ExpertBank>().ToList();
        note($"weights made in {watch.Elapsed.TotalSeconds:F1} s");
        if (settings.Executor == ExecutorKind.Streamed) executors.Stream(banks, settings.Device, settings.SlotBytes);
        if (settings.Executor == ExecutorKind.Split) note($"split: {executors.Split(banks, settings.Device, settings.SlotBytes)}");
        if (settings.PairsOnHost)
            foreach (var bank in banks) bank.PairsOnHost = true;
        if (settings.Executor == ExecutorKind.Resident && card is not null) ExpertExecutors.Keep(banks, settings.Device, DType.BF16);
        note($"experts placed after {watch.Elapsed.TotalSeconds:F1} s");
        LoraAdapter.Attach(model, new LoraSettings(settings.Rank, Experts: true), seed: 1);
        var parameters = model.AllTrainable;
        note($"adapter attached after {watch.Elapsed.TotalSeconds:F1} s");
        using var optimizer = new AdamW(parameters, new AdamWSettings(), settings.MomentsOnHost);
        var step = new LayerMajorStep(model, settings.ChunkRows, savedBytes: settings.SavedBytes);
        foreach (var stream in executors.Streams) stream.IsTimed = true;
        var parts = new PartTimer(card);
        step.OnPart = parts.Begin;

        List<double> times = [], losses = [], copies = [];
        List<Dictionary<string, double>> all = [];
        long copied = 0;
        for (var s = 0; s < WarmUp + settings.Steps; s++)
        {
            cancel.ThrowIfCancellationRequested();
            var batch = Batch(settings, model.Info.Vocabulary, s);
            card?.Compute.Synchronize();
            var before = executors.CopiedBytes;
            watch.Restart();
            var loss = step.Run(batch, cancel: cancel);
            parts.Begin("optimizer");
            var norm = Gradients.Norm(parameters);
            optimizer.Step(1e-4, Gradients.ClipScale(norm, 1));
            parts.Begin("");
            card?.Compute.Synchronize();
            var time = watch.Elapsed.TotalMilliseconds;
            var copyTime = executors.Streams.Sum(stream => stream.TakeCopyTime());
            var split = parts.Take();
            losses.Add(loss);
            note($"step {s + 1}: {time:F0} ms, loss {loss:F4}, gradient norm {norm:F4}{(s < WarmUp ? " (warm-up)" : "")}");
            if (!double.IsFinite(loss) || !double.IsFinite(norm)) throw new InvalidOperationException($"the benchmark's step {s + 1} has the loss {loss} and the gradient norm {norm}: its figures would mean nothing");
            if (s < WarmUp) continue;
            times.Add(time);
            copies.Add(copyTime);
            all.Add(split);
            copied = executors.CopiedBytes - before;
        }
        var trained = parameters.Sum(p => p.Tensor.Count);
        return new TrainingBenchmarkResult(settings, card?.ToString() ?? $"CPU, {Cpu()}", Count(model), trained, Median(times), times.Min(), times.Max(),
            all.SelectMany(a => a.Keys).Distinct().ToDictionary(k => k, k => Median(all.Select(a => a.GetValueOrDefault(k)))), Median(copies), copied, sampler.PeakBytes, card?.Pool.PeakBytes ?? 0, Environment.WorkingSet, losses);
    }

    private static string Cpu() => $"{Interop.Cpu.Variant}, {Interop.Cpu.Threads} threads";

    /// <summary>Elements of the base, whatever its storage.</summary>
    private static long Count(CausalLm model) => model.All().Sum(m => m is ExpertBank b ? 3L * b.Count * b.Width * b.Inner : m.Weights.Sum(w => w.Tensor.Count));

    private static double Median(IEnumerable<double> values)
    {
        double[] sorted = [.. values.Order()];
        return sorted.Length == 0 ? 0 : (sorted[(sorted.Length - 1) / 2] + sorted[sorted.Length / 2]) / 2;
    }

    /// <summary>Random tokens, every one a target.</summary>
    private static TokenBatch Batch(TrainingBenchmarkSettings settings, int vocabulary, int step)
    {
        var random = new NormalRandom((ulong)step, "tokens");
        var builder = new TokenBatch.Builder();
        for (var left = settings.Tokens; left > 0; left -= settings.Sequence)
        {
            var ids = new int[Math.Min(left, settings.Sequence)];
            for (var i = 0; i < ids.Length; i++) ids[i] = (int)(random.Next() % (ulong)vocabulary);
            builder.Add(ids, ids, 1f / settings.Tokens);
        }
        return builder.Build();
    }

    /// <summary>Time between marks on the compute stream, summed by name; on the CPU by the clock.</summary>
    private sealed class PartTimer(CudaDevice? card)
    {
        private readonly List<(string Name, CudaEvent? Mark, long Ticks)> _marks = [];

        public void Begin(string name)
        {
            CudaEvent? mark = null;
            if (card is not null)
            {
                mark = new CudaEvent(card, timing: true);
                mark.Record(card.Compute);
            }
            _marks.Add((name, mark, Stopwatch.GetTimestamp()));
        }

        public Dictionary<string, double> Take()
        {
            var sums = new Dictionary<string, double>();
            for (var i = 0; i + 1 < _marks.Count; i++)
            {
                var ((name, from, started), (_, to, ended)) = (_marks[i], _marks[i + 1]);
                if (name.Length == 0) continue;
                sums[name] = sums.GetValueOrDefault(name) + (from is null ? Stopwatch.GetElapsedTime(started, ended).TotalMilliseconds : to!.Since(from));
            }
            foreach (var (_, mark, _) in _marks) mark?.Dispose();
            _marks.Clear();
            return sums;
        }
    }

    /// <summary>Asks the driver a hundred times a second how much of the card is in use.</summary>
    private sealed class MemorySampler : IDisposable
    {
        private readonly CudaDevice? _card;
        private readonly Thread? _thread;
        private volatile bool _stop;
        private long _peak;

        public MemorySampler(CudaDevice? card)
        {
            _card = card;
            if (card is null) return;
            _thread = new Thread(Watch) { IsBackground = true, Name = "memory sampler" };
            _thread.Start();
        }

        public long PeakBytes => Interlocked.Read(ref _peak);

        public void Dispose()
        {
            _stop = true;
            _thread?.Join();
        }

        private void Watch()
        {
            while (!_stop)
            {
                var used = _card!.TotalBytes - _card.FreeBytes;
                if (used > _peak) Interlocked.Exchange(ref _peak, used);
                Thread.Sleep(10);
            }
        }
    }
}
