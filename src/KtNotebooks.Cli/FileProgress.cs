using System.Diagnostics;
using System.Globalization;

using KtNotebooks.Weights;

using Spectre.Console;

namespace KtNotebooks.Cli;

/// <summary>Shows the progress of long work on files: a bar with speed and ETA, or a line every two seconds where the output is no terminal.</summary>
internal static class FileProgress
{
    /// <summary>Runs work that reports; returns its last report.</summary>
    public static WorkProgress Follow(string title, Action<Action<WorkProgress>> run)
    {
        var last = default(WorkProgress);
        if (Console.IsOutputRedirected)
        {
            var next = TimeSpan.FromSeconds(2);
            run(p =>
            {
                last = p;
                if (p.Elapsed < next) return;
                next = p.Elapsed + TimeSpan.FromSeconds(2);
                Console.WriteLine($"{title} {Describe(p)}");
            });
        }
        else
        {
            AnsiConsole.Progress().AutoClear(false).Columns(new TaskDescriptionColumn { Alignment = Justify.Left }, new ProgressBarColumn(), new PercentageColumn()).Start(context =>
            {
                var task = context.AddTask(title);
                run(p =>
                {
                    last = p;
                    (task.MaxValue, task.Value, task.Description) = (Math.Max(1, p.Total), p.Done, Markup.Escape($"{title} {Describe(p)}"));
                });
            });
        }
        return last;
    }

    public static string Summary(WorkProgress p) => $"{Size(p.Done)} in {p.Elapsed.TotalSeconds:F1} s, {p.BytesPerSecond / 1e9:F2} GB/s; {PeakMemory}";

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

    private static string Describe(WorkProgress p) => $"{p.What}  {Size(p.Done)} of {Size(p.Total)}  {p.BytesPerSecond / 1e9:F2} GB/s  ETA {p.Remaining:hh\\:mm\\:ss}";
}
