using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;

namespace KtNotebooks.Configuration;

/// <summary>Writes flat YAML mappings: a line a key.</summary>
public static partial class YamlText
{
    private static readonly JsonSerializerOptions Readable = new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    /// <summary>`key: value` lines. Texts stand in quotes where they would mean something else without.</summary>
    public static string Of(IEnumerable<(string Key, JsonNode? Value)> entries)
    {
        ArgumentNullException.ThrowIfNull(entries);
        var text = new StringBuilder();
        foreach (var (key, value) in entries) text.Append(Scalar(key)).Append(": ").Append(Value(value)).Append('\n');
        return text.ToString();
    }

    /// <summary>A text as a scalar.</summary>
    public static string Scalar(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        // a JSON string is a YAML string
        return Plain().IsMatch(text) && text.ToLowerInvariant() is not ("null" or "~") ? text : JsonSerializer.Serialize(text, Readable);
    }

    /// <summary>
    /// The value of a `key=value` pair that says a text as it stands: a pair's is YAML, where `You are: a cat` is a block. Lists and blocks are taken when they
    /// begin like one.
    /// </summary>
    public static string PairValue(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        return text is "" or "null" || text[0] is '[' or '{' || Bare().IsMatch(text) ? text : JsonSerializer.Serialize(text, Readable);
    }

    private static string Value(JsonNode? value) => value switch
    {
        null => "null",
        JsonArray list => $"[{string.Join(", ", list.Select(Value))}]",
        _ when value.GetValueKind() == JsonValueKind.String => Scalar(value.GetValue<string>()),
        _ => value.ToJsonString(Readable),
    };

    [GeneratedRegex(@"^[\w./,+-]+$")]
    private static partial Regex Bare();

    [GeneratedRegex(@"^[\w./+-](?:[\w./+, -]*[\w./+-])?$")]
    private static partial Regex Plain();
}
