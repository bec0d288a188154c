using System.Text;
using System.Text.Json;
using System.Text.Unicode;

namespace KtNotebooks.Data;

/// <summary>A row of a file: an object of columns, and where it stands.</summary>
internal readonly record struct Row(JsonElement Fields, string Source);

/// <summary>Reads data files: a JSON array of objects, JSON lines, CSV, or a folder of files of one of these types.</summary>
internal static class RowReader
{
    private static readonly UTF8Encoding Strict = new(encoderShouldEmitUTF8Identifier: false, throwOnInvalidBytes: true);

    /// <summary>All rows of a file or folder, the files of a folder in the order of their names.</summary>
    /// <param name="path">File or folder.</param>
    /// <param name="limit">The most rows to read; null: all.</param>
    /// <exception cref="InvalidDataException">A row is not valid; the message names file, row and place.</exception>
    public static List<Row> Read(string path, int? limit = null)
    {
        var files = Directory.Exists(path) ? FilesOf(path) : [path];
        var rows = new List<Row>();
        foreach (var file in files)
        {
            var more = ReadFile(file);
            rows.AddRange(limit is int most ? more.Take(most - rows.Count) : more);
            if (rows.Count >= limit)
                break;
        }
        return rows;
    }

    /// <summary>Parses a whole JSON file; an error names file and line.</summary>
    public static JsonDocument ParseFile(string file)
    {
        try
        {
            var bytes = WithoutMark(File.ReadAllBytes(file));
            return Utf8.IsValid(bytes.Span) ? JsonDocument.Parse(bytes) : throw new InvalidDataException($"{file}: not UTF-8. Save the file as UTF-8.");
        }
        catch (JsonException e)
        {
            throw new InvalidDataException($"{file}: not valid JSON at line {e.LineNumber + 1}, byte {e.BytePositionInLine + 1}: {Reason(e)}", e);
        }
    }

    /// <summary>The line on which a key of a JSON file stands: the names of the objects around it, outermost first, then its own. 0: it is not there.</summary>
    public static long LineOf(string file, IReadOnlyList<string> path)
    {
        var bytes = WithoutMark(File.ReadAllBytes(file)).Span;
        var reader = new Utf8JsonReader(bytes);
        var open = new List<string>();
        while (reader.Read())
        {
            if (reader.TokenType != JsonTokenType.PropertyName) continue;
            open.RemoveRange(Math.Min(open.Count, reader.CurrentDepth - 1), Math.Max(0, open.Count - (reader.CurrentDepth - 1)));
            open.Add(reader.GetString()!);
            if (open.SequenceEqual(path)) return bytes[..(int)reader.TokenStartIndex].Count((byte)'\n') + 1;
        }
        return 0;
    }

    /// <summary>What a JSON value is, in words.</summary>
    public static string KindName(JsonElement json) => json.ValueKind switch
    {
        JsonValueKind.Object => "an object",
        JsonValueKind.Array => "an array",
        JsonValueKind.String => "a string",
        JsonValueKind.Number => "a number",
        JsonValueKind.True or JsonValueKind.False => "a truth value",
        _ => "null",
    };

    private static string[] FilesOf(string folder)
    {
        var files = Directory.GetFiles(folder).Where(f => !Path.GetFileName(f).StartsWith('.')).Order(StringComparer.Ordinal).ToArray();
        if (files.Length == 0)
            throw new FileNotFoundException($"The folder '{folder}' of the data set is empty.", folder);
        var types = files.Select(Path.GetExtension).Distinct(StringComparer.OrdinalIgnoreCase).ToArray();
        return types.Length == 1
            ? files
            : throw new InvalidDataException($"The folder '{folder}' holds files of several types ({string.Join(", ", types)}); a data set's folder must hold one type.");
    }

    private static IEnumerable<Row> ReadFile(string file) => Path.GetExtension(file).ToLowerInvariant() switch
    {
        ".json" => JsonRows(file),
        ".jsonl" => LineRows(file, WithoutMark(File.ReadAllBytes(file))),
        ".csv" => CsvReader.Read(file, Text(file)),
        var type => throw new NotSupportedException($"{file}: files of type '{type}' cannot be read. Supported: .json, .jsonl, .csv."),
    };

    private static List<Row> JsonRows(string file)
    {
        var bytes = WithoutMark(File.ReadAllBytes(file));
        // As Hugging Face's loader does, a .json file may hold lines of objects instead of one array.
        var first = bytes.Span.IndexOfAnyExcept(" \t\r\n"u8);
        if (first >= 0 && bytes.Span[first] == '{')
            return [.. LineRows(file, bytes)];

        var rows = new List<Row>();
        var reader = new Utf8JsonReader(bytes.Span);
        var inArray = false;
        try
        {
            while (reader.Read())
            {
                if (!inArray)
                {
                    if (reader.TokenType != JsonTokenType.StartArray)
                        throw new InvalidDataException($"{file}: expected an array of rows.");
                    inArray = true;
                }
                else if (reader.TokenType != JsonTokenType.EndArray)
                {
                    rows.Add(Checked(JsonElement.ParseValue(ref reader), $"{file}:{rows.Count + 1}"));
                }
            }
        }
        catch (JsonException e)
        {
            throw new InvalidDataException($"{file}:{rows.Count + 1}: not valid JSON in row {rows.Count + 1}, line {e.LineNumber + 1}, byte {e.BytePositionInLine + 1}: {Reason(e)}", e);
        }
        return rows;
    }

    private static IEnumerable<Row> LineRows(string file, ReadOnlyMemory<byte> bytes)
    {
        var line = 0;
        while (bytes.Length > 0)
        {
            line++;
            var end = bytes.Span.IndexOf((byte)'\n');
            var text = end < 0 ? bytes : bytes[..end];
            bytes = end < 0 ? default : bytes[(end + 1)..];
            if (text.Span.IndexOfAnyExcept(" \t\r"u8) < 0)
                continue;
            JsonElement row;
            try
            {
                var reader = new Utf8JsonReader(text.Span);
                row = JsonElement.ParseValue(ref reader);
                if (text.Span[(int)reader.BytesConsumed..].IndexOfAnyExcept(" \t\r"u8) >= 0)
                    throw new InvalidDataException($"{file}:{line}: something follows the object on this line; JSON lines hold one row a line.");
            }
            catch (JsonException e)
            {
                throw new InvalidDataException($"{file}:{line}: not valid JSON at byte {e.BytePositionInLine + 1} of the line: {Reason(e)}", e);
            }
            yield return Checked(row, $"{file}:{line}");
        }
    }

    private static Row Checked(JsonElement row, string source) => row.ValueKind == JsonValueKind.Object
        ? new Row(row, source)
        : throw new InvalidDataException($"{source}: a row must be an object of columns, but is {KindName(row)}.");

    private static string Text(string file)
    {
        try
        {
            return Strict.GetString(WithoutMark(File.ReadAllBytes(file)).Span);
        }
        catch (DecoderFallbackException e)
        {
            throw new InvalidDataException($"{file}: not UTF-8 at byte {e.Index + 1}. Save the file as UTF-8.", e);
        }
    }

    private static ReadOnlyMemory<byte> WithoutMark(byte[] bytes) => bytes.AsMemory(bytes.AsSpan().StartsWith("\uFEFF"u8) ? 3 : 0);

    /// <summary>The first sentence of the parser's message: the rest repeats the place.</summary>
    private static string Reason(JsonException e) => e.Message.Split(" LineNumber:")[0];
}
