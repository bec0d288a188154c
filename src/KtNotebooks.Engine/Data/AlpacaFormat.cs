using System.Text.Json;

namespace KtNotebooks.Data;

/// <summary>
/// Rows of the alpaca kind: instruction and input make the question, output is the answer, history holds earlier (question, answer) pairs. With ranking,
/// chosen and rejected are the answers; with kto_tag the output is one that is wanted or not.
/// </summary>
internal sealed class AlpacaFormat(DatasetEntry entry, Lazy<IReadOnlySet<string>> present) : IRowFormat
{
    private readonly RowFields _fields = new(entry, present);
    private readonly Columns _columns = entry.Columns;

    public Converted Convert(Row row)
    {
        // Without a 'columns' block the input column is customary rather than demanded: many sets have only questions and answers.
        var query = _columns.Query is { } name && (entry.ColumnsGiven || row.Fields.TryGetProperty(name, out _)) ? name : null;
        var question = string.Join('\n', new[] { _fields.Text(row, _columns.Prompt), _fields.Text(row, query) }.Where(t => !string.IsNullOrEmpty(t)));
        if (question.Length == 0)
            return Converted.Skip($"the question is empty (columns {Names(_columns.Prompt, _columns.Query)})");
        Message[] prompt = [.. History(row), new Message(Role.User, question)];
        var responses = Responses(row);
        return new Example(prompt, responses, _fields.Text(row, _columns.System), _fields.Tools(row, _columns.Tools), row.Source)
        {
            Weight = _fields.Weight(row),
            Media = _fields.Media(row, prompt.Concat(responses)),
        };
    }

    private Message[] Responses(Row row)
    {
        if (entry.Ranking)
            return _fields.Text(row, _columns.Chosen) is { } chosen && _fields.Text(row, _columns.Rejected) is { } rejected
                ? [new(Role.Assistant, chosen), new(Role.Assistant, rejected)] : [];
        var answer = _fields.Text(row, _columns.Response) is { } text ? new Message(Role.Assistant, text) : null;
        return _fields.Liked(row, _columns.KtoTag, answer) ?? (answer is null ? [] : [answer]);
    }

    private IEnumerable<Message> History(Row row)
    {
        if (_fields.Field(row, _columns.History) is not { } history)
            yield break;
        if (history.ValueKind != JsonValueKind.Array)
            throw new InvalidDataException($"{row.Source}: column '{_columns.History}' must be a list of [question, answer] pairs, but "
                + $"is {RowReader.KindName(history)}.");
        foreach (var pair in history.EnumerateArray())
        {
            if (pair.ValueKind != JsonValueKind.Array || pair.GetArrayLength() != 2 || pair.EnumerateArray().Any(e => e.ValueKind != JsonValueKind.String))
                throw new InvalidDataException($"{row.Source}: column '{_columns.History}' must be a list of [question, answer] pairs of strings; one of them "
                    + $"is {pair.GetRawText()}.");
            yield return new Message(Role.User, pair[0].GetString()!);
            yield return new Message(Role.Assistant, pair[1].GetString()!);
        }
    }

    private static string Names(params string?[] columns) => string.Join(" and ", columns.Where(c => c is not null).Select(c => $"'{c}'"));
}
