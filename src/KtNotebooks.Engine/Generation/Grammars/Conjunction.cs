using System.Text.Json;
using System.Text.Json.Nodes;

namespace KtNotebooks.Generation.Grammars;

/// <summary>
/// One schema from several that hold together: `allOf`, and what stands beside `$ref`, `anyOf` and `oneOf`. Values of the result are of all of them. Parts
/// that both have are put together keyword by keyword; for parts within (a property, the items) an `allOf` is left, which is put together when it is met.
/// </summary>
/// <param name="root">Where `#/…` is looked up.</param>
internal sealed class Conjunction(JsonElement root)
{
    /// <summary>A schema that refers to one that refers to one …</summary>
    private const int Deepest = 50;

    /// <summary>The same schema without `$ref` and `allOf` at its own level: an object, or true or false.</summary>
    /// <exception cref="ArgumentException">Two schemas have parts that cannot be put together; the keyword is named.</exception>
    public JsonElement Flatten(JsonElement schema, string at)
    {
        try
        {
            return Flatten(schema, at, 0);
        }
        catch (InvalidOperationException error) // of JsonElement, where a keyword's value is no number, list or object
        {
            throw new ArgumentException($"{at} has a keyword whose value is of the wrong type", error);
        }
    }

    /// <summary>A schema, and others beside it, each put together with it.</summary>
    public JsonElement[] Each(JsonElement beside, IReadOnlyList<JsonElement> options, string at) =>
        [.. options.Select((option, i) => Flatten(All(beside, option), $"{at}/{i}"))];

    /// <summary>Two flat schemas at once; false where their types leave nothing.</summary>
    private static JsonElement Both(JsonElement a, JsonElement b, string at)
    {
        if (a.ValueKind != JsonValueKind.Object || b.ValueKind != JsonValueKind.Object) return Trivial(a, b);
        if (a.TryGetProperty("type", out var some) && b.TryGetProperty("type", out var others) && Types(some, others).Length == 0)
            return Element(JsonValue.Create(false));
        var all = JsonObject.Create(a.Clone())!;
        foreach (var keyword in b.EnumerateObject())
            all[keyword.Name] = a.TryGetProperty(keyword.Name, out var other) ? Node(Keyword(keyword.Name, other, keyword.Value, at)) : Node(keyword.Value);
        Close(all, a, b);
        Close(all, b, a);
        return Element(all);
    }

    /// <summary>A schema but for some keywords.</summary>
    public static JsonElement Without(JsonElement schema, params string[] keywords)
    {
        var rest = JsonObject.Create(schema.Clone())!;
        foreach (var keyword in keywords) rest.Remove(keyword);
        return Element(rest);
    }

    private JsonElement Flatten(JsonElement schema, string at, int depth)
    {
        if (depth > Deepest) throw new ArgumentException("the form refers to itself without anything between");
        if (schema.ValueKind != JsonValueKind.Object) return schema;
        var flat = Without(schema, "$ref", "allOf");
        if (schema.TryGetProperty("$ref", out var reference))
        {
            if (reference.ValueKind != JsonValueKind.String) throw new ArgumentException($"{at}/$ref must be a string");
            flat = Both(flat, Flatten(Keywords.Resolve(root, reference.GetString()!, at), at, depth + 1), at);
        }
        if (schema.TryGetProperty("allOf", out var all))
        {
            if (all.ValueKind != JsonValueKind.Array || all.GetArrayLength() == 0) throw new ArgumentException($"{at}/allOf must be a list of schemas");
            foreach (var part in all.EnumerateArray()) flat = Both(flat, Flatten(part, at, depth + 1), at);
        }
        return flat;
    }

    /// <summary>What one schema says of properties that it does not name holds for those that the other names.</summary>
    private static void Close(JsonObject all, JsonElement one, JsonElement other)
    {
        if (!one.TryGetProperty("additionalProperties", out var besides) || besides.ValueKind == JsonValueKind.True) return;
        if (!other.TryGetProperty("properties", out var others) || others.ValueKind != JsonValueKind.Object) return;
        if (one.TryGetProperty("patternProperties", out _)) throw Apart("patternProperties", "#");
        var named = one.TryGetProperty("properties", out var own) && own.ValueKind == JsonValueKind.Object ? own : default;
        foreach (var property in others.EnumerateObject())
            if (named.ValueKind != JsonValueKind.Object || !named.TryGetProperty(property.Name, out _))
                all["properties"]![property.Name] = Node(All(property.Value, besides));
    }

    private static JsonElement Keyword(string name, JsonElement a, JsonElement b, string at)
    {
        if (JsonElement.DeepEquals(a, b)) return a;
        switch (name)
        {
            case "type": return Element(new JsonArray([.. Types(a, b).Select(t => (JsonNode)t)]));
            case "required":
                var names = a.EnumerateArray().Concat(b.EnumerateArray()).Select(v => v.ToString()).Distinct();
                return Element(new JsonArray([.. names.Select(v => (JsonNode)v)]));
            case "properties":
                var all = JsonObject.Create(a.Clone())!;
                foreach (var p in b.EnumerateObject()) all[p.Name] = Node(a.TryGetProperty(p.Name, out var other) ? All(other, p.Value) : p.Value);
                return Element(all);
            case "items" or "additionalProperties" or "propertyNames": return All(a, b);
            case "minimum" or "exclusiveMinimum" or "minLength" or "minItems" or "minProperties": return a.GetDouble() > b.GetDouble() ? a : b;
            case "maximum" or "exclusiveMaximum" or "maxLength" or "maxItems" or "maxProperties": return a.GetDouble() < b.GetDouble() ? a : b;
            case "enum":
                JsonElement[] shared = [.. a.EnumerateArray().Where(v => b.EnumerateArray().Any(w => JsonElement.DeepEquals(v, w)))];
                return Element(new JsonArray([.. shared.Select(Node)]));
            case "anyOf": return Element(new JsonArray([.. a.EnumerateArray().SelectMany(v => b.EnumerateArray().Select(w => Node(All(v, w))))]));
            default: return JsonSchema.Describes(name) ? a : throw Apart(name, at);
        }
    }

    /// <summary>The types of both; a number's is a whole one's too.</summary>
    private static string[] Types(JsonElement a, JsonElement b)
    {
        HashSet<string> some = Words(a), others = Words(b);
        return [.. some.Where(t => others.Contains(t) || (t == "integer" && others.Contains("number"))),
            .. others.Where(t => t == "integer" && some.Contains("number") && !some.Contains("integer"))];

        static HashSet<string> Words(JsonElement type) =>
            type.ValueKind == JsonValueKind.Array ? [.. type.EnumerateArray().Select(t => t.ToString())] : [type.ToString()];
    }

    private static JsonElement All(JsonElement a, JsonElement b) => IsTrivial(a) || IsTrivial(b) ? Trivial(a, b)
        : Element(new JsonObject { ["allOf"] = new JsonArray(Node(a), Node(b)) });

    /// <summary>Of two schemas of which one is true, false or {}: false, where one is; else the one that says more.</summary>
    private static JsonElement Trivial(JsonElement a, JsonElement b) =>
        a.ValueKind == JsonValueKind.False ? a : b.ValueKind == JsonValueKind.False ? b : IsTrivial(a) ? b : a;

    private static bool IsTrivial(JsonElement schema) => schema.ValueKind is JsonValueKind.True or JsonValueKind.False
        || (schema.ValueKind == JsonValueKind.Object && !schema.EnumerateObject().Any());

    private static ArgumentException Apart(string keyword, string at) => new($"{at}/{keyword} of two schemas at once is not supported");

    private static JsonNode? Node(JsonElement value) => JsonNode.Parse(value.GetRawText());

    private static JsonElement Element(JsonNode node)
    {
        using var document = JsonDocument.Parse(node.ToJsonString());
        return document.RootElement.Clone();
    }
}
