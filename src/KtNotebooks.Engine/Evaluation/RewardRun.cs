using System.Globalization;
using System.Text;
using System.Text.Json.Nodes;

using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Distributed;
using KtNotebooks.Files;
using KtNotebooks.Generation;
using KtNotebooks.Training;
using KtNotebooks.Training.Objectives;
using KtNotebooks.Weights;

namespace KtNotebooks.Evaluation;

/// <summary>What a reward model says of pairs.</summary>
/// <param name="Rows">Pairs.</param>
/// <param name="Accuracy">The share in which the chosen answer has the higher value.</param>
/// <param name="Margin">The mean difference of the values.</param>
public sealed record RewardResult(int Rows, double Accuracy, double Margin);

/// <summary>
/// `kt predict` with stage: rm. The values that a reward model gives to both answers of every pair of eval_dataset (or of what val_size held out), in
/// generated_predictions.jsonl as LLaMA-Factory writes them, and the share of pairs that are told rightly in predict_results.json.
/// </summary>
public static class RewardRun
{
    /// <summary>A config asks for it.</summary>
    public static bool IsAsked(IReadOnlyList<string> arguments) => Settings.Read(arguments).Text("stage") == "rm";

    /// <param name="arguments">A YAML file and key=value pairs over it.</param>
    /// <param name="loading">Told how far the model has come in.</param>
    /// <param name="note">Hears what a person should know.</param>
    /// <param name="cancel">Looked at with every row.</param>
    /// <exception cref="ArgumentException">No adapter, or results that are there.</exception>
    /// <exception cref="InvalidDataException">The adapter has no value head, or a row is no pair.</exception>
    public static RewardResult Run(IReadOnlyList<string> arguments, Action<WorkProgress>? loading = null, Action<string>? note = null,
        CancellationToken cancel = default) => Run(arguments, SingleRank.Instance, loading, note, cancel);

    /// <inheritdoc cref="Run(IReadOnlyList{string}, Action{WorkProgress}?, Action{string}?, CancellationToken)"/>
    /// <param name="ranks">The processes that share the pairs out; the first one writes.</param>
    public static RewardResult Run(IReadOnlyList<string> arguments, ICollective ranks, Action<WorkProgress>? loading, Action<string>? note,
        CancellationToken cancel)
    {
        ArgumentNullException.ThrowIfNull(ranks);
        var c = Settings.Read(arguments);
        var keys = ModelKeys.Read(c);
        c.OneOf("stage");
        var (output, overwrite, rowsAtOnce) = (c.Required("output_dir"), c.Flag("overwrite_output_dir"), c.Positive("per_device_eval_batch_size"));
        foreach (var key in (string[])["do_predict", "do_eval", "predict_with_generate"]) c.Flag(key);
        var valSize = c.Has("eval_dataset") ? 0 : c.Number("val_size");
        var data = new DataSettings
        {
            Folder = c.TextOrDefault("dataset_dir"),
            Names = c.Text("eval_dataset") ?? (valSize > 0 ? c.Required("dataset")
                : throw new ArgumentException($"{c.Name}: 'eval_dataset' is required (or 'dataset' with 'val_size')")),
            Template = keys.Template,
            TemplateGiven = keys.TemplateGiven,
            Cutoff = c.Positive("cutoff_len"),
            MaxSamples = c.MaybePositive("max_samples"),
            ValSize = valSize,
            Seed = c.Int("seed"),
        };
        foreach (var line in c.Finish("kt predict")) note?.Invoke(line);
        var adapter = keys.Adapter ?? (File.Exists(Path.Combine(keys.Path, RewardAdaptation.FileName)) ? keys.Path // its own weights were trained
            : throw new ArgumentException($"{c.Name}: 'adapter_name_or_path' is required: the reward model, as stage: rm left it"));
        if (!File.Exists(Path.Combine(adapter, RewardAdaptation.FileName)))
            throw new FileNotFoundException($"{adapter}: has no {RewardAdaptation.FileName}, so it is no reward model; kt train with stage: rm makes one");
        var file = Path.Combine(output, Predictions.FileName);
        if (File.Exists(file) && !overwrite)
            throw new ArgumentException($"{output} holds {Predictions.FileName}; choose another output_dir, or overwrite_output_dir=true");

        var (model, tokenizer) = keys.Load(loading);
        using (model)
        {
            var rows = TrainingData.Load(data, keys.Path, new PairEncoder(data, tokenizer), cancel);
            foreach (var line in rows.Notes(model.Info.MaxPositions)) note?.Invoke(line);
            model.ValueHead = RewardAdaptation.HeadOf(model, adapter);
            var pairs = valSize > 0 ? rows.HeldOut : rows.Train;
            SameRun.Require(ranks, [("what is run", "a prediction"), ("the build of kt", SameRun.Code), .. c.Given.Select(g => (g.Key, g.Value ?? "null")),
                ("rows of the data set (sha256)", FineTuneIdentity.HashOf(pairs))]);
            var (from, to) = ranks.PartOf(pairs.Length);
            var own = Values(pairs[from..to], rowsAtOnce, new StageWork(model, 8192, LayerMajorStep.HeadRows), cancel);
            (double Chosen, double Rejected)[] values = [.. ranks.AllGather([.. own.SelectMany(v => new[] { v.Chosen, v.Rejected })])
                .SelectMany(of => of.Chunk(2).Select(v => (v[0], v[1])))];
            var result = new RewardResult(values.Length, values.Average(v => v.Chosen > v.Rejected ? 1.0 : 0), values.Average(v => v.Chosen - v.Rejected));
            if (!ranks.IsFirst()) return result;
            Folders.Create(output, "output_dir");
            var text = new StringBuilder();
            foreach (var (chosen, rejected) in values)
                text.Append(new JsonObject { ["chosen"] = Math.Round(chosen, 6), ["rejected"] = Math.Round(rejected, 6) }.ToJsonString()).Append('\n');
            AtomicFile.WriteText(file, text.ToString());
            ResultsFile.Write(output, "predict", [("accuracy", result.Accuracy), ("margin", result.Margin)]);
            return result;
        }
    }

    /// <summary>A line for a person.</summary>
    public static string Describe(RewardResult result)
    {
        ArgumentNullException.ThrowIfNull(result);
        return string.Create(CultureInfo.InvariantCulture,
            $"{result.Rows:N0} pairs: the chosen answer has the higher value in {100 * result.Accuracy:F1} %, by {result.Margin:F3} on the mean");
    }

    private static IEnumerable<(double Chosen, double Rejected)> Values(EncodedExample[] rows, int atOnce, StageWork work, CancellationToken cancel)
    {
        foreach (var some in rows.Chunk(atOnce))
        {
            var batch = ExampleWindows.Batch(some, new RewardObjective());
            var values = work.Score(batch, Scores.Values, adapter: null, cancel).Policy;
            for (var s = 0; s < batch.Sequences; s += 2) yield return (values[batch.SeqStarts[s + 1] - 1], values[batch.SeqStarts[s + 2] - 1]);
        }
    }
}
