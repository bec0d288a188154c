using System.Text.Json;

namespace KtNotebooks.Generation.Grammars;

/// <summary>Whether no value can be of two of a list of schemas, so that oneOf asks for no more than anyOf.</summary>
internal static class Exclusive
{
    /// <exception cref="ArgumentException">Two may overlap; they are named.</exception>
    public static void Require(JsonElement root, IReadOnlyList<JsonElement> schemas, string at)
    {
        JsonElement[] all = [.. schemas.Select(s => Bare(root, s, at, 0))];
        for (var i = 0; i < all.Length; i++)
            for (var j = 0; j < i; j++)
                if (!Differ(root, all[j], all[i], at))
                    throw new ArgumentException(
                        $"{at}: a value could be of {j} and of {i}, which oneOf forbids and which cannot be ruled out here; write anyOf");
    }

    private static bool Differ(JsonElement root, JsonElement a, JsonElement b, string at)
    {
        if (Types(a) is { } some && Types(b) is { } others && !some.Overlaps(others)) return true;
        if (Constants(a) is { } x && Constants(b) is { } y && !x.Overlaps(y)) return true;
        if (a.ValueKind != JsonValueKind.Object || b.ValueKind != JsonValueKind.Object) return false;
        return Required(a).Intersect(Required(b)).Any(name => Property(a, name) is { } p && Property(b, name) is { } q
            && Differ(root, Bare(root, p, at, 0), Bare(root, q, at, 0), at));
    }

    private static JsonElement Bare(JsonElement root, JsonElement schema, string at, int depth) =>
        depth < 20 && schema.ValueKind == JsonValueKind.Object && schema.TryGetProperty("$ref", out var reference)
            && reference.ValueKind == JsonValueKind.String
            ? Bare(root, Keywords.Resolve(root, reference.GetString()!, at), at, depth + 1) : schema;

    private static HashSet<string>? Types(JsonElement schema)
    {
        if (schema.ValueKind != JsonValueKind.Object || !schema.TryGetProperty("type", out var type)) return null;
        HashSet<string> types = type.ValueKind == JsonValueKind.Array ? [.. type.EnumerateArray().Select(t => t.ToString())] : [type.ToString()];
        if (types.Contains("number")) types.Add("integer");
        return types;
    }

    private static HashSet<string>? Constants(JsonElement schema)
    {
        if (schema.ValueKind != JsonValueKind.Object) return null;
        if (schema.TryGetProperty("const", out var one)) return [one.GetRawText()];
        return schema.TryGetProperty("enum", out var some) && some.ValueKind == JsonValueKind.Array
            ? [.. some.EnumerateArray().Select(v => v.GetRawText())] : null;
    }

    private static IEnumerable<string> Required(JsonElement schema) =>
        schema.TryGetProperty("required", out var names) && names.ValueKind == JsonValueKind.Array
        ? names.EnumerateArray().Select(n => n.ToString()) : [];

    private static JsonElement? Property(JsonElement schema, string name) =>
        schema.TryGetProperty("properties", out var all) && all.ValueKind == JsonValueKind.Object && all.TryGetProperty(name, out var one) ? one : null;
}
