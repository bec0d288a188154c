using System.CommandLine;

using KtNotebooks.Distributed;
using KtNotebooks.Evaluation;
using KtNotebooks.Training;

namespace KtNotebooks.Cli;

/// <summary>`kt predict`: answers for all rows of a data set. Ctrl-C keeps what is there; the same command goes on.</summary>
internal static class PredictCommand
{
    public static Command Create()
    {
        var arguments = new Argument<string[]>("CONFIG")
        {
            Description = "a YAML file and key=value pairs over it, or key=value pairs alone",
            Arity = ArgumentArity.OneOrMore,
        };
        var command = new Command("predict",
            "Answer every row of a data set in batches: kt predict model_name_or_path=FOLDER [adapter_name_or_path=FOLDER] template=deepseek "
                + "eval_dataset=NAME output_dir=FOLDER …") { arguments };
        command.SetAction((parsed, cancel) => Task.Run(() => Run(parsed.GetValue(arguments)!, cancel)));
        return command;
    }

    private static int Run(string[] arguments, CancellationToken cancel)
    {
        var ranks = Together.Join(cancel);
        if (RewardRun.IsAsked(arguments))
        {
            Console.WriteLine(RewardRun.Describe(FileProgress.Load(report => RewardRun.Run(arguments, ranks, report, Console.WriteLine, cancel), cancel)));
            return 0;
        }
        using var run = Together.Alone(ranks, RemoteRun.Open(arguments, evaluates: false, cancel))
            ?? FileProgress.Load<IPredictRun>(report => PredictRun.Open(report, arguments, ranks, cancel), cancel);
        foreach (var note in run.Notes) Console.WriteLine(note);
        foreach (var line in ranks.IsFirst() ? run.LeftOut : []) Console.Error.WriteLine(line);
        var result = ProgressLine.Follow("starting", line =>
        {
            run.OnNote += line.Note;
            run.OnProgress += p => line.Report(p.Done, p.Total, Describe(p));
            return run.Run(cancel);
        });
        if (!ranks.IsFirst()) return result.Interrupted ? Signals.Stopped : 0;
        var output = run.OutputDir;
        if (result.Interrupted)
        {
            Console.WriteLine($"stopped with {result.Done} of {result.Total} rows; they are in {output}; the same "
                + $"command{(run.Overwrite ? " with overwrite_output_dir=false" : "")} goes on from there");
            return Signals.Stopped;
        }
        Console.WriteLine($"done: {result.Generated} rows, {result.Tokens:N0} tokens in {TrainerLog.Duration(result.Elapsed)}, "
            + $"{result.Tokens / result.Elapsed.TotalSeconds:N0} tokens/s; {Path.Combine(output, Predictions.FileName)}");
        foreach (var (name, value) in result.Scores?.All ?? []) Console.WriteLine($"{name,-10}{value,10:F4}");
        return 0;
    }

    private static string Describe(PredictProgress p) => $"row {p.Done}/{p.Total}  {p.TokensPerSecond:N0} tokens/s  ETA {TrainerLog.Duration(p.Remaining)}";
}
