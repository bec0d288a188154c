using System.Text.Json;

namespace KtNotebooks.Data;

/// <summary>
/// Rows of the alpaca kind: instruction and input make the question, output is the answer, history holds earlier (question, answer) pairs.
/// </summary>
internal sealed class AlpacaFormat(DatasetEntry entry, IReadOnlySet<string> present) : IRowFormat
{
    private readonly Columns _columns = entry.Columns with
    {
        // Without a 'columns' block the input column is customary rather than demanded: many sets have only questions and answers.
        Query = entry.Columns.Query is { } query && (entry.ColumnsGiven || present.Contains(query)) ? query : null,
    };

    public Example Convert(Row row)
    {
        var question = string.Join('\n', new[] { Text(row, _columns.Prompt), Text(row, _columns.Query) }.Where(t => !string.IsNullOrEmpty(t)));
        if (question.Length == 0)
            throw new InvalidDataException($"{row.Source}: the question is empty (columns {Names(_columns.Prompt, _columns.Query)}). Fill it or remove the row.");
        Message[] answer = Text(row, _columns.Response) is { } text ? [new Message(Role.Assistant, text)] : [];
        return new Example([.. History(row), new Message(Role.User, question)], answer, Text(row, _columns.System), Text(row, _columns.Tools), row.Source);
    }

    private IEnumerable<Message> History(Row row)
    {
        if (_columns.History is not { } column || Field(row, column) is not { } history)
            yield break;
        if (history.ValueKind != JsonValueKind.Array)
            throw new InvalidDataException($"{row.Source}: column '{column}' must be a list of [question, answer] pairs, but is {RowReader.KindName(history)}.");
        foreach (var pair in history.EnumerateArray())
        {
            if (pair.ValueKind != JsonValueKind.Array || pair.GetArrayLength() != 2 || pair.EnumerateArray().Any(e => e.ValueKind != JsonValueKind.String))
                throw new InvalidDataException($"{row.Source}: column '{column}' must be a list of [question, answer] pairs of strings; one of them is {pair.GetRawText()}.");
            yield return new Message(Role.User, pair[0].GetString()!);
            yield return new Message(Role.Assistant, pair[1].GetString()!);
        }
    }

    private string? Text(Row row, string? column)
    {
        if (column is null || Field(row, column) is not { } value)
            return null;
        return value.ValueKind == JsonValueKind.String
            ? value.GetString()
            : throw new InvalidDataException($"{row.Source}: column '{column}' must be a string, but is {RowReader.KindName(value)}.");
    }

    /// <summary>A field of the row; null when it is null, or missing from this row but there in others.</summary>
    private JsonElement? Field(Row row, string column)
    {
        if (row.Fields.TryGetProperty(column, out var value))
            return value.ValueKind == JsonValueKind.Null ? null : value;
        return present.Contains(column)
            ? null
            : throw new InvalidDataException($"{row.Source}: there is no column '{column}'.{Nearest.Hint(column, [.. present])} Say in {DatasetInfo.FileName}, '{entry.Name}', 'columns', which column holds what.");
    }

    private static string Names(params string?[] columns) => string.Join(" and ", columns.Where(c => c is not null).Select(c => $"'{c}'"));
}

/// <summary>Converts the rows of one data set to examples.</summary>
internal interface IRowFormat
{
    /// <exception cref="InvalidDataException">The row lacks something; the message begins with file:row.</exception>
    Example Convert(Row row);
}
