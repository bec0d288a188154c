using System.Text.Json;
using System.Text.Json.Nodes;

namespace KtNotebooks.Files;

/// <summary>
/// LLaMA-Factory's result files: {split}_results.json with keys {split}_name (and the few that every split shares, such as epoch), sorted and
/// indented, and all_results.json, in which those of all splits come together.
/// </summary>
public static class ResultsFile
{
    private const string All = "all_results.json";

    /// <summary>Names that stand without the split's before them.</summary>
    private static readonly string[] Shared = ["epoch", "total_flos", "num_input_tokens_seen", "effective_tokens_per_sec"];

    private static readonly JsonSerializerOptions Indented = new() { WriteIndented = true, IndentSize = 4 };

    /// <summary>The file of a split.</summary>
    public static string NameOf(string split) => $"{split}_results.json";

    /// <summary>The key of a value.</summary>
    public static string KeyOf(string split, string name) => Shared.Contains(name) ? name : $"{split}_{name}";

    /// <summary>Writes both files; what other splits left in all_results.json stays. Values that are no numbers are left out: JSON has none.</summary>
    /// <exception cref="InvalidDataException">all_results.json is there and damaged.</exception>
    public static void Write(string folder, string split, IReadOnlyList<(string Name, double Value)> values)
    {
        ArgumentNullException.ThrowIfNull(values);
        SortedDictionary<string, JsonNode?> results = new(StringComparer.Ordinal);
        foreach (var (name, value) in values)
            if (double.IsFinite(value)) results[KeyOf(split, name)] = value;
        Save(Path.Combine(folder, NameOf(split)), results);
        var all = Path.Combine(folder, All);
        if (File.Exists(all))
            foreach (var (name, value) in Read(all)) results.TryAdd(name, value?.DeepClone());
        Save(all, results);
    }

    /// <summary>Removes the results of a split, from all_results.json too: what they tell of is about to be replaced.</summary>
    public static void Clear(string folder, string split)
    {
        File.Delete(Path.Combine(folder, NameOf(split)));
        var all = Path.Combine(folder, All);
        if (!File.Exists(all)) return;
        var kept = Read(all).Where(result => !result.Key.StartsWith(split + "_", StringComparison.Ordinal)).ToList();
        if (kept.TrueForAll(result => Shared.Contains(result.Key))) File.Delete(all);
        else Save(all, new(kept.ToDictionary(result => result.Key, result => result.Value), StringComparer.Ordinal));
    }

    /// <exception cref="InvalidDataException">Not a JSON object.</exception>
    public static JsonObject Read(string path) => JsonObject.Create(JsonSource.Read(path, "results"))!;

    private static void Save(string path, SortedDictionary<string, JsonNode?> results) =>
        AtomicFile.WriteText(path, new JsonObject(results.Select(r => KeyValuePair.Create(r.Key, r.Value?.DeepClone()))).ToJsonString(Indented) + "\n");
}
