using System.CommandLine;
using System.Diagnostics;
using System.Text.Json.Nodes;

using KtNotebooks.Distributed;
using KtNotebooks.Evaluation;
using KtNotebooks.Files;
using KtNotebooks.Segmentation;
using KtNotebooks.Training;

namespace KtNotebooks.Cli;

/// <summary>`kt eval`: scores of a file of predictions, or of a model on a data set.</summary>
internal static class EvalCommand
{
    public static Command Create()
    {
        var arguments = new Argument<string[]>(Commands.Config)
        {
            Description = "a YAML file and key=value pairs over it: score a model on eval_dataset (multiple choice, or token accuracy and loss); or what "
                + "--predictions takes",
            Arity = ArgumentArity.ZeroOrMore,
        };
        var predictions = new Option<string?>("--predictions")
        {
            Description = "score this file of rows with predict and label (generated_predictions.jsonl, or the folder that holds it) instead",
        };
        var json = new Option<bool>("--json") { Description = "print one JSON object instead of a table" };
        var save = new Option<string?>("--save") { Description = "also write the JSON object into this file" };
        var command = new Command("eval",
            "Scores of predictions (LLaMA-Factory's bleu-4 and rouge-1/2/l, KTransformers' kt-bleu-1 … 4): kt eval FOLDER; or of a model (multiple choice two "
                + "ways, token accuracy): kt eval model_name_or_path=FOLDER template=NAME eval_dataset=NAME output_dir=FOLDER")
        {
            arguments, predictions, json, save
        };
        command.SetAction((parsed, cancel) => Task.Run(() =>
        {
            var given = parsed.GetValue(arguments) ?? [];
            var file = parsed.GetValue(predictions);
            if (file is null && given is [var only]
                && (only.EndsWith(".jsonl", StringComparison.Ordinal) || File.Exists(Path.Combine(only, Predictions.FileName)))) (file, given) = (only, []);
            if (file is null == (given.Length == 0))
                throw new ArgumentException("what to score? Either kt eval --predictions FILE.jsonl, or kt eval CONFIG.yaml key=value … with a model and "
                    + "eval_dataset");
            var quiet = parsed.GetValue(json);
            var ranks = Together.Join(cancel);
            Print(file is null ? Model(given, ranks, quiet, cancel) : Score(file, quiet, cancel), quiet, ranks.IsFirst() ? parsed.GetValue(save) : null);
            return 0;
        }, CancellationToken.None));
        return command;
    }

    private static IReadOnlyList<(string Name, double Value)> Score(string path, bool quiet, CancellationToken cancel)
    {
        var rows = Predictions.Read(path);
        if (!quiet) Console.WriteLine($"{rows.Count} rows of {path}");
        return [.. TextScores.Mean(TextScores.OfAll(rows, Jieba.Default, cancel)).All, .. ChoiceScores.OfPredictions(rows)?.All ?? []];
    }

    private static IReadOnlyList<(string Name, double Value)> Model(string[] arguments, ICollective ranks, bool quiet, CancellationToken cancel)
    {
        if (Together.Alone(ranks, RemoteRun.Open(arguments, evaluates: true, cancel)) is { } remote) return Remote(remote, quiet, cancel);
        using var run = quiet ? EvalRun.Open(null, arguments, ranks, cancel)
            : FileProgress.Load(report => EvalRun.Open(report, arguments, ranks, cancel), cancel);
        foreach (var line in ranks.IsFirst() ? run.Notes.Concat(run.LeftOut) : []) Console.Error.WriteLine(line);
        var watch = Stopwatch.StartNew();
        var next = TimeSpan.FromSeconds(2);
        run.OnProgress += text =>
        {
            if (quiet || watch.Elapsed < next) return;
            next = watch.Elapsed + TimeSpan.FromSeconds(2);
            Console.WriteLine(text);
        };
        var result = run.Run(cancel);
        if (!quiet) Console.WriteLine($"{result.Rows} rows in {TrainerLog.Duration(result.Elapsed)}, {result.Rows / result.Elapsed.TotalSeconds:F0} rows/s");
        return result.All;
    }

    private static IReadOnlyList<(string Name, double Value)> Remote(RemoteRun run, bool quiet, CancellationToken cancel)
    {
        using (run)
        {
            foreach (var line in run.Notes.Concat(run.LeftOut)) Console.Error.WriteLine(line);
            if (!quiet) run.OnNote += Console.WriteLine;
            return run.Evaluate(cancel).All;
        }
    }

    private static void Print(IReadOnlyList<(string Name, double Value)> scores, bool json, string? save)
    {
        var text = new JsonObject(scores.Select(s => KeyValuePair.Create(s.Name, (JsonNode?)s.Value))).ToJsonString();
        if (save is not null) AtomicFile.WriteText(save, text + "\n");
        if (json) Console.WriteLine(text);
        else foreach (var (name, value) in scores) Console.WriteLine($"{name,-20}{value,10:F4}");
    }
}
