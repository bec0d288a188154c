using System.Globalization;
using System.Text;
using System.Text.Json;

namespace KtNotebooks.Data;

/// <summary>JSON as Python's json.dumps(…, ensure_ascii=False) spells it: ", " and ": " between parts. Models have seen tool calls in this spelling.</summary>
internal static class PythonJson
{
    /// <param name="json">What to write; numbers keep their spelling.</param>
    /// <param name="indent">Spaces a level, or null for one line.</param>
    public static string Dump(JsonElement json, int? indent = null)
    {
        var text = new StringBuilder();
        Write(text, json, indent, 0);
        return text.ToString();
    }

    public static string Quote(string value)
    {
        var text = new StringBuilder();
        Write(text, value);
        return text.ToString();
    }

    private static void Write(StringBuilder text, JsonElement json, int? indent, int level)
    {
        switch (json.ValueKind)
        {
            case JsonValueKind.Object:
                Items(text, '{', '}', json.EnumerateObject(), indent, level, property =>
                {
                    Write(text, property.Name);
                    text.Append(": ");
                    Write(text, property.Value, indent, level + 1);
                });
                break;
            case JsonValueKind.Array:
                Items(text, '[', ']', json.EnumerateArray(), indent, level, item => Write(text, item, indent, level + 1));
                break;
            case JsonValueKind.String:
                Write(text, json.GetString()!);
                break;
            default:
                text.Append(json.GetRawText());
                break;
        }
    }

    private static void Items<T>(StringBuilder text, char open, char close, IEnumerable<T> items, int? indent, int level, Action<T> write)
    {
        text.Append(open);
        var first = true;
        foreach (var item in items)
        {
            text.Append(first ? "" : indent is null ? ", " : ",");
            if (indent is int width)
                text.Append('\n').Append(' ', width * (level + 1));
            first = false;
            write(item);
        }
        if (!first && indent is int spaces)
            text.Append('\n').Append(' ', spaces * level);
        text.Append(close);
    }

    private static void Write(StringBuilder text, string value)
    {
        text.Append('"');
        foreach (var c in value)
            _ = c switch
            {
                '"' => text.Append("\\\""),
                '\\' => text.Append("\\\\"),
                '\n' => text.Append("\\n"),
                '\r' => text.Append("\\r"),
                '\t' => text.Append("\\t"),
                '\b' => text.Append("\\b"),
                '\f' => text.Append("\\f"),
                < ' ' => text.Append(CultureInfo.InvariantCulture, $"\\u{(int)c:x4}"),
                _ => text.Append(c),
            };
        text.Append('"');
    }
}
