using System.Diagnostics;

using KtNotebooks.Formats;
using KtNotebooks.Interop;
using KtNotebooks.Tensors;

namespace KtNotebooks.Bench;

/// <summary>What `kt bench cpu` measures: a bank of a true shape, its many rows by <see cref="ExpertBenchmark"/>, its few rows in every format.</summary>
/// <param name="Experts">Experts of the bank.</param>
/// <param name="Width">D.</param>
/// <param name="Inner">I.</param>
/// <param name="TopK">Experts a token.</param>
/// <param name="Tokens">Of the many rows.</param>
/// <param name="Rank">Of the low-rank pairs of the many rows; few rows have none.</param>
/// <param name="Few">Numbers of tokens that are few rows.</param>
/// <param name="Product">n of an n³ product.</param>
public sealed record CpuBenchmarkSettings(int Experts, int Width, int Inner, int TopK, int Tokens, int Rank, IReadOnlyList<int> Few, int Product);

/// <summary>Some tokens through a bank in one format.</summary>
/// <param name="Ms">Median of a forward.</param>
/// <param name="RowsEach">Rows of an expert that has any.</param>
/// <param name="GbPerSecond">Stored bytes of the experts that these tokens chose, read once.</param>
/// <param name="BandwidthShare">Of what this memory gives alone, measured right before and after.</param>
/// <param name="Tflops">6·T·k·D·I a forward.</param>
/// <param name="Error">‖y − definition‖ / ‖definition‖ of a small bank, as many tokens, sums in double.</param>
public sealed record RowsFigure(string Format, int Tokens, double Ms, double RowsEach, double GbPerSecond, double BandwidthShare, double Tflops, double Error);

/// <summary>What it found.</summary>
/// <param name="ThreadSpeedUp">A product on all threads against the same on one.</param>
/// <param name="LoopMicroseconds">From a managed loop of empty bodies to its end, the threads awake.</param>
public sealed record CpuBenchmarkResult(string Variant, int Threads, Ceiling Peak, Ceiling Read, Ceiling Product, double ThreadSpeedUp, double LoopMicroseconds,
    ExpertBenchmarkResult Many, IReadOnlyList<RowsFigure> Few);

/// <summary>`kt bench cpu`: the CPU kernels against this processor's registers and this memory, everything in one run.</summary>
public static class CpuBenchmark
{
    private const int RouteSets = 24, Rounds = 3; // more experts than the caches hold, again and again

    private static readonly TimeSpan WarmUp = TimeSpan.FromSeconds(2);

    /// <exception cref="InvalidOperationException">A result is wrong: nothing was measured.</exception>
    /// <exception cref="NotSupportedException">There is no native library.</exception>
    public static CpuBenchmarkResult Run(CpuBenchmarkSettings s)
    {
        ArgumentNullException.ThrowIfNull(s);
        var (variant, threads) = (Cpu.Variant, Cpu.Threads);
        var peak = Ceilings.RegisterPeak() ?? throw new NotSupportedException("the native library is not in use here: there is nothing to measure");
        var read = Ceilings.HostRead(1L << 30)!;
        var product = Ceilings.HostProduct(s.Product);
        var speedUp = 1.0;
        if (threads > 1)
        {
            Cpu.Use(variant, 1);
            var alone = Ceilings.HostProduct(s.Product);
            Cpu.Use(variant, threads);
            speedUp = product.Rate / alone.Rate;
        }
        List<RowsFigure> few = [];
        foreach (var format in StorageFormat.BankNames.Select(StorageFormat.Parse)) few.AddRange(Rows(Bank(s, format, 1, 0), s.Few));
        var many = ExpertBenchmark.Run(Bank(s, StorageFormat.BF16, s.Tokens, s.Rank));
        if (many.Peak > peak.Rate) peak = peak with { Rate = many.Peak }; // such machines are shared: the better of two times
        return new CpuBenchmarkResult(variant, threads, peak, read, product, speedUp, Loop(), many, few);
    }

    private static ExpertBenchmarkSettings Bank(CpuBenchmarkSettings s, StorageFormat format, int tokens, int rank) =>
        new(s.Experts, s.Width, s.Inner, s.TopK, tokens, rank, format, Device.Cpu);

    /// <summary>A bank with so many tokens each, after their result was checked; without low-rank pairs.</summary>
    /// <exception cref="InvalidOperationException">A result is wrong: nothing was measured.</exception>
    public static IReadOnlyList<RowsFigure> Rows(ExpertBenchmarkSettings s, IReadOnlyList<int> tokens)
    {
        ArgumentNullException.ThrowIfNull(s);
        ArgumentNullException.ThrowIfNull(tokens);
        List<RowsFigure> figures = [];
        var read = MemoryAlone();
        using var bank = ExpertBenchmark.Bank(s with { Rank = 0, Device = Device.Cpu });
        foreach (var count in tokens)
        {
            var settings = s with { Tokens = count, Rank = 0, Device = Device.Cpu };
            var error = ExpertBenchmark.Check(settings);
            // Few tokens choose other experts each time, more than the caches hold, again and again; many choose all.
            var sets = count <= 16 ? RouteSets : 2;
            ExpertBenchmark.Rows[] all = [.. Enumerable.Range(0, sets).Select(i => new ExpertBenchmark.Rows(settings, (ulong)i))];
            var (times, rates, each) = (new List<double>(), new List<double>(), new List<double>());
            // For long: .NET compiles what a notebook's cells began with again, in the background of the next second, on a processor that is measured here.
            for (var warm = Stopwatch.StartNew(); warm.Elapsed < WarmUp / (figures.Count == 0 ? 1 : 10);)
                foreach (var rows in all) rows.Forward(bank);
            for (var round = 0; round < Rounds; round++)
                foreach (var rows in all)
                {
                    var start = Stopwatch.GetTimestamp();
                    rows.Forward(bank);
                    times.Add(Stopwatch.GetElapsedTime(start).TotalMilliseconds);
                    var chosen = rows.Indices.Distinct().Count();
                    rates.Add(chosen * bank.ExpertBytes / times[^1] / 1e6);
                    each.Add((double)rows.Indices.Count / chosen);
                }
            foreach (var rows in all) rows.Dispose();
            var (ms, rate) = (Median(times), Median(rates));
            figures.Add(new RowsFigure(s.Format.Name, count, ms, Median(each), rate, 0, 6.0 * count * s.TopK * s.Width * s.Inner / ms / 1e9, error));
        }
        read = Math.Max(read, MemoryAlone()); // others share the memory: the better of before and after
        return [.. figures.Select(f => f with { BandwidthShare = f.GbPerSecond / read })];

        static double MemoryAlone() => Ceilings.HostRead(1L << 29)!.Rate;
    }

    private static double Median(List<double> values)
    {
        values.Sort();
        return values[values.Count / 2];
    }

    private static double Loop()
    {
        List<double> times = [];
        for (var i = 0; i < 1001; i++)
        {
            var start = Stopwatch.GetTimestamp();
            RowParallel.For(1 << 12, 1 << 12, (_, _) => { });
            times.Add(Stopwatch.GetElapsedTime(start).TotalMicroseconds);
        }
        return Median(times);
    }
}
