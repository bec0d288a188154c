using System.Diagnostics;

using KtNotebooks.Experts;
using KtNotebooks.Formats;
using KtNotebooks.Generation;
using KtNotebooks.Models;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;

namespace KtNotebooks.Bench;

/// <summary>What `kt bench generate` measures.</summary>
/// <param name="Shape">A name of <see cref="Models.ModelShapes"/>.</param>
/// <param name="Layers">The first so many layers; null: all.</param>
/// <param name="Prompt">Tokens of the prompt.</param>
/// <param name="NewTokens">Tokens drawn after it.</param>
/// <param name="Executor">Where the experts are computed.</param>
/// <param name="Format">How they are stored.</param>
/// <param name="Device">Where everything else is.</param>
/// <param name="SlotBytes">Device memory of the slots of experts on their way.</param>
public sealed record GenerationBenchmarkSettings(string Shape, int? Layers, int Prompt, int NewTokens, ExecutorKind Executor, StorageFormat Format,
    Device Device, long SlotBytes);

/// <summary>What it found.</summary>
/// <param name="PromptMs">From the prompt to the first token; the faster of two runs.</param>
/// <param name="TokenMs">Median of a further token.</param>
/// <param name="PromptBytes">Expert bytes over the bus for the prompt.</param>
/// <param name="TokenBytes">And for a token.</param>
/// <param name="PeakDeviceBytes">The most that was in use on the card as its driver sees it; 0 on the CPU.</param>
/// <param name="WeightBytes">Stored weights that a token must read where most of them are read: all that act on it, or its experts in host memory.</param>
/// <param name="Bandwidth">What that memory gives alone, measured in the same run, GB/s; 0 where the experts come over the bus.</param>
/// <param name="ReplayedSteps">Steps that were one CUDA graph.</param>
/// <param name="NotRecorded">What kept steps from being one.</param>
public sealed record GenerationBenchmarkResult(GenerationBenchmarkSettings Settings, string Device, long Parameters, double PromptMs, double TokenMs,
    long PromptBytes, long TokenBytes, long PeakDeviceBytes, long WeightBytes, double Bandwidth, long ReplayedSteps, string? NotRecorded)
{
    /// <summary>Of the memory's speed: 1 is a token as fast as its weights can be read once. 0 where it was not measured.</summary>
    public double BandwidthShare => Bandwidth == 0 ? 0 : WeightBytes / TokenMs / 1e6 / Bandwidth;

    public double PromptTokensPerSecond => Settings.Prompt / (PromptMs / 1000);

    public double TokensPerSecond => 1000 / TokenMs;
}

/// <summary>One prompt and its greedy continuation with weights of true shape: the <see cref="Scheduler"/> that chat, predict and the server use.</summary>
public static class GenerationBenchmark
{
    /// <exception cref="InvalidOperationException">Two greedy runs differ: nothing was measured.</exception>
    public static GenerationBenchmarkResult Run(GenerationBenchmarkSettings settings, Action<string> note, CancellationToken cancel = default)
    {
        ArgumentNullException.ThrowIfNull(settings);
        ArgumentNullException.ThrowIfNull(note);
        using var meter = new DeviceMeter(settings.Device);
        Experts.ExpertStream? stream = null;
        using var made = new BenchmarkModel(settings.Shape, settings.Layers, settings.Executor, settings.Format, settings.SlotBytes, (_, _) => settings.Device,
            (_, s) => stream = s, note);
        long Copied() => stream?.CopiedBytes ?? 0;
        var random = new NormalRandom(1, "prompt");
        int[] prompt = [.. Enumerable.Range(0, settings.Prompt).Select(_ => (int)(random.Next() % (ulong)made.Model.Info.Vocabulary))];
        var request = new GenerationRequest(prompt, Sampling.Greedy(settings.NewTokens + 1));
        using var scheduler = new Scheduler(made.Model, settings: new SchedulerSettings { PromptRows = int.MaxValue, IdleTokens = 0, RowsAlike = false });
        List<int>[] drawn = [[], []];
        double promptMs = double.MaxValue;
        List<double> tokens = [];
        var (promptBytes, tokenBytes) = (0L, 0L);
        foreach (var run in drawn)
        {
            var (watch, before) = (Stopwatch.StartNew(), Copied());
            var last = 0.0;
            foreach (var token in scheduler.Read(scheduler.Add(request), cancel))
            {
                if (token.Id is not { } id) continue;
                var now = watch.Elapsed.TotalMilliseconds;
                if (run.Count > 0 && run == drawn[1]) tokens.Add(now - last);
                if (run.Count == 0) (promptMs, promptBytes) = (Math.Min(promptMs, now), Copied() - before);
                run.Add(id);
                last = now;
            }
            tokenBytes = (Copied() - before - promptBytes) / Math.Max(1, settings.NewTokens);
        }
        if (!drawn[0].SequenceEqual(drawn[1]))
            throw new InvalidOperationException("two greedy runs from one prompt drew different tokens: their speed means nothing");
        var (weights, bandwidth) = Reading(settings, made.Model);
        return new GenerationBenchmarkResult(settings, meter.Name ?? $"CPU, {Interop.Cpu.Variant}, {Interop.Cpu.Threads} threads", made.Parameters, promptMs,
            DeviceMeter.Median(tokens), promptBytes, tokenBytes, meter.Figures.PeakDeviceBytes, weights, bandwidth, scheduler.ReplayedSteps,
            scheduler.NotRecorded);
    }

    /// <summary>Bytes of weights that a token reads in the memory that its speed hangs on, and that memory's GB/s alone.</summary>
    private static (long Bytes, double Bandwidth) Reading(GenerationBenchmarkSettings settings, CausalLm model)
    {
        const long Stretch = 2L << 30;
        var experts = model.All().OfType<ExpertBank>().Sum(b => b.TopK * b.ExpertBytes);
        var rest = model.All().Where(m => m is not (ExpertBank or Nn.Embedding)).SelectMany(m => m.Weights).Sum(w => w.Tensor.ByteLength);
        if (settings.Device.Kind == DeviceKind.Cpu) return (experts + rest, Ceilings.HostRead(Stretch)?.Rate ?? 0);
        return settings.Executor switch
        {
            ExecutorKind.Resident => (experts + rest, Ceilings.Copy(settings.Device, Stretch).Rate),
            ExecutorKind.Cpu => (experts, Ceilings.HostRead(Stretch)?.Rate ?? 0),
            _ => (experts, 0),
        };
    }
}
