using System.Text.Json;

namespace KtNotebooks.Formats;

/// <summary>Fields of a quantization_config, each of which may be missing or of another type.</summary>
internal static class Json
{
    public static string Text(JsonElement block, string key, string missing = "") =>
        block.TryGetProperty(key, out var value) && value.ValueKind == JsonValueKind.String ? value.GetString()! : missing;

    /// <summary>−1 where there is no whole number.</summary>
    public static int Whole(JsonElement block, string key) => block.TryGetProperty(key, out var value) ? WholeOf(value) : -1;

    /// <summary>Empty where there is no list.</summary>
    public static IEnumerable<int> Wholes(JsonElement block, string key) => block.TryGetProperty(key, out var list) && list.ValueKind == JsonValueKind.Array
        ? list.EnumerateArray().Select(WholeOf) : [];

    private static int WholeOf(JsonElement value) => value.ValueKind == JsonValueKind.Number && value.TryGetInt32(out var whole) ? whole : -1;
}
