using System.Text;
using System.Text.Json;

namespace KtNotebooks.Data;

/// <summary>CSV by RFC 4180: a header line, commas, quotes doubled inside quotes, line breaks allowed inside quotes. An empty field is null.</summary>
internal static class CsvReader
{
    /// <exception cref="InvalidDataException">A row has another number of fields than the header, or a quote is not closed.</exception>
    public static IEnumerable<Row> Read(string file, string text)
    {
        string[]? header = null;
        var line = 1;
        for (var at = 0; at < text.Length;)
        {
            var firstLine = line;
            var fields = Record(file, text, ref at, ref line);
            if (fields is [null])
                continue; // an empty line
            if (header is null)
            {
                header = [.. fields.Select(f => f ?? "")];
                if (header.Distinct().Count() < header.Length)
                    throw new InvalidDataException($"{file}:1: two columns of the header have the same name.");
                continue;
            }
            if (fields.Count != header.Length)
                throw new InvalidDataException($"{file}:{firstLine}: the row has {fields.Count} fields, the header {header.Length}. A field with a comma or a line break needs quotes around it.");
            var row = new Dictionary<string, string?>(header.Length);
            for (var i = 0; i < header.Length; i++)
                row[header[i]] = fields[i];
            yield return new Row(JsonSerializer.SerializeToElement(row), $"{file}:{firstLine}");
        }
    }

    private static List<string?> Record(string file, string text, ref int at, ref int line)
    {
        var fields = new List<string?>();
        for (; ; )
        {
            fields.Add(Field(file, text, ref at, ref line));
            if (at < text.Length && text[at] == ',')
            {
                at++;
                continue;
            }
            if (at < text.Length && text[at] == '\r')
                at++;
            if (at < text.Length && text[at] == '\n')
                at++;
            line++;
            return fields;
        }
    }

    private static string? Field(string file, string text, ref int at, ref int line)
    {
        if (at >= text.Length || text[at] != '"')
        {
            var length = text.AsSpan(at).IndexOfAny(",\r\n");
            var field = length < 0 ? text[at..] : text.Substring(at, length);
            at += field.Length;
            return field.Length == 0 ? null : field;
        }
        var firstLine = line;
        var quoted = new StringBuilder();
        for (at++; ; at++)
        {
            if (at >= text.Length)
                throw new InvalidDataException($"{file}:{firstLine}: a quote that opens a field is never closed.");
            if (text[at] == '\n')
                line++;
            if (text[at] != '"')
                quoted.Append(text[at]);
            else if (at + 1 < text.Length && text[at + 1] == '"')
                quoted.Append(text[at++]);
            else
                break;
        }
        at++;
        if (at < text.Length && text[at] is not (',' or '\r' or '\n'))
            throw new InvalidDataException($"{file}:{line}: something follows the closing quote of a field; quotes inside a field are doubled.");
        return quoted.Length == 0 ? null : quoted.ToString();
    }
}
