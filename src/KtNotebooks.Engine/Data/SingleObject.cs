using System.Text.Json;

namespace KtNotebooks.Data;

/// <summary>
/// The rows of a file that is one JSON object: a row; a box around a list of rows, {"data": [{…}, …]}; or columns, each a list,
/// {"instruction": ["…", …], "output": ["…", …]}, or, as pandas writes them, an object by number, {"instruction": {"0": "…"}}. Which of them it is shows in the
/// columns that a row of this set must have; what can be read in two ways is refused.
/// </summary>
internal static class SingleObject
{
    /// <exception cref="InvalidDataException">More than one list of rows, or columns of different lengths.</exception>
    public static IEnumerable<Row> Rows(JsonElement root, string file, IReadOnlyList<string> keys)
    {
        var own = keys.Where(key => root.TryGetProperty(key, out _)).ToArray();
        if (own.Length > 0)
            return own.Any(key => IsColumn(root.GetProperty(key))) ? ByColumns(root, file) : [new Row(root, $"{file}:1")];
        var boxes = root.EnumerateObject().Where(p => IsRows(p.Value)).ToArray();
        return boxes.Length switch
        {
            0 => [new Row(root, $"{file}:1")], // a row whose columns have other names: which is said by the columns
            1 => boxes[0].Value.EnumerateArray().Select((row, i) => new Row(row, $"{file}:{i + 1}")),
            _ => throw new InvalidDataException(
                $"{file}: is one object with several lists of rows ({string.Join(", ", boxes.Select(b => $"'{b.Name}'"))}), and which of them is meant"
                    + $" cannot be known. Save each as a file of its own."),
        };
    }

    /// <summary>A list of objects.</summary>
    private static bool IsRows(JsonElement value) =>
        value.ValueKind == JsonValueKind.Array && value.GetArrayLength() > 0 && value.EnumerateArray().All(v => v.ValueKind == JsonValueKind.Object);

    /// <summary>Many cells of one column rather than one cell: a list that is no conversation, or an object by number.</summary>
    private static bool IsColumn(JsonElement value) => value.ValueKind switch
    {
        JsonValueKind.Array => !IsRows(value),
        JsonValueKind.Object => value.EnumerateObject().Any() && value.EnumerateObject().All(p => p.Name.Length > 0 && p.Name.All(char.IsAsciiDigit)),
        _ => false,
    };

    private static IEnumerable<Row> ByColumns(JsonElement root, string file)
    {
        var columns = root.EnumerateObject().ToDictionary(p => p.Name, p => Cells(p.Value), StringComparer.Ordinal);
        if (columns.FirstOrDefault(c => c.Value is null).Key is { } odd)
            throw new InvalidDataException($"{file}: is one object of columns, but '{odd}' is {RowReader.KindName(root.GetProperty(odd))}, no list of"
                + $" cells. Save the rows as a list, [{{…}}, …].");
        var counts = columns.Values.Select(c => c!.Length).Distinct().ToArray();
        if (counts.Length > 1)
            throw new InvalidDataException($"{file}: is one object of columns, but they differ in length:"
                + $" {string.Join(", ", columns.Select(c => $"'{c.Key}' has {c.Value!.Length}"))}.");
        return Enumerable.Range(0, counts[0]).Select(i =>
            new Row(JsonSerializer.SerializeToElement(columns.ToDictionary(c => c.Key, c => c.Value![i])), $"{file}:{i + 1}"));
    }

    private static JsonElement[]? Cells(JsonElement column) => !IsColumn(column) && !IsRows(column) ? null
        : column.ValueKind == JsonValueKind.Array ? [.. column.EnumerateArray()]
        : [.. column.EnumerateObject().Select(p => p.Value)];
}
