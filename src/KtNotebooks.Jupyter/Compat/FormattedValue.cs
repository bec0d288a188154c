using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Interactive;

namespace Microsoft.DotNet.Interactive.Formatting;

/// <summary>A value that already is text of a MIME type.</summary>
public sealed class FormattedValue(string mimeType, string value)
{
    public string MimeType { get; } = mimeType;

    public string Value { get; } = value;

    internal MimeBundle Bundle()
    {
        var bundle = new MimeBundle(Value);
        return MimeType == Formatter.PlainMimeType ? bundle : bundle.With(MimeType, Data(MimeType, Value));
    }

    /// <summary>The protocol wants JSON types as JSON and not as a string that holds it.</summary>
    internal static object Data(string mimeType, string text)
    {
        if (mimeType != "application/json" && !mimeType.EndsWith("+json", StringComparison.Ordinal)) return text;
        try
        {
            return JsonNode.Parse(text) ?? (object)text;
        }
        catch (JsonException e)
        {
            throw new InvalidDataException($"[display] {mimeType} must be valid JSON: {e.Message}", e);
        }
    }
}
