using System.Text.Json;

namespace KtNotebooks.Interactive;

/// <summary>
/// The pictures that LLaMA-Factory leaves in the output folder: training_loss.png, training_eval_loss.png, training_eval_accuracy.png, and one of each
/// metric of the stage (rewards/accuracies), with the raw values pale and the smoothed ones over them. "/" in a key becomes "_" in the file name.
/// </summary>
public static class TrainingLossPlot
{
    private static readonly string[] UsualKeys = ["loss", "eval_loss", "eval_accuracy"];

    /// <summary>The picture of one metric of a log history, or null when it has no values. Entries need "step" and the key.</summary>
    public static LineChart? Chart(IEnumerable<IReadOnlyDictionary<string, double>> logHistory, string key, string folder)
    {
        ArgumentNullException.ThrowIfNull(logHistory);
        var points = logHistory.Where(e => e.ContainsKey("step") && e.ContainsKey(key)).Select(e => (Step: e["step"], Value: e[key])).ToArray();
        return points.Length == 0 ? null
            : new LineChart($"training {key} of {folder}", x: "step", y: key) { Height = 480 }
                .AddSmoothed(points.Select(p => p.Step), points.Select(p => p.Value));
    }

    /// <summary>Writes the pictures of <paramref name="keys"/> (null: loss, eval_loss, eval_accuracy); keys without values are left out.</summary>
    /// <returns>The files written.</returns>
    public static IReadOnlyList<string> Save(IEnumerable<IReadOnlyDictionary<string, double>> logHistory, string folder, IEnumerable<string>? keys = null)
    {
        ArgumentException.ThrowIfNullOrEmpty(folder);
        var history = logHistory.ToArray();
        var written = new List<string>();
        foreach (var key in keys ?? UsualKeys)
            if (Chart(history, key, folder) is { } chart)
            {
                var path = Path.Combine(folder, $"training_{key.Replace('/', '_')}.png");
                chart.SavePng(path);
                written.Add(path);
            }
        return written;
    }

    /// <summary>
    /// The same from the folder's trainer_state.json. Evaluation keys of named data sets (eval_NAME_loss) and metrics of the stage are found by themselves.
    /// </summary>
    public static IReadOnlyList<string> SaveFromTrainerState(string folder)
    {
        var path = Path.Combine(folder, "trainer_state.json");
        if (!File.Exists(path)) throw new FileNotFoundException($"[TrainingLossPlot] no trainer_state.json in {folder}; train into this folder first", path);
        using var state = JsonDocument.Parse(File.ReadAllBytes(path));
        if (!state.RootElement.TryGetProperty("log_history", out var log) || log.ValueKind != JsonValueKind.Array)
            throw new InvalidDataException($"[TrainingLossPlot] {path}: wanted an array \"log_history\"");
        var history = log.EnumerateArray().Select(Numbers).ToArray();
        return Save(history, folder, UsualKeys.Concat(history.SelectMany(e => e.Keys).Where(k => IsEvaluation(k) || IsMetric(k))).Distinct());

        static Dictionary<string, double> Numbers(JsonElement entry) =>
            entry.EnumerateObject().Where(p => p.Value.ValueKind == JsonValueKind.Number).ToDictionary(p => p.Name, p => p.Value.GetDouble());

        static bool IsMetric(string key) => key.Contains('/', StringComparison.Ordinal) && !key.StartsWith("eval_", StringComparison.Ordinal);

        static bool IsEvaluation(string key) =>
            key.StartsWith("eval_", StringComparison.Ordinal)
            && (key.EndsWith("_loss", StringComparison.Ordinal) || key.EndsWith("_accuracy", StringComparison.Ordinal));
    }
}
