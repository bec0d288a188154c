using System.Text;

using KtNotebooks.Evaluation;
using KtNotebooks.Files;

namespace KtNotebooks.Interactive;

/// <summary>
/// Runs side by side: for each task a table of all scores with 95 % intervals and a bar chart. As parts for notebooks, and as a folder with report.md,
/// report.html and the pictures.
/// </summary>
public sealed class ScoreReport(IReadOnlyList<ScoredRun> runs)
{
    public IReadOnlyList<string> Tasks { get; } = [.. runs.Select(r => r.Task).Distinct()];

    /// <summary>A row for each run of a task, a column for each score that any of them has.</summary>
    public Table TableOf(string task)
    {
        var (of, names) = Of(task);
        var table = new Table(["run", .. names, "from"]) { Caption = $"{task}: percent, mean over rows [95 % bootstrap interval]" };
        foreach (var run in of)
            table.Row([run.Published ? $"{run.Name} (published)" : run.Name,
                .. names.Select(n => run.Scores.TryGetValue(n, out var e) ? run.Published ? $"{e.Mean:F2}" : e.ToString() : ""), run.Source]);
        return table;
    }

    /// <summary>Groups of bars by score, one bar for each run, error bars where rows are known.</summary>
    public BarChart ChartOf(string task)
    {
        var (of, names) = Of(task);
        var chart = new BarChart(task, names, y: "percent")
        {
            Subtitle = of.Any(r => r.Published) ? "error bars: 95 % of bootstrap means; published figures are of other models and rows"
                : "error bars: 95 % of bootstrap means",
            Width = 760,
        };
        foreach (var run in of)
        {
            Estimate? At(string name) => run.Scores.TryGetValue(name, out var e) ? e : null;
            chart.Add(run.Published ? $"{run.Name} (published)" : run.Name, names.Select(n => At(n)?.Mean ?? double.NaN),
                names.Select(n => At(n) is { } e ? (e.Low, e.High) : (double.NaN, double.NaN)));
        }
        return chart;
    }

    /// <summary>Writes report.md, report.html and TASK.png into a folder; the same runs give the same files.</summary>
    public void Save(string folder)
    {
        Directory.CreateDirectory(folder);
        var markdown = new StringBuilder("# Scores\n");
        var page = new HtmlReport("Scores");
        foreach (var task in Tasks)
        {
            var (table, chart, picture) = (TableOf(task), ChartOf(task), $"{string.Concat(task.Select(c => char.IsAsciiLetterOrDigit(c) ? c : '-'))}.png");
            chart.SavePng(Path.Combine(folder, picture));
            markdown.Append($"\n## {task}\n\n{table.ToMarkdown()}\n\n![{task}]({picture})\n");
            page.Heading(task).Add(table).Add(chart);
        }
        AtomicFile.WriteText(Path.Combine(folder, "report.md"), markdown.ToString());
        page.Save(Path.Combine(folder, "report.html"));
    }

    private (ScoredRun[] Runs, string[] Names) Of(string task)
    {
        ScoredRun[] of = [.. runs.Where(r => r.Task == task)];
        return (of, [.. ScoredRun.Names.Where(n => of.Any(r => r.Scores.ContainsKey(n)))]);
    }
}
