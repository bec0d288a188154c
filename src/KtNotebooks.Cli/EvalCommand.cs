using System.CommandLine;

using KtNotebooks.Evaluation;
using KtNotebooks.Files;
using KtNotebooks.Segmentation;

namespace KtNotebooks.Cli;

/// <summary>`kt eval`: scores of a file of predictions.</summary>
internal static class EvalCommand
{
    public static Command Create()
    {
        var predictions = new Option<string?>("--predictions") { Description = "score this file of rows with predict and label (generated_predictions.jsonl)" };
        var json = new Option<bool>("--json") { Description = "print one JSON object instead of a table" };
        var save = new Option<string?>("--save") { Description = "also write the JSON object into this file" };
        var command = new Command("eval", "Score predictions: LLaMA-Factory's bleu-4 and rouge-1/2/l, KTransformers' kt-bleu-1 … 4") { predictions, json, save };
        command.SetAction((parsed, cancel) => Task.Run(() => Score(parsed.GetValue(predictions) ?? throw new ArgumentException("what to score? kt eval --predictions FILE.jsonl"), parsed.GetValue(json), parsed.GetValue(save), cancel), CancellationToken.None));
        return command;
    }

    private static int Score(string path, bool json, string? save, CancellationToken cancel)
    {
        var rows = Predictions.Read(path);
        var scores = TextScores.Mean(TextScores.OfAll(rows, Jieba.Default, cancel));
        if (save is not null) AtomicFile.WriteText(save, scores.ToJson().ToJsonString() + "\n");
        if (json) Console.WriteLine(scores.ToJson().ToJsonString());
        else
        {
            Console.WriteLine($"{rows.Count} rows of {path}");
            foreach (var (name, value) in scores.All) Console.WriteLine($"{name,-10}{value,10:F4}");
        }
        return 0;
    }
}
