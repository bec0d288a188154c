using System.Text.Json;

namespace KtNotebooks.Data;

/// <summary>
/// Rows that hold a list of messages, each with a role and a content: sharegpt, and openai with its tool calls. A leading message of the system role is the
/// system prompt; then questions (user, observation) and answers (assistant, function) alternate, and the last message is the answer. With ranking the list
/// ends with a question, and chosen and rejected are messages.
/// </summary>
internal sealed class ConversationFormat : IRowFormat
{
    private const string BetweenResults = "\n</tool_response>\n<tool_response>\n";

    private readonly DatasetEntry _entry;
    private readonly RowFields _fields;
    private readonly Columns _columns;
    private readonly Tags _tags;
    private readonly Lazy<IReadOnlySet<string>> _present;
    private readonly bool _openAi;
    private string? _part;
    private readonly Dictionary<string, Role> _roles = new(StringComparer.Ordinal);

    public ConversationFormat(DatasetEntry entry, Lazy<IReadOnlySet<string>> present, bool openAi)
    {
        (_entry, _fields, _present, _openAi) = (entry, new RowFields(entry, present), present, openAi);
        // Upstream takes sharegpt's words for openai rows too unless 'tags' names others; nobody's rows fit those, so here the format's own words are the
        // default.
        _tags = openAi && entry.Tags == Tags.Default ? new Tags("role", "content", "user", "assistant", "tool", "function", "system") : entry.Tags;
        _columns = entry.Columns;
        foreach (var (word, role) in new[]
        {
            (_tags.User, Role.User), (_tags.Assistant, Role.Assistant), (_tags.Observation, Role.Observation), (_tags.Function, Role.Function)
        })
            if (word is not null)
                _roles.TryAdd(word, role);
    }

    public Converted Convert(Row row)
    {
        _part = null;
        var (column, tools) = Columns(row);
        if (_fields.Field(row, column) is not { } list || list.ValueKind != JsonValueKind.Array)
            return Converted.Skip($"column '{column}' holds no list of messages");
        List<JsonElement> left = [.. list.EnumerateArray()];
        var system = _fields.Text(row, _columns.System);
        if (_tags.System is { } word && left.Count > 0 && RoleWord(row, left[0]) == word)
        {
            system = Content(row, left[0]);
            left.RemoveAt(0);
        }
        List<Message> messages = [];
        var answered = false; // an answer may be missing: rows for prediction need none
        for (var i = 0; i < left.Count; i++)
        {
            var (at, (role, text)) = (i, Read(row, left, ref i));
            if (role is not { } known || known is Role.User or Role.Observation != (messages.Count % 2 == 0))
                return Converted.Skip($"message {at + 1} "
                    + (RoleWord(row, left[at]) is { } said ? $"is of role '{said}'" : $"has no role ('{_tags.Role}' is null)")
                    + $"; questions ({_tags.User}, {_tags.Observation}) and answers ({_tags.Assistant}, {_tags.Function}) must alternate, a question first");
            if (text is null && (i < left.Count - 1 || messages.Count % 2 == 0))
                return Converted.Skip($"message {at + 1} has no text ('{_tags.Content}' is null)");
            messages.Add(new Message(known, text ?? ""));
            answered = text is not null;
        }
        if (messages.Count == 0 || messages.Count % 2 != (_entry.Ranking ? 1 : 0))
            return Converted.Skip($"the conversation has {messages.Count} messages; it must end with {(_entry.Ranking ? "a question" : "an answer")}");
        var prompt = _entry.Ranking ? messages : messages[..^1];
        var responses = _entry.Ranking ? Ranked(row) : !answered ? [] : _fields.Liked(row, _columns.KtoTag, messages[^1]) ?? [messages[^1]];
        if (responses is null)
            return Converted.Skip("chosen and rejected must be messages of an answer's role, with a text");
        return new Example(prompt, responses, system, _fields.Tools(row, tools), row.Source)
        {
            Weight = _fields.Weight(row),
            Media = _part ?? _fields.Media(row, prompt.Concat(responses)),
        };
    }

    /// <summary>The columns of messages and tools: openai's own words where the set names none and the row has them.</summary>
    private (string Messages, string? Tools) Columns(Row row)
    {
        if (_openAi && !_entry.ColumnsGiven && (row.Fields.TryGetProperty("messages", out _) || _present.Value.Contains("messages")))
            return ("messages", row.Fields.TryGetProperty("tools", out _) ? "tools" : null);
        return (_columns.Messages ?? throw new InvalidDataException(
            $"{DatasetInfo.FileName}, '{_entry.Name}': no column holds the messages. 'columns' sets all that it does not list to none: add"
                + $" \"messages\"."), _columns.Tools);
    }

    private Message[]? Ranked(Row row)
    {
        if (_fields.Field(row, _columns.Chosen) is not { ValueKind: JsonValueKind.Object } chosen
            || _fields.Field(row, _columns.Rejected) is not { ValueKind: JsonValueKind.Object } rejected)
            return null;
        Message? Answer(JsonElement message) =>
            One(row, message) is ((Role.Assistant or Role.Function) and { } role, { } text) ? new Message(role, text) : null;
        return Answer(chosen) is { } better && Answer(rejected) is { } worse ? [better, worse] : null;
    }

    // One message; for openai the run of tool results that begins here becomes one observation.
    private (Role? Role, string? Text) Read(Row row, List<JsonElement> list, ref int i)
    {
        var first = One(row, list[i]);
        if (!_openAi || first.Role != Role.Observation)
            return first;
        List<string?> results = [first.Text];
        while (i + 1 < list.Count && One(row, list[i + 1]) is { Role: Role.Observation } next)
        {
            results.Add(next.Text);
            i++;
        }
        return (Role.Observation, results.Contains(null) ? null : string.Join(BetweenResults, results));
    }

    private (Role? Role, string? Text) One(Row row, JsonElement message)
    {
        Role? role = RoleWord(row, message) is { } word && _roles.TryGetValue(word, out var known) ? known : null;
        if (_openAi && role == Role.Assistant && message.TryGetProperty("tool_calls", out var calls) && calls.ValueKind == JsonValueKind.Array
            && calls.GetArrayLength() > 0)
            return (Role.Function, $"[{string.Join(", ", calls.EnumerateArray().Select(call => PythonJson.Dump(Function(row, call))))}]");
        return (role, Content(row, message));
    }

    private static JsonElement Function(Row row, JsonElement call) => call.ValueKind != JsonValueKind.Object
        ? throw new InvalidDataException($"{row.Source}: 'tool_calls' must be a list of objects, but holds {RowReader.KindName(call)}.")
        : call.TryGetProperty("function", out var function) ? function : call;

    private string? RoleWord(Row row, JsonElement message)
    {
        var value = Tagged(row, message, _tags.Role, "role_tag");
        return value.ValueKind is JsonValueKind.Null or JsonValueKind.String
            ? value.GetString()
            : throw new InvalidDataException($"{row.Source}: '{_tags.Role}' of a message must be a string, but is {RowReader.KindName(value)}.");
    }

    /// <summary>The text of a message, or null; a list of parts, as OpenAI has it, is the text of its parts.</summary>
    private string? Content(Row row, JsonElement message)
    {
        var value = Tagged(row, message, _tags.Content, "content_tag");
        return value.ValueKind switch
        {
            JsonValueKind.Null or JsonValueKind.String => value.GetString(),
            JsonValueKind.Array => string.Concat(value.EnumerateArray().Select(part => Part(row, part))),
            _ => throw new InvalidDataException($"{row.Source}: '{_tags.Content}' of a message must be a string, but is {RowReader.KindName(value)}."),
        };
    }

    private string Part(Row row, JsonElement part)
    {
        var type = part.ValueKind == JsonValueKind.Object && part.TryGetProperty("type", out var named) && named.ValueKind == JsonValueKind.String
            ? named.GetString()
            : null;
        if (type == "text" && part.TryGetProperty("text", out var text) && text.ValueKind == JsonValueKind.String)
            return text.GetString()!;
        if (type is null or "text")
            throw new InvalidDataException($"{row.Source}: '{_tags.Content}' of a message is a list, but one of its parts is no {{\"type\": \"text\","
                + $" \"text\": \"…\"}}.");
        _part = $"a message of column '{Columns(row).Messages}' holds a part of type '{type}'";
        return "";
    }

    private JsonElement Tagged(Row row, JsonElement message, string? tag, string key)
    {
        if (tag is null)
            throw new InvalidDataException($"{DatasetInfo.FileName}, '{_entry.Name}': 'tags' sets all that it does not list to none: add \"{key}\".");
        if (message.ValueKind == JsonValueKind.Object && message.TryGetProperty(tag, out var value))
            return value;
        string[] names = message.ValueKind == JsonValueKind.Object ? [.. message.EnumerateObject().Select(p => p.Name)] : [];
        throw new InvalidDataException($"{row.Source}: a message of column '{Columns(row).Messages}' has no '{tag}'.{Nearest.Hint(tag, names)}"
            + $" Say in {DatasetInfo.FileName}, '{_entry.Name}', 'tags', which word stands for what.");
    }
}
