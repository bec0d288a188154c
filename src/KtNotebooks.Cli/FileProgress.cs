using System.Diagnostics;
using System.Globalization;

using KtNotebooks.Weights;

namespace KtNotebooks.Cli;

/// <summary>Shows the progress of long work on files: a bar with speed and ETA, or a line every two seconds where the output is no terminal.</summary>
internal static class FileProgress
{
    /// <summary>Runs work that reports; returns its last report.</summary>
    public static WorkProgress Follow(string title, Action<Action<WorkProgress>> run)
    {
        var last = default(WorkProgress);
        ProgressLine.Follow(title, line =>
        {
            run(p =>
            {
                last = p;
                line.Report(p.Done, p.Total, $"{title} {Describe(p)}");
            });
            return last;
        }, patience: TimeSpan.FromSeconds(2));
        return last;
    }

    /// <summary>
    /// Opens what loads a model: one line that is written over while it comes in, and one that stays. Where the output is no terminal the last one alone,
    /// and a line every half minute of a long load. No live display, since whoever opens may write lines of its own.
    /// </summary>
    /// <param name="open">Loads, and reports.</param>
    /// <param name="cancel">Looked at with every report: nothing is lost when loading stops.</param>
    public static T Load<T>(Func<Action<WorkProgress>, T> open, CancellationToken cancel = default)
    {
        var (last, next, width, terminal) = (default(WorkProgress), TimeSpan.FromSeconds(30), 0, !ProgressLine.IsPlain && !Console.IsOutputRedirected);
        try
        {
            var opened = open(p =>
            {
                cancel.ThrowIfCancellationRequested();
                if (p.Unit != last.Unit) Loaded();
                last = p;
                var line = p.Unit is null ? $"loading {Describe(p)}" : Describe(p);
                if (terminal)
                {
                    if (width == 0 && p.Elapsed < TimeSpan.FromSeconds(0.5)) return;
                    line = line.Length < Console.WindowWidth ? line : line[..Math.Max(1, Console.WindowWidth - 1)]; // a wrapped line could not be written over
                    Console.Write($"\r{line.PadRight(width)}");
                    width = line.Length;
                }
                else if (p.Elapsed >= next)
                {
                    next = p.Elapsed + TimeSpan.FromSeconds(30);
                    Console.WriteLine(line);
                }
            });
            Loaded();
            return opened;
        }
        catch when (width > 0)
        {
            Console.WriteLine();
            throw;
        }

        // The line that stays of what has come to its end.
        void Loaded()
        {
            if (width > 0) Console.Write($"\r{new string(' ', width)}\r");
            (width, next) = (0, TimeSpan.FromSeconds(30));
            if (last.Total == 0) return;
            Console.WriteLine(last.Unit is { } unit ? $"{last.What}: {last.Done:N0} {unit} in {last.Elapsed.TotalSeconds:F1} s"
                : $"loaded {last.What}: {Size(last.Done)} read or mapped in {last.Elapsed.TotalSeconds:F1} s, {last.PerSecond / 1e9:F2} GB/s");
        }
    }

    public static string Summary(WorkProgress p) => $"{Size(p.Done)} in {p.Elapsed.TotalSeconds:F1} s, {p.PerSecond / 1e9:F2} GB/s; {PeakMemory}";

    /// <summary>The largest resident size of this process so far, mapped pages included (VmHWM).</summary>
    public static string PeakMemory
    {
        get
        {
            using var self = Process.GetCurrentProcess();
            return $"peak memory {self.PeakWorkingSet64 / 1e6:F0} MB";
        }
    }

    public static string Size(long bytes) => bytes switch
    {
        >= 1_000_000_000 => (bytes / 1e9).ToString("F2", CultureInfo.InvariantCulture) + " GB",
        >= 1_000_000 => (bytes / 1e6).ToString("F1", CultureInfo.InvariantCulture) + " MB",
        _ => (bytes / 1e3).ToString("F1", CultureInfo.InvariantCulture) + " kB",
    };

    private static string Describe(WorkProgress p) => p.Unit is { } unit
        ? $"{p.What}  {p.Done:N0} of {p.Total:N0} {unit}  {p.PerSecond:N0} {unit}/s  ETA {p.Remaining:hh\\:mm\\:ss}"
        : $"{p.What}  {Size(p.Done)} of {Size(p.Total)}  {p.PerSecond / 1e9:F2} GB/s  ETA {p.Remaining:hh\\:mm\\:ss}";
}
