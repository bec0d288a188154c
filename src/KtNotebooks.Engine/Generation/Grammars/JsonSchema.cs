using System.Text.Json;

using static KtNotebooks.Generation.Grammars.Rule;

namespace KtNotebooks.Generation.Grammars;

/// <summary>
/// From a JSON schema to a grammar of its values. Properties come in the schema's order. Keywords that only describe are passed over; one that restricts and
/// is not known here is refused by name, so that an answer is always of the schema that was given.
/// </summary>
internal sealed class JsonSchema
{
    private const int MostRules = 5000, Deepest = 200;

    private static readonly HashSet<string> Describing = ["title", "description", "default", "examples", "example", "$schema", "$id", "id", "$comment",
        "deprecated", "readOnly", "writeOnly", "$defs", "definitions", "strict", "contentMediaType", "$anchor", "discriminator"];

    private static readonly HashSet<string> NumberFormats = ["int32", "int64", "uint8", "int8", "int16", "uint16", "uint32", "uint64", "float", "double",
        "decimal"];

    private readonly JsonElement _root;
    private readonly Dictionary<string, Reference> _references = new(StringComparer.Ordinal);
    private int _rules, _depth;

    private JsonSchema(JsonElement root) => _root = root;

    /// <exception cref="ArgumentException">A schema that is none, or has a keyword that is not known here; its place is named.</exception>
    public static Rule Compile(JsonElement schema) => new JsonSchema(schema).Of(schema, "#");

    private Rule Of(JsonElement schema, string at)
    {
        if (++_rules > MostRules) throw new ArgumentException($"the schema has more than {MostRules} parts");
        if (++_depth > Deepest) throw new ArgumentException($"{at}: the schema is too deep");
        try
        {
            return schema.ValueKind switch
            {
                JsonValueKind.True => JsonRules.Value,
                JsonValueKind.Object => OfObject(new Keywords(schema, at)),
                _ => throw new ArgumentException($"{at} must be a schema: an object, or true"),
            };
        }
        finally
        {
            _depth--;
        }
    }

    private Rule OfObject(Keywords k)
    {
        if (k.Get("$ref") is { } reference)
        {
            k.Finish(Describing);
            return Referred(Text(reference, k.At("$ref")), k.Path);
        }
        if (k.Get("const") is { } constant) return Values([constant], k);
        if (k.Get("enum") is { } values)
        {
            if (values.ValueKind != JsonValueKind.Array || values.GetArrayLength() == 0)
                throw new ArgumentException($"{k.At("enum")} must be a list of values");
            return Values(values.EnumerateArray(), k);
        }
        if (k.Get("allOf") is { } all)
        {
            if (all.ValueKind != JsonValueKind.Array || all.GetArrayLength() != 1) throw Unknown(k.At("allOf"), "of more than one schema");
            k.Finish(Describing);
            return Of(all[0], k.At("allOf/0"));
        }
        if ((k.Get("anyOf") ?? k.Get("oneOf")) is { } any)
        {
            var name = k.Has("anyOf") ? "anyOf" : "oneOf";
            if (any.ValueKind != JsonValueKind.Array || any.GetArrayLength() == 0) throw new ArgumentException($"{k.At(name)} must be a list of schemas");
            if (name == "oneOf") Exclusive.Require(_root, [.. any.EnumerateArray()], k.At(name));
            k.Get("type"); // beside them it only repeats what they say, in the schemas that tools make
            k.Finish(Describing);
            return Any([.. any.EnumerateArray().Select((s, i) => Of(s, k.At($"{name}/{i}")))]);
        }
        string[] types = k.Get("type") switch
        {
            null => [],
            { ValueKind: JsonValueKind.String } one => [one.GetString()!],
            { ValueKind: JsonValueKind.Array } some => [.. some.EnumerateArray().Select((t, i) => Text(t, k.At($"type/{i}")))],
            _ => throw new ArgumentException($"{k.At("type")} must be a word or a list of words"),
        };
        if (types.Length == 0) types = k.Has("properties") ? ["object"] : k.Has("items") ? ["array"] : [];
        if (types.Length == 0)
        {
            k.Finish(Describing);
            return JsonRules.Value;
        }
        var rule = Any([.. types.Select(t => OfType(t, k))]);
        k.Finish(Describing);
        return rule;
    }

    private Rule OfType(string type, Keywords k) => type switch
    {
        "null" => JsonRules.Null,
        "boolean" => JsonRules.Boolean,
        "integer" => Numbers(k, whole: true),
        "number" => Numbers(k, whole: false),
        "string" => Strings(k),
        "array" => Arrays(k),
        "object" => Objects(k),
        _ => throw new ArgumentException($"{k.At("type")}: there is no type '{type}'; types are string, number, integer, boolean, null, array and object"),
    };

    private static Rule Values(IEnumerable<JsonElement> values, Keywords k)
    {
        k.Get("type"); // the values say it
        k.Finish(Describing);
        return Any([.. values.Select(v => Literal(JsonSerializer.Serialize(v, GrammarJson.Readable.JsonElement)))]);
    }

    private static Rule Strings(Keywords k)
    {
        var (least, most) = (k.Count("minLength") ?? 0, k.Count("maxLength") ?? int.MaxValue);
        if (least > most) throw new ArgumentException($"{k.At("minLength")} is more than maxLength");
        if (k.Get("format") is { } format)
        {
            if (k.Has("minLength") || k.Has("maxLength") || k.Has("pattern")) throw Unknown(k.At("format"), "beside a length or a pattern");
            return TextRules.Format(Text(format, k.At("format"))) ?? throw Unknown(k.At("format"), $"'{format}'");
        }
        if (k.Get("pattern") is { } pattern)
        {
            if (k.Has("minLength") || k.Has("maxLength")) throw Unknown(k.At("pattern"), "beside a length");
            return TextRules.Pattern(Text(pattern, k.At("pattern")), k.At("pattern"));
        }
        return JsonRules.Text(least, most);
    }

    private static Rule Numbers(Keywords k, bool whole)
    {
        if (k.Get("format") is { } format && !NumberFormats.Contains(Text(format, k.At("format")))) throw Unknown(k.At("format"), $"'{format}'");
        if (k.Number("multipleOf") is { } step && !(whole && step == 1)) throw Unknown(k.At("multipleOf"), $"{step}");
        var (min, above) = (k.Number("minimum"), k.Number("exclusiveMinimum"));
        var (max, below) = (k.Number("maximum"), k.Number("exclusiveMaximum"));
        var (openLow, openHigh) = (above is not null && !(min > above), below is not null && !(max < below));
        double? low = openLow ? above : min, high = openHigh ? below : max;
        if (low is null && high is null) return whole ? JsonRules.Integer : JsonRules.Number;
        return whole ? NumberRules.Integers(NumberRules.LeastInteger(low, openLow), -NumberRules.LeastInteger(-high, openHigh))
            : NumberRules.Decimals(low, openLow, high, openHigh);
    }

    private Rule Arrays(Keywords k)
    {
        var (least, most) = (k.Count("minItems") ?? 0, k.Count("maxItems") ?? int.MaxValue);
        if (least > most) throw new ArgumentException($"{k.At("minItems")} is more than maxItems");
        if (k.Get("uniqueItems") is { ValueKind: JsonValueKind.True }) throw Unknown(k.At("uniqueItems"), "true");
        return JsonRules.Array(k.Get("items") is { } items ? Of(items, k.At("items")) : JsonRules.Value, least, most);
    }

    private Rule Objects(Keywords k)
    {
        var properties = k.Get("properties");
        var more = k.Get("additionalProperties");
        string[] required = k.Get("required") switch
        {
            null => [],
            { ValueKind: JsonValueKind.Array } names => [.. names.EnumerateArray().Select((n, i) => Text(n, k.At($"required/{i}")))],
            _ => throw new ArgumentException($"{k.At("required")} must be a list of names"),
        };
        if (properties is not { ValueKind: JsonValueKind.Object } named || !named.EnumerateObject().Any())
        {
            if (properties is not null and not { ValueKind: JsonValueKind.Object }) throw new ArgumentException($"{k.At("properties")} must be an object");
            if (required.Length > 0) throw new ArgumentException($"{k.At("required")} names '{required[0]}', which is no property");
            if (more is { ValueKind: JsonValueKind.False }) return Literal("{}");
            return more is null or { ValueKind: JsonValueKind.True } ? JsonRules.AnyObject
                : JsonRules.Object(Of(more.Value, k.At("additionalProperties")), 0, int.MaxValue);
        }
        // What the schema allows besides is not written: an answer without it is of the schema too.
        if (more is { ValueKind: JsonValueKind.Object } besides) _ = Of(besides, k.At("additionalProperties"));
        JsonProperty[] all = [.. named.EnumerateObject()];
        if (required.FirstOrDefault(r => all.All(p => p.Name != r)) is { } missing)
            throw new ArgumentException($"{k.At("required")} names '{missing}', which is no property");
        // From behind: what may follow where some property stands before, and where none does.
        Rule after = new Sequence([]), first = new Sequence([]);
        for (var i = all.Length - 1; i >= 0; i--)
        {
            var member = Rule.Of(Literal(JsonSerializer.Serialize(all[i].Name, GrammarJson.Readable.String)), JsonRules.Colon,
                Of(all[i].Value, k.At($"properties/{all[i].Name}")));
            var (with, alone) = (Rule.Of(JsonRules.Comma, member, after), Rule.Of(member, after));
            (after, first) = required.Contains(all[i].Name) ? (with, alone) : (Any(with, after), Any(alone, first));
        }
        return Rule.Of(Literal("{"), first, Literal("}"));
    }

    private Reference Referred(string reference, string at)
    {
        if (_references.TryGetValue(reference, out var known)) return known;
        var rule = _references[reference] = new Reference();
        rule.Target = Of(Keywords.Resolve(_root, reference, at), reference);
        return rule;
    }

    private static string Text(JsonElement value, string at) =>
        value.ValueKind == JsonValueKind.String ? value.GetString()! : throw new ArgumentException($"{at} must be a string");

    private static ArgumentException Unknown(string at, string what) => new($"{at} {what} is not supported");
}
