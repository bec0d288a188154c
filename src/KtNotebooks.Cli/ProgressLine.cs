using System.Diagnostics;

using Spectre.Console;

namespace KtNotebooks.Cli;

/// <summary>
/// How far work is: a bar that is written over, or a line every two seconds where the output is no terminal. What else is to be said meanwhile goes
/// through <see cref="Note"/>, so that it stands above the bar and does not tear it in two.
/// </summary>
internal sealed class ProgressLine
{
    private static readonly TimeSpan Pause = TimeSpan.FromSeconds(2);
    private readonly ProgressTask? _bar;
    private readonly Stopwatch _watch = Stopwatch.StartNew();
    private TimeSpan _next;

    /// <summary>No bar, whatever the output is.</summary>
    public static bool IsPlain { get; set; }

    private ProgressLine(ProgressTask? bar, TimeSpan first) => (_bar, _next) = (bar, first);

    /// <summary>Runs work that reports.</summary>
    /// <param name="title">Stands before the bar until the first report.</param>
    /// <param name="work">Reports to what it is given.</param>
    /// <param name="patience">Where there is no bar, no line before that.</param>
    public static T Follow<T>(string title, Func<ProgressLine, T> work, TimeSpan patience = default)
    {
        if (IsPlain || Console.IsOutputRedirected) return work(new ProgressLine(null, patience));
        var description = new TaskDescriptionColumn { Alignment = Justify.Left };
        return AnsiConsole.Progress().AutoClear(false).Columns(description, new ProgressBarColumn(), new PercentageColumn())
            .Start(context => work(new ProgressLine(context.AddTask(Markup.Escape(title)), default)));
    }

    /// <param name="done">Of <paramref name="total"/>.</param>
    /// <param name="text">In words. The last report is always shown.</param>
    public void Report(double done, double total, string text)
    {
        if (_bar is not null)
        {
            (_bar.MaxValue, _bar.Value, _bar.Description) = (Math.Max(1, total), done, Markup.Escape(text));
            return;
        }
        if (_watch.Elapsed < _next && done < total) return;
        _next = _watch.Elapsed + Pause;
        Console.WriteLine(text);
    }

    /// <summary>A line that stays.</summary>
    public void Note(string line)
    {
        if (_bar is null) Console.WriteLine(line);
        else AnsiConsole.WriteLine(line);
    }
}
