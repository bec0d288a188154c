using System.Text.Json.Nodes;

using KtNotebooks.Data;

namespace KtNotebooks.Server.OpenAi;

/// <summary>
/// A conversation as clients send it becomes turns as templates tell them: questions and answers one after another. Messages of one side that follow each
/// other are one turn, with an empty line between; results of several calls are one turn too, and what a person says to them stands behind it.
/// </summary>
internal sealed class Turns(Template template)
{
    private readonly List<Message> _turns = [];
    private readonly List<string> _system = [];
    private readonly HashSet<string> _called = new(StringComparer.Ordinal);
    private string? _last;

    /// <summary>System prompts joined; null: none.</summary>
    public string? System => _system.Count == 0 ? null : string.Join("\n\n", _system);

    public void AddSystem(string text, string at)
    {
        if (_turns.Count > 0) throw ApiException.Wrong(at, "a system message must stand before all others: the model's template has one place for it");
        _system.Add(text);
    }

    public void AddUser(string text, string at)
    {
        if (_called.Count > 0) throw ApiException.Wrong(at, $"the call {_called.First()} has no result yet: a message of role tool with this tool_call_id");
        Add(Role.User, text, "\n\n", at);
    }

    /// <param name="id">Of the call that it answers.</param>
    public void AddResult(string id, string text, string at)
    {
        if (!_called.Remove(id)) throw ApiException.Wrong(at, $"there is no call {id} before it that waits for a result");
        Add(Role.Observation, text, template.Tools == ToolForm.Qwen ? "\n</tool_response>\n<tool_response>\n" : "\n", at);
    }

    /// <summary>An answer with a thought, a text and calls, of which each may be missing.</summary>
    public void AddAnswer(string? thought, string? text, IReadOnlyList<(string Id, string Name, string Arguments)> calls, string at)
    {
        if (_turns.Count == 0) throw ApiException.Wrong(at, "a conversation begins with a question");
        if (_called.Count > 0) throw ApiException.Wrong(at, $"the call {_called.First()} has no result yet");
        if (thought is { Length: > 0 } && template.Thinking is { } marks) text = marks.Open + thought + marks.Close + text;
        if (calls.Count == 0)
        {
            Add(Role.Assistant, text ?? "", "\n\n", at);
            return;
        }
        if (template.Tools is null) throw ApiException.Unsupported(at, $"the template '{template.Name}' has no form for calls");
        var json = new JsonArray([.. calls.Select(c => (JsonNode)new JsonObject { ["name"] = c.Name, ["arguments"] = c.Arguments })]).ToJsonString();
        try
        {
            var spelled = template.Tools.Call(json);
            if (string.IsNullOrEmpty(text)) Add(Role.Function, json, "\n", at);
            else Add(Role.Assistant, text + "\n" + spelled, "\n", at);
        }
        catch (InvalidDataException error)
        {
            throw ApiException.Wrong(at, error.Message);
        }
        foreach (var (id, _, _) in calls) _called.Add(id);
    }

    /// <summary>The turns. An answer at the end is what the model shall go on from.</summary>
    public (IReadOnlyList<Message> Messages, string? Prefill) End(bool mayGoOn, string at)
    {
        if (_turns.Count == 0) throw ApiException.Wrong(at, "must hold a question");
        if (_called.Count > 0) throw ApiException.Wrong(at, $"the call {_called.First()} has no result");
        if (_turns[^1].Role is Role.User or Role.Observation) return (_turns, null);
        if (!mayGoOn) throw ApiException.Wrong(at, "must end with a question (or with continue_final_message: true, to go on with the last answer)");
        return (_turns[..^1], _turns[^1].Content);
    }

    private void Add(Role role, string text, string between, string at)
    {
        if (_turns is [.., { Role: Role.Observation } result] && role == Role.User)
        {
            _turns[^1] = new Message(role, text) { Behind = result };
        }
        else if (_turns is [.., var last] && IsQuestion(last.Role) == IsQuestion(role))
        {
            if (last.Role != role)
                throw ApiException.Wrong(at,
                    $"stands behind {_last}, which is of the same side but of another kind; the model's template has no form for that");
            if (role == Role.Function) throw ApiException.Wrong(at, "stands behind another call; calls of one answer belong into one message");
            _turns[^1] = last with { Content = last.Content + between + text };
        }
        else
        {
            _turns.Add(new Message(role, text));
        }
        _last = at;
    }

    private static bool IsQuestion(Role role) => role is Role.User or Role.Observation;
}
