using System.Globalization;
using System.Text.Json;

namespace KtNotebooks.Data;

/// <summary>
/// What a row became: an example, or the reason why it is left out. Wrong types and missing columns are errors; this is for rows that are only of no use.
/// </summary>
internal readonly record struct Converted(Example? Example, string Reason = "")
{
    public static implicit operator Converted(Example example) => new(example);

    public static Converted Skip(string reason) => new(null, reason);
}

/// <summary>Converts the rows of one data set to examples.</summary>
internal interface IRowFormat
{
    /// <exception cref="InvalidDataException">The row lacks something; the message begins with file:row.</exception>
    Converted Convert(Row row);
}

/// <summary>The columns of a data set's rows, read by name.</summary>
/// <param name="entry">The set.</param>
/// <param name="present">The columns of all rows; asked for when a row lacks one.</param>
internal sealed class RowFields(DatasetEntry entry, Lazy<IReadOnlySet<string>> present)
{
    /// <summary>
    /// The columns of media: the one that the set names, LLaMA-Factory's own name, which is looked at too, and what stands for a value in the text.
    /// </summary>
    private readonly (string? Named, string Usual, string Token)[] _media =
        [(entry.Columns.Images, "images", "<image>"), (entry.Columns.Videos, "videos", "<video>"), (entry.Columns.Audios, "audios", "<audio>")];

    /// <summary>A field of the row; null when it is null, or missing from this row but there in others.</summary>
    /// <exception cref="InvalidDataException">No row has the column.</exception>
    public JsonElement? Field(Row row, string? column)
    {
        if (column is null)
            return null;
        if (row.Fields.TryGetProperty(column, out var value))
            return value.ValueKind == JsonValueKind.Null ? null : value;
        return present.Value.Contains(column)
            ? null
            : throw new InvalidDataException($"{row.Source}: there is no column '{column}'.{Nearest.Hint(column, [.. present.Value])} Say in"
                + $" {DatasetInfo.FileName}, '{entry.Name}', 'columns', which column holds what.");
    }

    /// <summary>A field that must be a string or null.</summary>
    public string? Text(Row row, string? column)
    {
        if (Field(row, column) is not { } value)
            return null;
        return value.ValueKind == JsonValueKind.String
            ? value.GetString()
            : throw new InvalidDataException($"{row.Source}: column '{column}' must be a string, but is {RowReader.KindName(value)}.");
    }

    /// <summary>A number of 0 or more; 1 where the set names no column, or the row has none.</summary>
    public float Weight(Row row)
    {
        if (Field(row, entry.Columns.Weight) is not { } value) return 1;
        var number = value.ValueKind == JsonValueKind.Number ? value.GetDouble()
            : value.ValueKind == JsonValueKind.String && double.TryParse(value.GetString(), CultureInfo.InvariantCulture, out var text) ? text // as in CSV
            : double.NaN;
        return number is >= 0 and < 1e6 ? (float)number
            : throw new InvalidDataException($"{row.Source}: column '{entry.Columns.Weight}' must be a weight, a number of 0 or more, but is "
                + $"{value.GetRawText()}.");
    }

    /// <summary>A description of tools: JSON text, or JSON itself; null where there is none in it.</summary>
    public string? Tools(Row row, string? column)
    {
        var tools = Field(row, column) switch
        {
            null => null,
            { ValueKind: JsonValueKind.String } text => text.GetString(),
            { ValueKind: JsonValueKind.Array or JsonValueKind.Object } json => PythonJson.Dump(json),
            { } other => throw new InvalidDataException($"{row.Source}: column '{column}' must be a list of tools, but is {RowReader.KindName(other)}."),
        };
        return ToolForm.IsNone(tools) ? null : tools;
    }

    /// <summary>
    /// What the row holds besides text, in words, or null: a column of media that is not empty, or a word in the text that stands for a value of such a column.
    /// </summary>
    public string? Media(Row row, IEnumerable<Message> messages)
    {
        foreach (var (named, usual, token) in _media)
        {
            var column = named ?? usual;
            var there = row.Fields.TryGetProperty(column, out var value);
            if (there && Values(value) is > 0 and var count)
                return $"column '{column}' holds {count} {(count == 1 ? "value" : "values")}";
            if ((there || named is not null) && messages.Any(m => m.Content.Contains(token, StringComparison.Ordinal)))
                return $"the text holds {token}, which stands for a value of column '{column}'";
        }
        return null;
    }

    // An empty list, an empty text and a list of nothing hold no values; CSV has lists as text.
    private static int Values(JsonElement value) => value.ValueKind switch
    {
        JsonValueKind.Null => 0,
        JsonValueKind.Array => value.EnumerateArray().Sum(Values),
        JsonValueKind.String => value.GetString()!.Trim() is "" or "[]" ? 0 : 1,
        _ => 1,
    };

    /// <summary>
    /// The answers of a row that says whether its answer is wanted: a real one first if it is, second if it is not, beside an empty one. Null when the set
    /// or the row says nothing.
    /// </summary>
    public Message[]? Liked(Row row, string? column, Message? answer)
    {
        if (answer is null || Truth(Field(row, column)) is not { } liked) return null;
        var none = new Message(Role.Assistant, "");
        return liked ? [answer, none] : [none, answer];
    }

    /// <summary>True or false, in words too: a CSV file has nothing else.</summary>
    private static bool? Truth(JsonElement? value) => value?.ValueKind switch
    {
        JsonValueKind.True => true,
        JsonValueKind.False => false,
        JsonValueKind.String when bool.TryParse(value.Value.GetString(), out var said) => said,
        _ => null,
    };
}
