using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Files;

namespace KtNotebooks.Evaluation;

/// <summary>LLaMA-Factory's result files: {split}_results.json with keys {split}_name, sorted and indented, and all_results.json, in which those of all splits come together.</summary>
public static class ResultsFile
{
    private static readonly JsonSerializerOptions Indented = new() { WriteIndented = true, IndentSize = 4 };

    public static void Write(string folder, string split, IReadOnlyList<(string Name, double Value)> values)
    {
        ArgumentNullException.ThrowIfNull(values);
        SortedDictionary<string, JsonNode?> results = new(StringComparer.Ordinal);
        foreach (var (name, value) in values) results[$"{split}_{name}"] = value;
        Save(Path.Combine(folder, $"{split}_results.json"), results);
        var all = Path.Combine(folder, "all_results.json");
        if (File.Exists(all))
            foreach (var (name, value) in Read(all)) results.TryAdd(name, value?.DeepClone());
        Save(all, results);
    }

    /// <exception cref="InvalidDataException">Not a JSON object.</exception>
    public static JsonObject Read(string path)
    {
        try
        {
            return JsonNode.Parse(File.ReadAllText(path)) as JsonObject ?? throw new InvalidDataException($"{path}: wanted one JSON object of names and numbers");
        }
        catch (JsonException error)
        {
            throw new InvalidDataException($"{path}: not valid JSON: {error.Message}");
        }
    }

    private static void Save(string path, SortedDictionary<string, JsonNode?> results) =>
        AtomicFile.WriteText(path, new JsonObject(results.Select(r => KeyValuePair.Create(r.Key, r.Value?.DeepClone()))).ToJsonString(Indented) + "\n");
}
