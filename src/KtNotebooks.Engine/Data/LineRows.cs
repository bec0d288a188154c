using System.Text.Json;
using KtNotebooks.Files;

namespace KtNotebooks.Data;

/// <summary>JSON lines: one object a line, empty lines skipped. A file that begins with the bracket of a list is read as that list.</summary>
internal static class LineRows
{
    /// <exception cref="InvalidDataException">A line is not one object; file and line are named.</exception>
    public static IEnumerable<Row> Read(string file)
    {
        if (IsList(file))
        {
            foreach (var row in JsonRows.ReadList(file)) yield return row;
            yield break;
        }
        using var lines = RowReader.Open(file);
        for (var line = 1; ; line++)
        {
            var length = LengthOf(lines, $"{file}:{line}");
            if (Parse(lines.Span[..length], $"{file}:{line}") is { } row) yield return row;
            if (length == lines.Span.Length) yield break; // the last line, which nothing ends
            lines.Take(length + 1);
        }
    }

    private static bool IsList(string file)
    {
        using var window = RowReader.Open(file);
        return window.FirstExcept(RowReader.Blank) == (byte)'[';
    }

    /// <summary>The bytes up to the end of the line, or of the file.</summary>
    internal static int LengthOf(ByteWindow window, string place)
    {
        var seen = 0;
        while (window.Span[seen..].IndexOf((byte)'\n') is var at)
        {
            if (at >= 0) return seen + at;
            seen = window.Span.Length;
            if (!window.Fill("the line", place)) break;
        }
        return seen;
    }

    private static Row? Parse(ReadOnlySpan<byte> line, string source)
    {
        if (line.IndexOfAnyExcept(" \t\r"u8) < 0) return null;
        try
        {
            var reader = new Utf8JsonReader(line);
            var row = JsonElement.ParseValue(ref reader);
            return line[(int)reader.BytesConsumed..].IndexOfAnyExcept(" \t\r"u8) < 0
                ? RowReader.Checked(row, source)
                : throw new InvalidDataException($"{source}: something follows the object on this line; JSON lines hold one row a line.");
        }
        catch (JsonException e)
        {
            throw new InvalidDataException($"{source}: not valid JSON at byte {e.BytePositionInLine + 1} of the line: {JsonSource.Reason(e)}", e);
        }
    }
}
