using System.Text.Json;

using KtNotebooks.Data;

namespace KtNotebooks.Server.Http;

/// <summary>
/// The fields of a JSON object of a request, asked for one by one. What nobody has asked for is refused by name (<see cref="Finish"/>), so that no field is
/// ever ignored. null counts as not given, as all clients mean it.
/// </summary>
internal sealed class JsonFields
{
    private readonly JsonElement _object;
    private readonly string _path;
    private readonly HashSet<string> _asked = new(StringComparer.Ordinal);

    /// <param name="value">Must be an object.</param>
    /// <param name="path">Where it stands: `messages[2]`; empty for the whole body.</param>
    public JsonFields(JsonElement value, string path = "")
    {
        (_object, _path) = (value, path);
        if (value.ValueKind != JsonValueKind.Object)
            throw new ApiException(400, $"{(path.Length == 0 ? "the body" : path)} must be a JSON object, but is {Kind(value)}", path.Length == 0 ? null : path,
                "invalid_type");
    }

    /// <summary>Where a field stands.</summary>
    public string At(string name) => _path.Length == 0 ? name : $"{_path}.{name}";

    /// <summary>The field as it is; null where it is not given.</summary>
    public JsonElement? Any(string name)
    {
        _asked.Add(name);
        return _object.TryGetProperty(name, out var value) && value.ValueKind != JsonValueKind.Null ? value : null;
    }

    public bool Has(string name) => Any(name) is not null;

    public string? Text(string name) => Any(name) is not { } value ? null
        : value.ValueKind == JsonValueKind.String ? value.GetString() : throw Type(name, "a string", value);

    public string RequiredText(string name) => Text(name) ?? throw Missing(name);

    public JsonElement Required(string name) => Any(name) ?? throw Missing(name);

    public bool? Flag(string name) => Any(name) is not { } value ? null : value.ValueKind switch
    {
        JsonValueKind.True => true,
        JsonValueKind.False => false,
        _ => throw Type(name, "true or false", value),
    };

    public int? Int(string name, int least, int most = int.MaxValue)
    {
        if (Any(name) is not { } value) return null;
        if (value.ValueKind != JsonValueKind.Number || !value.TryGetDouble(out var number) || number != Math.Floor(number))
            throw Type(name, "a whole number", value);
        if (number < least || number > most)
            throw ApiException.Wrong(At(name), (most == int.MaxValue && number < least ? $"must be at least {least}" : $"must be from {least} to {most}")
                + $", but is {Short(value)}");
        return (int)number;
    }

    public double? Number(string name, SamplingRange range)
    {
        if (Any(name) is not { } value) return null;
        if (value.ValueKind != JsonValueKind.Number || !value.TryGetDouble(out var number)) throw Type(name, "a number", value);
        return range.Has(number) ? number : throw ApiException.Wrong(At(name), $"must be {range.Words}, but is {Short(value)}");
    }

    /// <summary>One of a few words.</summary>
    public string? Word(string name, params string[] words) => Text(name) is not { } word ? null
        : words.Contains(word) ? word : throw ApiException.Wrong(At(name), $"must be one of {string.Join(", ", words)}, but is '{Cut(word)}'");

    public JsonFields? Object(string name) => Any(name) is { } value ? new JsonFields(value, At(name)) : null;

    /// <summary>The elements of a list with their places; empty where it is not given.</summary>
    public IReadOnlyList<(JsonElement Value, string Path)> List(string name, int most = int.MaxValue)
    {
        if (Any(name) is not { } value) return [];
        if (value.ValueKind != JsonValueKind.Array) throw Type(name, "a list", value);
        if (value.GetArrayLength() > most) throw ApiException.Wrong(At(name), $"may have {most} entries, but has {value.GetArrayLength()}");
        return [.. value.EnumerateArray().Select((v, i) => (v, $"{At(name)}[{i}]"))];
    }

    /// <summary>A string, or a list of some.</summary>
    public IReadOnlyList<string> Texts(string name, int most) => Any(name) is { ValueKind: JsonValueKind.String } one ? [one.GetString()!]
        : Any(name) is { ValueKind: not JsonValueKind.Array } other ? throw Type(name, "a string or a list of strings", other)
        : [.. List(name, most).Select(v => v.Value.ValueKind == JsonValueKind.String ? v.Value.GetString()!
            : throw new ApiException(400, $"{v.Path} must be a string, but is {Kind(v.Value)}", v.Path, "invalid_type"))];

    /// <summary>A field that is not to be had: refused unless it has a value that asks for nothing.</summary>
    public void Refuse(string name, string why, params string[] nothing)
    {
        if (Any(name) is not { } value || nothing.Any(n => value.ValueKind == JsonValueKind.String ? value.ValueEquals(n) : Same(value, n))) return;
        throw ApiException.Unsupported(At(name), why);
    }

    /// <summary>Refuses what nobody has asked for.</summary>
    public void Finish()
    {
        foreach (var field in _object.EnumerateObject())
            if (field.Value.ValueKind != JsonValueKind.Null && !_asked.Contains(field.Name))
                throw new ApiException(400, $"{At(Cut(field.Name))} is not a field that is known here.{Nearest.Hint(field.Name, [.. _asked])}",
                    At(Cut(field.Name)), "unknown_parameter");
    }

    public ApiException Missing(string name) => new(400, $"{At(name)} is required", At(name), "missing_required_parameter");

    public ApiException Type(string name, string wanted, JsonElement value) =>
        new(400, $"{At(name)} must be {wanted}, but is {Kind(value)}", At(name), "invalid_type");

    public static string Kind(JsonElement value) => value.ValueKind switch
    {
        JsonValueKind.Object => "an object",
        JsonValueKind.Array => "a list",
        JsonValueKind.String => $"the string {Short(value)}",
        JsonValueKind.Number => $"the number {Short(value)}",
        JsonValueKind.True => "true",
        JsonValueKind.False => "false",
        _ => "null",
    };

    /// <summary>However it is spaced.</summary>
    private static bool Same(JsonElement value, string json)
    {
        if (value.ValueKind is not (JsonValueKind.Object or JsonValueKind.Array)) return value.GetRawText() == json;
        if (!json.StartsWith('{') && !json.StartsWith('[')) return false;
        using var other = JsonDocument.Parse(json);
        return JsonElement.DeepEquals(value, other.RootElement);
    }

    private static string Short(JsonElement value) => Cut(value.GetRawText());

    /// <summary>As much of a text as one line of an error holds.</summary>
    public static string Cut(string text) => text.Length <= 60 ? text : text[..57] + "…";
}
