using System.Diagnostics;

using KtNotebooks.Formats;
using KtNotebooks.Generation;
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
public sealed record GenerationBenchmarkResult(GenerationBenchmarkSettings Settings, string Device, long Parameters, double PromptMs, double TokenMs,
    long PromptBytes, long TokenBytes, long PeakDeviceBytes)
{
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
        List<int>[] drawn = [[], []];
        double promptMs = double.MaxValue;
        List<double> tokens = [];
        var (promptBytes, tokenBytes) = (0L, 0L);
        foreach (var run in drawn)
        {
            var (watch, before) = (Stopwatch.StartNew(), Copied());
            var last = 0.0;
            foreach (var token in Scheduler.Generate(made.Model, request, cancel: cancel))
            {
                var now = watch.Elapsed.TotalMilliseconds;
                if (run.Count > 0 && run == drawn[1]) tokens.Add(now - last);
                if (run.Count == 0) (promptMs, promptBytes) = (Math.Min(promptMs, now), Copied() - before);
                run.Add(token);
                last = now;
            }
            tokenBytes = (Copied() - before - promptBytes) / Math.Max(1, settings.NewTokens);
        }
        if (!drawn[0].SequenceEqual(drawn[1]))
            throw new InvalidOperationException("two greedy runs from one prompt drew different tokens: their speed means nothing");
        return new GenerationBenchmarkResult(settings, meter.Name ?? $"CPU, {Interop.Cpu.Variant}, {Interop.Cpu.Threads} threads", made.Parameters, promptMs,
            DeviceMeter.Median(tokens), promptBytes, tokenBytes, meter.Figures.PeakDeviceBytes);
    }
}
