using System.CommandLine;

using KtNotebooks.Evaluation;
using KtNotebooks.Interactive;
using KtNotebooks.Segmentation;

namespace KtNotebooks.Cli;

/// <summary>`kt report`: tables and bar charts of several runs.</summary>
internal static class ReportCommand
{
    public static Command Create()
    {
        var runs = new Argument<string[]>("RUNS")
        {
            Description = "TASK/NAME=FILE for each run, FILE being generated_predictions.jsonl or its folder",
            Arity = ArgumentArity.OneOrMore,
        };
        var output = new Option<string>("--out") { Description = "the folder for report.md, report.html and the charts", Required = true };
        var published = new Option<bool>("--published")
        {
            Description = "add the figures that KTransformers published for the tasks translationese, "
            + "afrimed-saq and afrimed-mcq"
        };
        var command = new Command("report", "Compare runs: tables with 95 % bootstrap intervals, and bar charts") { runs, output, published };
        command.SetAction(parsed => Run(parsed.GetValue(runs)!, parsed.GetRequiredValue(output), parsed.GetValue(published)));
        return command;
    }

    private static void Run(string[] arguments, string folder, bool published)
    {
        List<ScoredRun> runs = [];
        foreach (var argument in arguments)
        {
            var equals = argument.IndexOf('=', StringComparison.Ordinal);
            var slash = equals < 0 ? -1 : argument.IndexOf('/', 0, equals);
            if (slash <= 0 || slash + 1 == equals) throw new ArgumentException($"'{argument}' is not of the form TASK/NAME=FILE");
            runs.Add(ScoredRun.Load(argument[..slash], argument[(slash + 1)..equals], argument[(equals + 1)..], Jieba.Default));
        }
        if (published) runs.AddRange(ScoredRun.PublishedByKTransformers.Where(p => runs.Any(r => r.Task == p.Task)).ToArray());
        var report = new ScoreReport(runs);
        report.Save(folder);
        foreach (var task in report.Tasks) Console.WriteLine($"{report.TableOf(task).ToText()}\n");
        Console.WriteLine(Path.Combine(folder, "report.html"));
    }
}
