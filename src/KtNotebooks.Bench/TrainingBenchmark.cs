using System.Diagnostics;
using System.Globalization;

using KtNotebooks.Distributed;
using KtNotebooks.Experts;
using KtNotebooks.Formats;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Optim;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;
using KtNotebooks.Training;
using KtNotebooks.Training.Objectives;
using KtNotebooks.Weights;

namespace KtNotebooks.Bench;

/// <summary>What `kt bench train` measures.</summary>
/// <param name="Shape">A name of <see cref="ModelShapes"/>.</param>
/// <param name="Layers">The first so many layers; null: all.</param>
/// <param name="Tokens">Of an optimizer step, over all ranks.</param>
/// <param name="Sequence">Tokens of each sequence; the last one may be shorter.</param>
/// <param name="Rank">LoRA rank, on all linears and all routed experts.</param>
/// <param name="Executor">Where the experts are computed.</param>
/// <param name="Format">How they are stored.</param>
/// <param name="Device">Where everything else is.</param>
/// <param name="SlotBytes">Device memory of the streaming slots.</param>
/// <param name="SavedBytes">Device memory for the inputs of the stages; what is over goes to pinned host memory.</param>
/// <param name="MomentsOnHost">AdamW's moments wait in pinned host memory.</param>
/// <param name="LoraOnHost">The experts' low-rank pairs live, and are updated, in pinned host memory; always so where experts are split.</param>
/// <param name="ChunkRows">Rows that a stage works on at a time.</param>
/// <param name="Steps">Measured steps, after those to warm up.</param>
/// <param name="Gpus">Over how many cards the layers lie, from <paramref name="Device"/> on.</param>
/// <param name="Contiguous">Each card has consecutive layers, as in KTransformers' rule files; else the cards take turns.</param>
/// <param name="Parts">Into how many parts the window is cut; null: as <see cref="LayerMajorStep.Parts"/> chooses.</param>
/// <param name="DenseOnHost">The matrices of layers that are no experts wait in pinned host memory and come for their layer's work.</param>
/// <param name="Trace">A file that gets what each card did in the last step, and when.</param>
/// <param name="LoraFolder">A disk is the home of the experts' low-rank pairs, gradients and moments: in this folder; null: memory is.</param>
/// <param name="KeptBytes">Device memory in which stages keep their whole forward pass for backward.</param>
/// <param name="Stage">sft, or dpo: every two sequences are a pair, whose reference is the base without its adapter.</param>
/// <param name="DiskFolder">The experts stay on the disk, in shards that are made in this folder first; null: in pinned memory.</param>
/// <param name="KeepsActivations">Experts on the CPU keep what their backward pass needs.</param>
/// <param name="IsFull">All weights are trained, experts included, in place of an adapter.</param>
/// <param name="DiskLayers">The shards hold the first so many layers, whose experts stand for those of all others too; null: each layer has its own.</param>
/// <param name="WarmUp">Steps before the measured ones; of none the first step, with all that it makes, is measured.</param>
public sealed record TrainingBenchmarkSettings(string Shape, int? Layers, int Tokens, int Sequence, int Rank, ExecutorKind Executor, StorageFormat Format,
    Device Device, long SlotBytes, long SavedBytes, bool MomentsOnHost, bool LoraOnHost, int ChunkRows, int Steps, int Gpus = 1, bool Contiguous = false,
    int? Parts = null, string? DiskFolder = null, bool DenseOnHost = false, string? Trace = null, bool KeepsActivations = false,
    string? LoraFolder = null, long KeptBytes = 0, string Stage = "sft", bool IsFull = false, int? DiskLayers = null,
    int WarmUp = TrainingBenchmark.WarmUp);

/// <summary>What it found; times are medians over the measured steps, in milliseconds.</summary>
/// <param name="Parameters">Of the base model.</param>
/// <param name="Trained">Of the adapter; with <see cref="TrainingBenchmarkSettings.IsFull"/> of the model.</param>
/// <param name="StepMs">From the first kernel to the updated weights.</param>
/// <param name="Parts">Time on the compute stream by part of the step (attention, experts, dense, head, embedding, optimizer); waiting for copies is
/// inside. Of several cards the mean.</param>
/// <param name="CopyMs">Time of the copy stream; of several cards the longest.</param>
/// <param name="CopiedBytes">Expert bytes over the bus a step, over those of all cards.</param>
/// <param name="PeakDeviceBytes">The most that was in use on a card as its driver sees it, contexts included; 0 on the CPU.</param>
/// <param name="PoolPeakBytes">The most that the engine's own pool held.</param>
/// <param name="ResidentHostBytes">Of the process at the end.</param>
/// <param name="Losses">Of all steps, the warm-up included: a check that something is computed.</param>
/// <param name="PerDevice">The same card by card, where there are several.</param>
/// <param name="Ranks">Of several processes, whose first one this is: what summing the gradients costs.</param>
/// <param name="ReadBytes">Bytes of experts read from the disk a step.</param>
/// <param name="BusWaitMs">Of a card's compute stream before copies that were not over; of several cards the most.</param>
/// <param name="DiskGbPerSecond">What that disk gives when it is read straight on, measured in the same run.</param>
public sealed record TrainingBenchmarkResult(TrainingBenchmarkSettings Settings, string Device, long Parameters, long Trained, double StepMs, double FastestMs,
    double SlowestMs, IReadOnlyDictionary<string, double> Parts, double CopyMs, long CopiedBytes, long PeakDeviceBytes, long PoolPeakBytes,
    long ResidentHostBytes, IReadOnlyList<double> Losses, IReadOnlyList<DeviceFigures>? PerDevice = null,
    RankFigures? Ranks = null, long ReadBytes = 0, double DiskGbPerSecond = 0, double BusWaitMs = 0)
{
    public double TokensPerSecond => Settings.Tokens / (StepMs / 1000);

    /// <summary>Rate of the disk over the whole step.</summary>
    public double ReadGbPerSecond => ReadBytes / StepMs / 1e6;

    /// <summary>Rate of the bus while it copied; of several cards all their buses together.</summary>
    public double CopyGbPerSecond => CopyMs == 0 ? 0 : CopiedBytes / CopyMs / 1e6;
}

/// <summary>Processes that share every window, medians a step.</summary>
/// <param name="World">How many.</param>
/// <param name="Carrier">What sums.</param>
/// <param name="Bytes">Of the gradients.</param>
/// <param name="SumMs">In which sums are under way, waiting for slower ranks included.</param>
/// <param name="ExposedMs">Of it what comes after a rank's own gradients: what it adds to the step. The most of all ranks.</param>
public sealed record RankFigures(int World, string Carrier, long Bytes, double SumMs, double ExposedMs);

/// <summary>A real optimizer step (forward, loss, backward, clipping, AdamW) on weights of true shape: the same classes that `kt train` uses.</summary>
public static class TrainingBenchmark
{
    /// <summary>Steps before the measured ones, where nothing else is asked.</summary>
    public const int WarmUp = 2;

    public static TrainingBenchmarkResult Run(TrainingBenchmarkSettings settings, Action<string> note, CancellationToken cancel = default) =>
        Run(settings, SingleRank.Instance, note, windows: null, cancel).Single();

    /// <summary>A result for each window and number of parts, all of one model that is made once; several processes share every step.</summary>
    /// <param name="windows">Tokens of a step and parts of it, one after the other; null: what the settings say.</param>
    public static IEnumerable<TrainingBenchmarkResult> Run(TrainingBenchmarkSettings settings, ICollective ranks, Action<string> note,
        IReadOnlyList<(int Tokens, int? Parts)>? windows = null, CancellationToken cancel = default)
    {
        ArgumentNullException.ThrowIfNull(ranks);
        ArgumentNullException.ThrowIfNull(settings);
        ArgumentNullException.ThrowIfNull(note);
        if (settings.Gpus < 1 || (settings.Gpus > 1 && settings.Device.Kind != DeviceKind.Cuda))
            throw new ArgumentException($"{settings.Gpus} cards from {settings.Device} on: wanted a positive number, and a card to begin with");
        if (settings.DiskFolder is not null && settings.Executor != ExecutorKind.Streamed)
            throw new ArgumentException($"--weights disk is for --experts streamed, not {settings.Executor.ToString().ToLowerInvariant()}");
        if (settings.IsFull && (settings.Executor is not (ExecutorKind.Resident or ExecutorKind.Streamed) || settings.Format != StorageFormat.BF16
            || settings.DiskFolder is not null || settings.DenseOnHost || settings.LoraOnHost || settings.LoraFolder is not null))
            throw new ArgumentException("--finetuning full is for --experts resident or streamed in bf16, without --weights disk, --dense host, "
                + "--lora-on-host and --lora-on-disk");
        if (settings.DenseOnHost && settings.Device.Kind != DeviceKind.Cuda)
            throw new ArgumentException("--dense host is for a card: on the CPU all weights are in host memory");
        var watch = Stopwatch.StartNew();
        DeviceMeter[] meters = [.. Enumerable.Range(0, settings.Gpus).Select(c => new DeviceMeter(settings.Device with { Index = settings.Device.Index + c }))];
        try
        {
            using var disk = settings.DiskFolder is null ? null
                : new Checkpoint(DiskShards.Make(settings.Shape, settings.DiskLayers ?? settings.Layers, settings.Format, settings.DiskFolder, note, cancel));
            using var made = new BenchmarkModel(settings.Shape, settings.Layers, settings.Executor, settings.Format, settings.SlotBytes,
                (name, layers) => meters[GpuOf(name, layers, settings)].Device,
                (device, stream) => meters.First(m => m.Device == device).Watch(stream), note, disk, settings.DenseOnHost, settings.IsFull);
            var folder = settings.LoraFolder is null ? null : new DiskMemory(settings.LoraFolder);
            if (folder?.Doubt is { } doubt) note(doubt);
            foreach (var bank in made.Model.All().OfType<ExpertBank>())
                (bank.LoraOnHost, bank.LoraDisk) = (settings.LoraOnHost || folder is not null, folder);
            note($"weights made and placed after {watch.Elapsed.TotalSeconds:F1} s");
            if (settings.IsFull) made.Model.Unfreeze(new TrainedParts(All: true).Of(made.Model));
            else LoraAdapter.Attach(made.Model, new LoraSettings(settings.Rank, Experts: true), seed: 1);
            using var optimizer = new AdamW(made.Model.AllTrainable, new AdamWSettings(), _ => settings.MomentsOnHost);
            note($"what is trained, and AdamW's moments, ready after {watch.Elapsed.TotalSeconds:F1} s");
            if (ranks.Prepare(settings.Device) is { } carrier) note(carrier);
            ranks.IsTimed = ranks.World > 1;
            foreach (var (tokens, parts) in windows ?? [(settings.Tokens, settings.Parts)])
            {
                var trace = windows is { Count: > 1 } && settings.Trace is { } file
                    ? Path.ChangeExtension(file, $"{tokens}{(parts is { } n ? $"-{n}-parts" : "")}{Path.GetExtension(file)}") : settings.Trace;
                yield return Measure(settings with { Tokens = tokens, Parts = parts, Trace = trace }, made, optimizer, disk, ranks, meters, note, cancel);
            }
        }
        finally
        {
            foreach (var meter in meters) meter.Dispose();
        }
    }

    private static TrainingBenchmarkResult Measure(TrainingBenchmarkSettings settings, BenchmarkModel made, AdamW optimizer, Checkpoint? disk,
        ICollective ranks, DeviceMeter[] meters, Action<string> note, CancellationToken cancel)
    {
        var (model, parameters, watch, warmUp) = (made.Model, made.Model.AllTrainable, new Stopwatch(), settings.WarmUp);
        var sequential = disk is null ? 0 : DiskShards.SequentialGbPerSecond(disk, note);
        foreach (var meter in meters) meter.Reset();
        var step = new LayerMajorStep(model, settings.ChunkRows, savedBytes: _ => settings.SavedBytes, parts: settings.Parts)
        {
            KeepsActivations = settings.KeepsActivations,
            KeptBytes = _ => settings.KeptBytes,
            Objective = settings.Stage == "dpo" ? new DpoObjective(new PreferenceSettings()) : null,
            OnPart = mark => meters.First(m => m.Device == mark.Device)
                .Begin(mark.Work == StepWork.Over ? "" : mark.Work.ToString().ToLowerInvariant(),
                    mark.Stage < 0 ? "" : $"of layer {mark.Layer}, part {mark.Part}"), // each from the thread of its card
        };
        List<double> times = [], losses = [], reads = [], sums = [], exposed = [];
        long summed = 0;
        for (var s = 0; s < warmUp + settings.Steps; s++)
        {
            cancel.ThrowIfCancellationRequested();
            var batch = Batch(settings, model.Info.Vocabulary, s);
            foreach (var meter in meters) meter.Settle();
            ranks.Barrier();
            if (settings.Trace is not null && s + 1 == warmUp + settings.Steps)
                foreach (var meter in meters) meter.StartTrace();
            watch.Restart();
            var read = made.ReadBytes;
            var loss = step.Learn(step.ShareOf(ranks, batch), cancel: cancel).Loss;
            foreach (var meter in meters) meter.Begin("optimizer");
            var norm = Gradients.Norm(parameters);
            optimizer.Step(1e-4, Gradients.ClipScale(norm, 1));
            foreach (var meter in meters) meter.Begin("");
            foreach (var meter in meters) meter.Settle();
            var time = watch.Elapsed.TotalMilliseconds;
            foreach (var meter in meters) meter.EndStep(keep: s >= warmUp);
            losses.Add(loss);
            note($"step {s + 1}: {time:F0} ms, loss {loss:F4}, gradient norm {norm:F4}{(s < warmUp ? " (warm-up)" : "")}");
            if (!double.IsFinite(loss) || !double.IsFinite(norm))
                throw new InvalidOperationException($"the benchmark's step {s + 1} has the loss {loss} and the gradient "
                    + $"norm {norm}: its figures would mean nothing");
            var figures = ranks.TakeFigures();
            if (s < warmUp) continue;
            reads.Add(made.ReadBytes - read);
            times.Add(ranks.AllGather([time]).Max(of => of[0]));
            sums.Add(figures.Busy.TotalMilliseconds);
            exposed.Add(ranks.AllGather([figures.Exposed.TotalMilliseconds]).Max(of => of[0]));
            summed = figures.Bytes;
        }
        if (settings.Trace is { } file) TraceFile.Write(file, meters.Select(m => ($"{m.Device}", m.Trace)));
        if (disk is not null) sequential = Math.Max(sequential, DiskShards.SequentialGbPerSecond(disk, note)); // what lies behind it may have warmed up
        var shared = ranks.World == 1 ? null : new RankFigures(ranks.World, ranks.Carrier, summed, DeviceMeter.Median(sums), DeviceMeter.Median(exposed));
        DeviceFigures[] cards = [.. meters.Select(m => m.Figures)];
        if (settings.Gpus > 1) settings = settings with { Parts = step.Parts };
        return new TrainingBenchmarkResult(settings, meters[0].Name ?? $"CPU, {Cpu()}", made.Parameters, parameters.Sum(p => p.Tensor.Count),
            DeviceMeter.Median(times), times.Min(), times.Max(),
            cards.SelectMany(c => c.Parts.Keys).Distinct().ToDictionary(k => k, k => cards.Average(c => c.Parts.GetValueOrDefault(k))),
            cards.Max(c => c.CopyMs), cards.Sum(c => c.CopiedBytes),
            cards.Max(c => c.PeakDeviceBytes), cards.Max(c => c.PoolPeakBytes), Environment.WorkingSet, losses, cards.Length > 1 ? cards : null,
            shared, (long)DeviceMeter.Median(reads), sequential, cards.Max(c => c.BusWaitMs));
    }

    /// <summary>Token table, final norm and head lie with the first and the last layer.</summary>
    private static int GpuOf(string name, int layers, TrainingBenchmarkSettings settings)
    {
        var parts = name.Split('.');
        var at = Array.IndexOf(parts, "layers");
        var layer = at >= 0 ? int.Parse(parts[at + 1], CultureInfo.InvariantCulture)
            : name.StartsWith("model.embed_tokens", StringComparison.Ordinal) ? 0 : layers - 1;
        return settings.Contiguous ? (int)((long)layer * settings.Gpus / layers) : layer % settings.Gpus;
    }

    private static string Cpu() => $"{Interop.Cpu.Variant}, {Interop.Cpu.Threads} threads";

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
}
