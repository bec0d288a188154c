using System.Text.Json;

namespace KtNotebooks.Data;

/// <summary>
/// Rows that hold a list of messages, each with a role and a content: sharegpt, and openai with its tool calls. A leading message of the system role is the system prompt; then questions (user, observation)
/// and answers (assistant, function) alternate, and the last message is the answer. With ranking the list ends with a question, and chosen and rejected are messages.
/// </summary>
internal sealed class ConversationFormat : IRowFormat
{
    private const string BetweenResults = "\n</tool_response>\n<tool_response>\n";

    private readonly DatasetEntry _entry;
    private readonly RowFields _fields;
    private readonly Columns _columns;
    private readonly Tags _tags;
    private readonly bool _openAi;
    private readonly Dictionary<string, Role> _roles = new(StringComparer.Ordinal);

    public ConversationFormat(DatasetEntry entry, IReadOnlySet<string> present, bool openAi)
    {
        (_entry, _fields, _openAi) = (entry, new RowFields(entry, present), openAi);
        // Upstream takes sharegpt's words for openai rows too unless 'tags' names others; nobody's rows fit those, so here the format's own words are the default.
        _tags = openAi && entry.Tags == Tags.Default ? new Tags("role", "content", "user", "assistant", "tool", "function", "system") : entry.Tags;
        _columns = openAi && !entry.ColumnsGiven && present.Contains("messages") ? entry.Columns with { Messages = "messages", Tools = present.Contains("tools") ? "tools" : null } : entry.Columns;
        foreach (var (word, role) in new[] { (_tags.User, Role.User), (_tags.Assistant, Role.Assistant), (_tags.Observation, Role.Observation), (_tags.Function, Role.Function) })
            if (word is not null)
                _roles.TryAdd(word, role);
    }

    public Converted Convert(Row row)
    {
        if (_columns.Messages is null)
            throw new InvalidDataException($"{DatasetInfo.FileName}, '{_entry.Name}': no column holds the messages. 'columns' sets all that it does not list to none: add \"messages\".");
        if (_fields.Field(row, _columns.Messages) is not { } list || list.ValueKind != JsonValueKind.Array)
            return Converted.Skip($"column '{_columns.Messages}' holds no list of messages");
        List<JsonElement> left = [.. list.EnumerateArray()];
        var system = _fields.Text(row, _columns.System);
        if (_tags.System is { } word && left.Count > 0 && RoleWord(row, left[0]) == word)
        {
            system = Content(row, left[0]);
            left.RemoveAt(0);
        }
        List<Message> messages = [];
        for (var i = 0; i < left.Count; i++)
        {
            var message = Read(row, left, ref i);
            var asks = message.Role is Role.User or Role.Observation;
            if (message.Role == (Role)(-1) || asks != (messages.Count % 2 == 0))
                return Converted.Skip($"message {i + 1} is of role '{RoleWord(row, left[i])}'; questions ({_tags.User}, {_tags.Observation}) and answers ({_tags.Assistant}, {_tags.Function}) must alternate, a question first");
            messages.Add(message);
        }
        if (messages.Count == 0 || messages.Count % 2 != (_entry.Ranking ? 1 : 0))
            return Converted.Skip($"the conversation has {messages.Count} messages; it must end with {(_entry.Ranking ? "a question" : "an answer")}");
        var prompt = _entry.Ranking ? messages : messages[..^1];
        Message[]? responses = _entry.Ranking ? Ranked(row) : _fields.Liked(row, _columns.KtoTag, messages[^1]) ?? [messages[^1]];
        return responses is null ? Converted.Skip("chosen and rejected must be messages of an answer's role") : new Example(prompt, responses, system, _fields.Tools(row, _columns.Tools), row.Source);
    }

    private Message[]? Ranked(Row row)
    {
        if (_fields.Field(row, _columns.Chosen) is not { ValueKind: JsonValueKind.Object } chosen || _fields.Field(row, _columns.Rejected) is not { ValueKind: JsonValueKind.Object } rejected)
            return null;
        Message[] both = [One(row, chosen), One(row, rejected)];
        return both.All(m => m.Role is Role.Assistant or Role.Function) ? both : null;
    }

    // One message; for openai the run of tool results that begins here becomes one observation.
    private Message Read(Row row, List<JsonElement> list, ref int i)
    {
        var first = One(row, list[i]);
        if (!_openAi || first.Role != Role.Observation)
            return first;
        List<string> results = [first.Content];
        while (i + 1 < list.Count && One(row, list[i + 1]) is { Role: Role.Observation } next)
        {
            results.Add(next.Content);
            i++;
        }
        return new Message(Role.Observation, string.Join(BetweenResults, results));
    }

    private Message One(Row row, JsonElement message)
    {
        var role = _roles.TryGetValue(RoleWord(row, message), out var known) ? known : (Role)(-1);
        if (_openAi && role == Role.Assistant && message.TryGetProperty("tool_calls", out var calls) && calls.ValueKind == JsonValueKind.Array && calls.GetArrayLength() > 0)
            return new Message(Role.Function, $"[{string.Join(", ", calls.EnumerateArray().Select(call => PythonJson.Dump(call.TryGetProperty("function", out var function) ? function : call)))}]");
        return new Message(role, Content(row, message));
    }

    private string RoleWord(Row row, JsonElement message) => Text(row, message, _tags.Role, "role_tag") ?? "";

    private string Content(Row row, JsonElement message) => Text(row, message, _tags.Content, "content_tag") ?? "";

    private string? Text(Row row, JsonElement message, string? tag, string key)
    {
        if (tag is null)
            throw new InvalidDataException($"{DatasetInfo.FileName}, '{_entry.Name}': 'tags' sets all that it does not list to none: add \"{key}\".");
        if (message.ValueKind != JsonValueKind.Object || !message.TryGetProperty(tag, out var value))
        {
            string[] names = message.ValueKind == JsonValueKind.Object ? [.. message.EnumerateObject().Select(p => p.Name)] : [];
            throw new InvalidDataException($"{row.Source}: a message of column '{_columns.Messages}' has no '{tag}'.{Nearest.Hint(tag, names)} Say in {DatasetInfo.FileName}, '{_entry.Name}', 'tags', which word stands for what.");
        }
        return value.ValueKind switch
        {
            JsonValueKind.Null => null,
            JsonValueKind.String => value.GetString(),
            _ => throw new InvalidDataException($"{row.Source}: '{tag}' of a message must be a string, but is {RowReader.KindName(value)}."),
        };
    }
}
