using System.CommandLine;
using System.Diagnostics;

using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Models;
using KtNotebooks.Tokenizers;
using KtNotebooks.Training;

namespace KtNotebooks.Cli;

/// <summary>
/// kt data check: what a configuration's data becomes, before any model is loaded: the first example with its mask, counts, cut rows, and every row that is
/// left out.
/// </summary>
internal static class DataCheck
{
    public static Command Create()
    {
        var arguments = new Argument<string[]>("CONFIG")
        {
            Description = "a YAML file of kt train and key=value pairs over it, or key=value pairs alone",
            Arity = ArgumentArity.OneOrMore,
        };
        var command = new Command("check",
            "Encode a configuration's data and show it: kt data check [CONFIG.yaml] model_name_or_path=FOLDER dataset=NAME template=deepseek …") { arguments };
        command.SetAction((parsed, cancel) => Task.Run(() => Run(parsed.GetValue(arguments)!, cancel)));
        return command;
    }

    private static int Run(string[] arguments, CancellationToken cancel)
    {
        var watch = Stopwatch.StartNew();
        var c = Settings.Read(arguments);
        var keys = FineTuneKeys.Read(c, outputToo: false); // a config that passes here passes in kt train
        foreach (var note in c.Finish("kt data check").Concat(keys.Notes)) Console.WriteLine(note);
        var (folder, settings) = (keys.ModelPath, keys.Data);
        var tokenizer = Tokenizer.Load(folder);
        if (keys.Objective.Stage != "pt" && settings.Template.Doubt(tokenizer) is { } doubt) Console.WriteLine($"note: {doubt}");
        var loaded = watch.Elapsed;
        var data = TrainingData.Load(settings, folder, keys.Objective.Encoder(settings, tokenizer), cancel);
        var encoded = watch.Elapsed;
        Console.WriteLine(FirstExampleReport.Of(data.Train[0], tokenizer));
        foreach (var (name, rows) in new[] { ("training", data.Train), ("held out", data.HeldOut) })
            if (rows.Length > 0)
                Console.WriteLine($"{name}: {rows.Sum(r => r.Starts.Length):N0} rows in {rows.Length:N0} sequences, "
                    + $"{rows.Sum(r => (long)r.Ids.Length):N0} tokens ({rows.Sum(r => (long)r.Targets):N0} learned), "
                    + $"longest {rows.Max(r => r.Ids.Length):N0}, {rows.Count(r => r.Starts.Length == 1 && r.Ids.Length >= settings.Cutoff)} at "
                    + $"cutoff_len {settings.Cutoff}");
        Console.WriteLine($"{data.Skipped.Count} rows left out{(data.Skipped.Count > 0 ? ":" : "")}");
        foreach (var line in data.Skipped)
            Console.WriteLine("  " + line);
        foreach (var remark in data.AllRemarks(Positions(folder)))
            Console.WriteLine($"note: {remark}");
        Console.WriteLine($"tokenizer loaded in {loaded.TotalSeconds:F2} s, rows {(data.FromCache ? "read from the cache" : "read and encoded")} in "
            + $"{(encoded - loaded).TotalSeconds:F2} s");
        return 0;
    }

    /// <summary>The longest sequence that the model was made for; null where the folder holds only a tokenizer.</summary>
    private static int? Positions(string folder)
    {
        var file = Path.Combine(folder, "config.json");
        return File.Exists(file) ? new ConfigFile(file).MaybeInt("max_position_embeddings") : null;
    }
}
