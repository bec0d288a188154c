using System.Text.Json;
using System.Text.Json.Nodes;

namespace KtNotebooks.Files;

/// <summary>
/// A small JSON file beside a result: the settings that it was made with, by config key. Whoever goes on with the result compares its own first, so
/// that two runs never end up in one file.
/// </summary>
public static class NotedSettings
{
    private static readonly JsonSerializerOptions Indented =
        new() { WriteIndented = true, Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    public static void Write(string path, JsonObject settings)
    {
        ArgumentNullException.ThrowIfNull(settings);
        AtomicFile.WriteText(path, settings.ToJsonString(Indented) + "\n");
    }

    /// <summary>What stands there; null: no such file.</summary>
    /// <exception cref="InvalidDataException">Not a JSON object; file and line are named.</exception>
    public static JsonObject? Read(string path) => File.Exists(path) ? JsonObject.Create(JsonSource.Read(path, "noted settings")) : null;

    /// <summary>The settings that differ, as JSON text: those of <paramref name="now"/> in their order, then what was noted and is not there now.</summary>
    public static IEnumerable<(string Key, string Noted, string Now)> Differences(JsonObject noted, JsonObject now)
    {
        ArgumentNullException.ThrowIfNull(noted);
        ArgumentNullException.ThrowIfNull(now);
        foreach (var key in now.Select(s => s.Key).Concat(noted.Select(s => s.Key).Where(k => !now.ContainsKey(k))))
        {
            var (before, after) = (Text(noted[key]), Text(now[key]));
            if (before != after && !JsonNode.DeepEquals(JsonNode.Parse(before), JsonNode.Parse(after))) yield return (key, before, after);
        }
    }

    private static string Text(JsonNode? value) => value?.ToJsonString(Indented) ?? "null";
}
