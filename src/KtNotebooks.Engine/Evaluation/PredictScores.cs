using System.Text.Json;

using KtNotebooks.Files;
using KtNotebooks.Segmentation;

namespace KtNotebooks.Evaluation;

/// <summary>The scores of a finished prediction run, in predict_results.json.</summary>
internal static class PredictScores
{
    /// <summary>Null, with a note, where rows have no answer to compare with or jieba's dictionary is missing.</summary>
    public static TextScores? Write(string folder, PredictResult result, bool labelled, Action<string>? note, CancellationToken cancel)
    {
        if (!labelled)
        {
            note?.Invoke("no scores: not every row has an answer to compare with");
            return null;
        }
        try
        {
            var scores = TextScores.Mean(TextScores.OfAll(Predictions.Read(Path.Combine(folder, Predictions.FileName)), Jieba.Default, cancel));
            // A run that found all rows done has no speed; what the one that made them wrote stays.
            ResultsFile.Write(folder, "predict", [.. scores.All, .. result.Generated > 0 ? Speed(result) : Noted(folder)]);
            return scores;
        }
        catch (FileNotFoundException missing)
        {
            note?.Invoke($"no scores: {missing.Message}");
            return null;
        }
    }

    private static IEnumerable<(string, double)> Noted(string folder)
    {
        var path = Path.Combine(folder, ResultsFile.NameOf("predict"));
        if (!File.Exists(path)) return [];
        const string Split = "predict_";
        return ResultsFile.Read(path).Where(r => r.Key.StartsWith(Split, StringComparison.Ordinal) && r.Value?.GetValueKind() == JsonValueKind.Number)
            .Select(r => (r.Key[Split.Length..], r.Value!.GetValue<double>()))
            .Where(r => r.Item1 is "runtime" or "samples_per_second" or "tokens_per_second");
    }

    private static IEnumerable<(string, double)> Speed(PredictResult r) =>
    [
        ("runtime", Math.Round(r.Elapsed.TotalSeconds, 4)), ("samples_per_second", Math.Round(r.Generated / r.Elapsed.TotalSeconds, 3)),
        ("tokens_per_second", Math.Round(r.Tokens / r.Elapsed.TotalSeconds, 3)),
    ];
}
