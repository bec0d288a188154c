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
        "deprecated", "readOnly", "writeOnly", "$defs", "definitions", "strict", "contentMediaType", "contentEncoding", "$anchor", "discriminator", "xml",
        "externalDocs"];

    private readonly JsonElement _root;
    private readonly Conjunction _conjunction;
    private readonly Dictionary<string, Reference> _references = new(StringComparer.Ordinal);
    private int _rules, _depth;

    private JsonSchema(JsonElement root) => (_root, _conjunction) = (root, new Conjunction(root));

    /// <summary>A keyword that restricts nothing; `x-…` are OpenAPI's own notes.</summary>
    public static bool Describes(string keyword) => Describing.Contains(keyword) || keyword.StartsWith("x-", StringComparison.Ordinal);

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
                JsonValueKind.False => throw new ArgumentException($"{at} allows no value"),
                JsonValueKind.Object => OfObject(schema, at),
                _ => throw new ArgumentException($"{at} must be a schema: an object, or true"),
            };
        }
        finally
        {
            _depth--;
        }
    }

    private Rule OfObject(JsonElement schema, string at)
    {
        if (schema.TryGetProperty("$ref", out var reference) && schema.EnumerateObject().All(p => p.Name == "$ref" || Describes(p.Name)))
            return Referred(Text(reference, $"{at}/$ref"), () => Of(Keywords.Resolve(_root, reference.GetString()!, at), reference.GetString()!));
        // Kept by its text: a schema that holds itself within is met again and again, each time newly put together.
        if (schema.TryGetProperty("$ref", out _) || schema.TryGetProperty("allOf", out _))
            return Referred(schema.GetRawText(), () => Of(_conjunction.Flatten(schema, at), at));
        foreach (var name in (string[])["anyOf", "oneOf"])
            if (schema.TryGetProperty(name, out var any)) return OfOptions(name, any, Conjunction.Without(schema, name), at);
        return OfTypes(new Keywords(schema, at));
    }

    /// <summary>One of several schemas, each with what stands beside them.</summary>
    private Rule OfOptions(string name, JsonElement any, JsonElement beside, string at)
    {
        if (any.ValueKind != JsonValueKind.Array || any.GetArrayLength() == 0) throw new ArgumentException($"{at}/{name} must be a list of schemas");
        JsonElement[] options = [.. any.EnumerateArray()];
        if (!beside.EnumerateObject().All(p => Describes(p.Name))) options = _conjunction.Each(beside, options, $"{at}/{name}");
        if (name == "oneOf") Exclusive.Require(_root, options, $"{at}/{name}");
        var possible = options.Index().Where(o => o.Item.ValueKind != JsonValueKind.False).ToList();
        return possible.Count > 0 ? Any([.. possible.Select(o => Of(o.Item, $"{at}/{name}/{o.Index}"))])
            : throw new ArgumentException($"{at}/{name} allows no value");
    }

    private Rule OfTypes(Keywords k)
    {
        string[] types = k.Get("type") switch
        {
            null => [],
            { ValueKind: JsonValueKind.String } one => [one.GetString()!],
            { ValueKind: JsonValueKind.Array } some => [.. some.EnumerateArray().Select((t, i) => Text(t, k.At($"type/{i}")))],
            _ => throw new ArgumentException($"{k.At("type")} must be a word or a list of words"),
        };
        var rule = k.Get("const") is { } constant ? Values([constant], types, k)
            : k.Get("enum") is not { } values ? null
            : values.ValueKind == JsonValueKind.Array ? Values(values.EnumerateArray(), types, k)
            : throw new ArgumentException($"{k.At("enum")} must be a list of values");
        if (types.Length == 0) types = k.Has("properties") ? ["object"] : k.Has("items") || k.Has("prefixItems") ? ["array"] : [];
        rule ??= types.Length == 0 ? JsonRules.Value : Any([.. types.Select(t => OfType(t, k))]);
        k.Finish(keyword => Describes(keyword) || IsForeign(keyword, types));
        return rule;
    }

    /// <summary>A keyword for values of another type, which restricts none of these: .NET's exporter writes `items: {}` beside every `$ref`.</summary>
    private static bool IsForeign(string keyword, string[] types) => types.Length > 0 && keyword switch
    {
        "items" or "prefixItems" or "minItems" or "maxItems" or "uniqueItems" or "contains" => !types.Contains("array"),
        "properties" or "required" or "additionalProperties" or "propertyNames" or "patternProperties" or "minProperties" or "maxProperties" =>
            !types.Contains("object"),
        "minimum" or "maximum" or "exclusiveMinimum" or "exclusiveMaximum" or "multipleOf" => !types.Contains("number") && !types.Contains("integer"),
        "minLength" or "maxLength" or "pattern" => !types.Contains("string"),
        "format" => !types.Contains("string") && !types.Contains("number") && !types.Contains("integer"),
        _ => false,
    };

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

    private static Rule Values(IEnumerable<JsonElement> values, string[] types, Keywords k)
    {
        Rule[] fitting = [.. values.Where(v => types.Length == 0 || types.Any(t => IsOf(v, t)))
            .Select(v => Literal(JsonSerializer.Serialize(v, GrammarJson.Readable.JsonElement)))];
        return fitting.Length > 0 ? Any(fitting) : throw new ArgumentException($"{k.Path}: the values of enum are none of its type");
    }

    private static bool IsOf(JsonElement value, string type) => type switch
    {
        "null" => value.ValueKind == JsonValueKind.Null,
        "boolean" => value.ValueKind is JsonValueKind.True or JsonValueKind.False,
        "integer" => value.ValueKind == JsonValueKind.Number && value.TryGetDouble(out var number) && number == Math.Floor(number),
        "number" => value.ValueKind == JsonValueKind.Number,
        "string" => value.ValueKind == JsonValueKind.String,
        "array" => value.ValueKind == JsonValueKind.Array,
        _ => value.ValueKind == JsonValueKind.Object,
    };

    private static Rule Strings(Keywords k)
    {
        var (least, most) = (k.Count("minLength") ?? 0, k.Count("maxLength") ?? int.MaxValue);
        if (least > most) throw new ArgumentException($"{k.At("minLength")} is more than maxLength");
        // A format that is not known only describes: JSON Schema lets it (2020-12, Validation, 7.2.1).
        if (k.Get("format") is { } name && TextRules.Format(Text(name, k.At("format"))) is { } format)
            return !k.Has("minLength") && !k.Has("maxLength") && !k.Has("pattern") ? format : throw Unknown(k.At("format"), "beside a length or a pattern");
        if (k.Get("pattern") is { } pattern)
        {
            if (k.Has("minLength") || k.Has("maxLength")) throw Unknown(k.At("pattern"), "beside a length");
            return TextRules.Pattern(Text(pattern, k.At("pattern")), k.At("pattern"));
        }
        return JsonRules.Text(least, most);
    }

    private static Rule Numbers(Keywords k, bool whole)
    {
        k.Get("format"); // describes
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
        JsonElement[] first = k.Get("prefixItems") switch
        {
            null => [],
            { ValueKind: JsonValueKind.Array } some => [.. some.EnumerateArray()],
            _ => throw new ArgumentException($"{k.At("prefixItems")} must be a list of schemas"),
        };
        var items = k.Get("items");
        if (items is { ValueKind: JsonValueKind.False }) most = Math.Min(most, first.Length);
        if (least > most) throw new ArgumentException($"{k.At("minItems")} is more than there may be");
        var rest = items is { ValueKind: not JsonValueKind.False } item ? Of(item, k.At("items")) : JsonRules.Value;
        return JsonRules.Array([.. first.Take(most).Select((s, i) => Of(s, k.At($"prefixItems/{i}")))], rest, least, most);
    }

    private Rule Objects(Keywords k)
    {
        string[] required = k.Get("required") switch
        {
            null => [],
            { ValueKind: JsonValueKind.Array } names => [.. names.EnumerateArray().Select((n, i) => Text(n, k.At($"required/{i}")))],
            _ => throw new ArgumentException($"{k.At("required")} must be a list of names"),
        };
        var (least, most) = (k.Count("minProperties") ?? 0, k.Count("maxProperties") ?? int.MaxValue);
        if (least > most) throw new ArgumentException($"{k.At("minProperties")} is more than maxProperties");
        JsonProperty[] named = k.Get("properties") switch
        {
            null => [],
            { ValueKind: JsonValueKind.Object } some => [.. some.EnumerateObject()],
            _ => throw new ArgumentException($"{k.At("properties")} must be an object"),
        };
        if (required.FirstOrDefault(r => !named.Any(p => p.Name == r && p.Value.ValueKind != JsonValueKind.False)) is { } missing)
            throw new ArgumentException($"{k.At("required")} names '{missing}', which is no property");
        return named.Length > 0 ? Named(named, required, least, most, k) : Free(least, most, k);
    }

    /// <summary>An object of any names.</summary>
    private Rule Free(int least, int most, Keywords k)
    {
        // Names could be alike, and alike ones are one property.
        if (least > 1) throw Unknown(k.At("minProperties"), $"{least} without names");
        var (more, names, patterns) = (k.Get("additionalProperties"), k.Get("propertyNames"), k.Get("patternProperties"));
        var name = names is { } rule ? Of(rule, k.At("propertyNames")) : JsonRules.AnyString;
        var value = more is { ValueKind: not JsonValueKind.False } besides ? Of(besides, k.At("additionalProperties")) : JsonRules.Value;
        if (patterns is { } some)
        {
            if (names is not null) throw Unknown(k.At("patternProperties"), "beside propertyNames");
            if (some.ValueKind != JsonValueKind.Object || some.EnumerateObject().Count() != 1)
                throw Unknown(k.At("patternProperties"), "of more than one pattern");
            var only = some.EnumerateObject().First();
            (name, value) = (TextRules.Pattern(only.Name, k.At("patternProperties")), Of(only.Value, k.At($"patternProperties/{only.Name}")));
        }
        else if (more is { ValueKind: JsonValueKind.False }) most = 0;
        if (least > most) throw new ArgumentException($"{k.At("minProperties")} is more than there may be");
        return JsonRules.Object(name, value, least, most);
    }

    /// <summary>An object of the properties that are named, in their order. What the schema allows besides is not written: it need not be.</summary>
    private Rule Named(JsonProperty[] all, string[] required, int least, int most, Keywords k)
    {
        foreach (var besides in (string[])["additionalProperties", "propertyNames"])
            if (k.Get(besides) is { ValueKind: JsonValueKind.Object } schema) _ = Of(schema, k.At(besides));
        if (k.Has("patternProperties")) throw Unknown(k.At("patternProperties"), "beside properties");
        if (least > Math.Max(1, required.Length)) throw Unknown(k.At("minProperties"), $"{least}, which is more than are required");
        if (most < all.Length) throw Unknown(k.At("maxProperties"), $"{most}, which is fewer than are named");
        // From behind: what may follow where some property stands before, and where none does (null: nothing may).
        Rule after = new Sequence([]);
        var first = least > 0 && required.Length == 0 ? null : after;
        for (var i = all.Length - 1; i >= 0; i--)
        {
            if (all[i].Value.ValueKind == JsonValueKind.False) continue; // never there
            var member = Rule.Of(Literal(JsonSerializer.Serialize(all[i].Name, GrammarJson.Readable.String)), JsonRules.Colon,
                Of(all[i].Value, k.At($"properties/{all[i].Name}")));
            var (with, alone) = (Rule.Of(JsonRules.Comma, member, after), Rule.Of(member, after));
            var isRequired = required.Contains(all[i].Name);
            (after, first) = isRequired ? (with, alone) : (Any(with, after), first is null ? alone : Any(alone, first));
        }
        return first is null ? throw new ArgumentException($"{k.At("minProperties")} is more than there may be") : Rule.Of(Literal("{"), first, Literal("}"));
    }

    private Reference Referred(string key, Func<Rule> make)
    {
        if (_references.TryGetValue(key, out var known)) return known;
        var rule = _references[key] = new Reference();
        rule.Target = make();
        return rule;
    }

    private static string Text(JsonElement value, string at) =>
        value.ValueKind == JsonValueKind.String ? value.GetString()! : throw new ArgumentException($"{at} must be a string");

    private static ArgumentException Unknown(string at, string what) => new($"{at} {what} is not supported");
}
