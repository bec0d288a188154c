using System.Text.Json;
using System.Text.RegularExpressions;
using KtNotebooks.Data.Jinja;
using KtNotebooks.Files;
using KtNotebooks.Tokenizers;

namespace KtNotebooks.Data;

/// <summary>
/// template: auto. The chat template that a model brings, run as transformers runs it. A conversation is rendered whole, as apply_chat_template does; which
/// part of the text is an answer is found by rendering it up to the question with the prompt of an answer behind it, and with marks in place of contents.
/// </summary>
public sealed partial class ChatForm
{
    // Of Unicode's private use area: in no row.
    private const string Mark = "\uE0F1\uE0F2", NextMark = "\uE0F3\uE0F4";

    private readonly JinjaTemplate _jinja;
    private readonly string _bos, _eos;
    private readonly bool? _thinking;
    private int _opened; // answers whose prompt ends with more than what stands before them

    private ChatForm(JinjaTemplate jinja, string bos, string eos, bool? thinking, int[] stopIds) =>
        (_jinja, _bos, _eos, _thinking, StopIds) = (jinja, bos, eos, thinking, stopIds);

    /// <summary>eos_token_id of generation_config.json: what ends an answer beside the tokenizer's eos token.</summary>
    public IReadOnlyList<int> StopIds { get; }

    /// <summary>What a person should know of the conversations that were told.</summary>
    internal IEnumerable<string> Remarks => _opened == 0 ? []
        : [$"{_opened:N0} answers are told by the model's chat template without what it begins an answer with when it asks for one (an open thought, "
            + "as a rule): the rows hold them as they are told"];

    /// <param name="folder">Of the model.</param>
    /// <param name="thinking">enable_thinking; null: the template's own default.</param>
    /// <exception cref="InvalidDataException">The folder has no chat template, or one with something that is not known here.</exception>
    public static ChatForm Load(string folder, bool? thinking)
    {
        if (!Directory.Exists(folder)) throw HubCache.NoModel(Path.Combine(folder, "config.json"));
        var (source, file) = ChatTemplate.Read(folder) ?? throw new InvalidDataException($"{folder}: brings no chat template (chat_template.jinja, or "
            + $"chat_template in tokenizer_config.json), which template: auto runs; give one by name: {string.Join(", ", Templates.Names)}");
        var settings = Path.Combine(folder, "tokenizer_config.json");
        JsonElement config = File.Exists(settings) ? JsonSource.Read(settings, "a tokenizer's settings") : default;
        string Token(string key) => config.ValueKind == JsonValueKind.Object && config.TryGetProperty(key, out var token)
            ? token.ValueKind == JsonValueKind.String ? token.GetString()!
                : token.ValueKind == JsonValueKind.Object && token.TryGetProperty("content", out var content) ? content.GetString() ?? "" : ""
            : "";
        return new ChatForm(JinjaTemplate.Parse(source, file), Token("bos_token"), Token("eos_token"), thinking, ReadStops(folder));
    }

    /// <summary>The text of a conversation.</summary>
    /// <param name="messages">Questions and answers in turn.</param>
    /// <param name="system">System prompt, or null.</param>
    /// <param name="tools">JSON list of tools, or null.</param>
    /// <param name="prompt">With what an answer begins with (add_generation_prompt).</param>
    /// <exception cref="InvalidDataException">The template refuses it, or has no form for its function calls.</exception>
    public string Render(IReadOnlyList<Message> messages, string? system = null, string? tools = null, bool prompt = false)
    {
        ArgumentNullException.ThrowIfNull(messages);
        if (!messages.Any(m => m.Role == Role.Function)) return Run(messages, system, tools, prompt, bare: false, asText: false);
        // Templates differ in how a message of calls is to look: its content empty or none, arguments a mapping or their JSON.
        InvalidDataException? refused = null;
        foreach (var (bare, asText) in new[] { (false, false), (true, false), (false, true), (true, true) })
        {
            try
            {
                var text = Run(messages, system, tools, prompt, bare, asText);
                var called = messages.Where(m => m.Role == Role.Function).SelectMany(m => Calls(m.Content));
                if (called.All(call => text.Contains(call.Name, StringComparison.Ordinal))) return text;
            }
            catch (InvalidDataException error)
            {
                refused ??= error;
            }
        }
        throw refused ?? new InvalidDataException("the model's chat template leaves function calls out");
    }

    /// <inheritdoc cref="Template.EncodeTurns"/>
    public List<(int[] Source, int[] Target)> EncodeTurns(Tokenizer tokenizer, IReadOnlyList<Message> messages, string? system, string? tools)
    {
        ArgumentNullException.ThrowIfNull(tokenizer);
        ArgumentNullException.ThrowIfNull(messages);
        var whole = Render(messages, system, tools);
        List<(int[], int[])> turns = [];
        var at = 0;
        for (var question = 0; question < messages.Count; question += 2)
        {
            var asked = messages.Take(question + 1).ToArray();
            var (before, bare) = (Render(asked, system, tools, prompt: true), Render(asked, system, tools));
            // What the prompt of an answer begins and a told answer lacks, as an open thought, is no part of the row.
            var start = Common(before, whole);
            if (start < before.Length && (!before.StartsWith(bare, StringComparison.Ordinal) || start < bare.Length))
                throw new InvalidDataException($"the model's chat template tells question {(question / 2) + 1} in another form when an answer follows, so that "
                    + "no prompt can be learned from it; give a template by name");
            if (start < before.Length) Interlocked.Increment(ref _opened);
            var isLast = question + 2 == messages.Count;
            var end = isLast ? whole.Length : Place(messages, question + 2, whole, system, tools) - Header(messages, question, system, tools);
            if (start < at || end < start)
                throw new InvalidDataException($"the model's chat template does not tell answer {(question / 2) + 1} between its question and the next; give a "
                    + "template by name");
            var target = tokenizer.Encode(whole[start..end]);
            // What nothing ends would be learned as going on for ever.
            if (isLast && tokenizer.EosId is { } eos && !target.Reverse().Take(3).Any(tokenizer.IsSpecial)) target = [.. target, eos];
            turns.Add((tokenizer.Encode(whole[at..start]), target));
            at = end;
        }
        return turns;
    }

    /// <summary>Where the content of a question stands in the text.</summary>
    private int Place(IReadOnlyList<Message> messages, int question, string whole, string? system, string? tools) =>
        Common(whole, Render([.. messages.Select((m, i) => i == question ? m with { Content = NextMark } : m)], system, tools));

    /// <summary>Characters between the end of an answer and the content of the next question.</summary>
    private int Header(IReadOnlyList<Message> messages, int question, string? system, string? tools)
    {
        var answer = messages[question + 1];
        var marked = answer.Role == Role.Function
            ? $$"""{"name": {{PythonJson.Quote(Calls(answer.Content)[0].Name)}}, "arguments": {"x": "{{Mark}}"} }"""
            : Mark;
        Message[] told = [.. messages.Take(question + 1), answer with { Content = marked }];
        var (ended, next) = (Render(told, system, tools), Render([.. told, messages[question + 2] with { Content = NextMark }], system, tools));
        var until = next.IndexOf(NextMark, StringComparison.Ordinal);
        if (until < 0) throw new InvalidDataException("the model's chat template leaves a question out; give a template by name");
        var from = next.LastIndexOf(Mark, until, StringComparison.Ordinal) + Mark.Length;
        var tail = next[from..until];
        var end = ended[(ended.LastIndexOf(Mark, StringComparison.Ordinal) + Mark.Length)..];
        if (tail.StartsWith(end, StringComparison.Ordinal)) return tail.Length - end.Length;
        // The last answer of all may be ended by another token than those before it.
        return tail.Length - (IsOneMark().Match(end).Length == end.Length ? IsOneMark().Match(tail).Length : 0);
    }

    /// <summary>A special token in one of the usual spellings, at the beginning.</summary>
    [GeneratedRegex(@"\A<[|｜][^<>]+[|｜]>")]
    private static partial Regex IsOneMark();

    private string Run(IReadOnlyList<Message> messages, string? system, string? tools, bool prompt, bool bare, bool asText)
    {
        List<object?> all = string.IsNullOrEmpty(system) ? [] : [Map(("role", "system"), ("content", system))];
        List<(string Name, object? Arguments, string Id)> last = [];
        foreach (var message in messages)
        {
            if (message.Role == Role.Function)
            {
                last = [.. Calls(message.Content).Select((call, i) => (call.Name, asText ? PythonJson.Dump(call.Arguments) : Value(call.Arguments),
                    $"functions.{call.Name}:{i}"))];
                all.Add(Map(("role", "assistant"), ("content", bare ? null : ""), ("tool_calls", last.Select(call => (object?)Map(("type", "function"),
                    ("id", call.Id), ("function", Map(("name", call.Name), ("arguments", call.Arguments))))).ToList())));
                continue;
            }
            if (message.Behind is { } before) all.Add(Told(before));
            all.Add(Told(message));
        }
        var variables = Map(("messages", all), ("bos_token", _bos), ("eos_token", _eos), ("add_generation_prompt", prompt));
        if (!ToolForm.IsNone(tools)) variables["tools"] = Tools(tools!);
        if (_thinking is { } on) variables["enable_thinking"] = variables["thinking"] = on;
        return _jinja.Render(variables);

        object? Told(Message message) => message.Role == Role.Observation
            ? Map(("role", "tool"), ("content", message.Content), ("name", last.FirstOrDefault().Name), ("tool_call_id", last.FirstOrDefault().Id))
            : Map(("role", message.Role == Role.User ? "user" : "assistant"), ("content", message.Content));
    }

    private static List<object?> Tools(string tools)
    {
        using var document = Parse(tools, "the tools");
        return [.. Each(document.RootElement).Select(tool =>
            tool.ValueKind == JsonValueKind.Object && tool.TryGetProperty("type", out _) ? Value(tool) : Map(("type", "function"), ("function", Value(tool))))];
    }

    private static (string Name, JsonElement Arguments)[] Calls(string content)
    {
        using var document = Parse(content, "a function call");
        return [.. Each(document.RootElement).Select(call =>
            call.ValueKind == JsonValueKind.Object && call.TryGetProperty("name", out var name) && call.TryGetProperty("arguments", out var arguments)
                ? (name.GetString() ?? "", arguments.Clone())
                : throw new InvalidDataException($"a function call is no JSON object {{name, arguments}} or list of them: {call.GetRawText()}"))];
    }

    private static JsonElement[] Each(JsonElement json) => json.ValueKind == JsonValueKind.Array ? [.. json.EnumerateArray()] : [json];

    private static JsonDocument Parse(string json, string what)
    {
        try
        {
            return JsonDocument.Parse(json);
        }
        catch (JsonException error)
        {
            throw new InvalidDataException($"{what} must be JSON: {JsonSource.Reason(error)}", error);
        }
    }

    private static object? Value(JsonElement json) => json.ValueKind switch
    {
        JsonValueKind.Object => json.EnumerateObject().Aggregate(Map(), (map, p) =>
        {
            map[p.Name] = Value(p.Value);
            return map;
        }),
        JsonValueKind.Array => json.EnumerateArray().Select(Value).ToList(),
        JsonValueKind.String => json.GetString(),
        JsonValueKind.Number => json.TryGetInt64(out var whole) ? (object)whole : json.GetDouble(),
        JsonValueKind.True => true,
        JsonValueKind.False => false,
        _ => null,
    };

    private static Dictionary<string, object?> Map(params ReadOnlySpan<(string Key, object? Value)> pairs)
    {
        var map = new Dictionary<string, object?>(StringComparer.Ordinal);
        foreach (var (key, value) in pairs) map[key] = value;
        return map;
    }

    private static int Common(string a, string b) => a.AsSpan().CommonPrefixLength(b);

    private static int[] ReadStops(string folder)
    {
        var path = Path.Combine(folder, "generation_config.json");
        if (!File.Exists(path) || !JsonSource.Read(path, "settings of generation").TryGetProperty("eos_token_id", out var ids)) return [];
        return [.. Each(ids).Where(id => id.ValueKind == JsonValueKind.Number).Select(id => id.GetInt32())];
    }
}
