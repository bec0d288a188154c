using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Data;

namespace KtNotebooks.Evaluation;

/// <summary>
/// A row of generated_predictions.jsonl: the whole prompt with its special tokens, what the model said, what it should have said (both without).
/// </summary>
public sealed record Prediction(string Prompt, string Predict, string Label);

/// <summary>LLaMA-Factory's generated_predictions.jsonl: one object a line, keys in this order, characters beyond ASCII as they are.</summary>
public static class Predictions
{
    public const string FileName = "generated_predictions.jsonl";

    private static readonly JsonSerializerOptions Readable = new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    public static string ToLine(Prediction row)
    {
        ArgumentNullException.ThrowIfNull(row);
        return new JsonObject { ["prompt"] = row.Prompt, ["predict"] = row.Predict, ["label"] = row.Label }.ToJsonString(Readable) + "\n";
    }

    /// <summary>Reads prompt, predict and label of every row; a missing prompt is empty, other keys are ignored.</summary>
    /// <param name="path">The file, or the output folder of a prediction run that holds one.</param>
    /// <exception cref="FileNotFoundException">No such file.</exception>
    /// <exception cref="InvalidDataException">A line is no such row; file and line are named.</exception>
    public static List<Prediction> Read(string path)
    {
        if (Directory.Exists(path)) path = Path.Combine(path, FileName);
        if (!File.Exists(path)) throw new FileNotFoundException($"{path}: no such file", path);
        var rows = RowReader.Read(path).Select(row => new Prediction(Text(row, "prompt") ?? "", Required(row, "predict"), Required(row, "label"))).ToList();
        return rows.Count > 0 ? rows : throw new InvalidDataException($"{path}: no rows; wanted one object with prompt, predict and label on each line");
    }

    private static string Required(Row row, string key) => Text(row, key)
        ?? throw new InvalidDataException($"{row.Source}: no '{key}' in this row; wanted an object with prompt, predict and label");

    private static string? Text(Row row, string key)
    {
        if (!row.Fields.TryGetProperty(key, out var value) || value.ValueKind == JsonValueKind.Null) return null;
        return value.ValueKind == JsonValueKind.String ? value.GetString()
            : throw new InvalidDataException($"{row.Source}: '{key}' must be a string, but is {RowReader.KindName(value)}");
    }
}
