using System.Text.Json;
using KtNotebooks.Files;

namespace KtNotebooks.Data;

/// <summary>A row of a file: an object of columns, and where it stands.</summary>
public readonly record struct Row(JsonElement Fields, string Source);

/// <summary>
/// Reads data files of any size, row after row: a JSON array of objects, JSON lines, CSV, lines of text, Parquet, Arrow, or a folder of files of one of
/// these types.
/// </summary>
internal static class RowReader
{
    /// <summary>How files of other types become ones that are read.</summary>
    private static readonly Dictionary<string, string> Others = new()
    {
        [".xlsx"] = "Save the sheet as CSV (UTF-8).",
        [".tsv"] = "Save the table as CSV, with commas.",
        [".gz"] = "Unpack it first.",
        [".zst"] = "Unpack it first.",
        [".zip"] = "Unpack it first.",
    };

    /// <summary>What may stand between values.</summary>
    public static ReadOnlySpan<byte> Blank => " \t\r\n"u8;

    /// <summary>The rows of a file or folder, the files of a folder in the order of their names. They are read as they are asked for.</summary>
    /// <param name="path">File or folder.</param>
    /// <param name="limit">The most rows to read; null: all.</param>
    /// <param name="keys">Columns that rows are known to have; they matter for a file that is one JSON object.</param>
    /// <exception cref="InvalidDataException">A row is not valid; the message names file, row and place.</exception>
    public static IEnumerable<Row> Read(string path, int? limit = null, IReadOnlyList<string>? keys = null)
    {
        var rows = (Directory.Exists(path) ? FilesOf(path) : [path]).SelectMany(file => ReadFile(file, keys ?? []));
        return limit is int most ? rows.Take(most) : rows;
    }

    /// <summary>A data file as UTF-8, from its first character.</summary>
    public static ByteWindow Open(string file) => new(Utf8Text.Of(RegularFile.Open(file, "a data file"), file), file);

    /// <summary>The files of a data set: its one file, or those of its folder.</summary>
    public static string[] FilesOf(string path)
    {
        if (!Directory.Exists(path)) return [path];
        var files = Directory.GetFiles(path).Where(f => !Path.GetFileName(f).StartsWith('.')).Order(StringComparer.Ordinal).ToArray();
        var below = Directory.GetDirectories(path).Where(f => !Path.GetFileName(f).StartsWith('.') && Directory.EnumerateFiles(f).Any(IsReadable)).ToArray();
        if (below.Length > 0 && !files.Any(IsReadable)) // as the Hub has them: a README, and the rows in data/
            throw new FileNotFoundException($"The folder '{path}' of the data set holds no rows itself; they are in {string.Join(", ", below.Order())}: give "
                + "that folder as file_name.", path);
        if (files.Length == 0) throw new FileNotFoundException($"The folder '{path}' of the data set holds no files.", path);
        var types = files.Select(Path.GetExtension).Distinct(StringComparer.OrdinalIgnoreCase).ToArray();
        return types.Length == 1
            ? files
            : throw new InvalidDataException($"The folder '{path}' holds files of several types ({string.Join(", ", types)}); a data set's folder must"
                + $" hold one type.");
    }

    private static bool IsReadable(string file) =>
        Path.GetExtension(file).ToLowerInvariant() is ".json" or ".jsonl" or ".csv" or ".txt" or ".parquet" or ".arrow";

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

    /// <exception cref="InvalidDataException">The row is no object.</exception>
    public static Row Checked(JsonElement row, string source) => row.ValueKind == JsonValueKind.Object
        ? new Row(row, source)
        : throw new InvalidDataException($"{source}: a row must be an object of columns, but is {KindName(row)}.");

    private static IEnumerable<Row> ReadFile(string file, IReadOnlyList<string> keys) => Path.GetExtension(file).ToLowerInvariant() switch
    {
        ".json" => JsonRows.Read(file, keys),
        ".jsonl" => LineRows.Read(file),
        ".csv" => CsvReader.Read(file),
        ".txt" => TextRows.Read(file),
        ".parquet" => ColumnRows.Parquet(file),
        ".arrow" => ColumnRows.Arrow(file),
        var type => throw new NotSupportedException($"{file}: files of type '{type}' cannot be read; .json, .jsonl, .csv, .txt, .parquet and .arrow can."
            + $" {Others.GetValueOrDefault(type)}".TrimEnd()),
    };
}
