using System.Text.Json;

using KtNotebooks.Data;
using KtNotebooks.Server.Http;

namespace KtNotebooks.Server.OpenAi;

/// <summary>The body of /v1/responses.</summary>
/// <param name="Request">What is asked for.</param>
/// <param name="Stream">In events.</param>
/// <param name="Body">What the answer repeats of it.</param>
internal sealed record ResponsesRequest(ModelRequest Request, bool Stream, ResponseEcho Body)
{
    public static ResponsesRequest Read(JsonElement body, Template template)
    {
        var f = new JsonFields(body);
        var user = f.Text("user");
        var request = new ModelRequest
        {
            Model = f.RequiredText("model"),
            MaxTokens = f.Int("max_output_tokens", 1),
            Temperature = f.Number("temperature", SamplingRange.Temperature),
            TopP = f.Number("top_p", SamplingRange.TopP),
            User = f.Text("safety_identifier") ?? user,
        };
        var top = f.Int("top_logprobs", 0, RequestFields.MostLikeliest);
        List<NoEffect> hints = [];
        var logprobs = Include(f, hints);
        if (logprobs || top > 0) request = request with { Logprobs = top ?? 0 };
        var text = f.Object("text");
        if (text is not null)
        {
            request = RequestFields.ReadFormat(text.Object("format"), request, format => format);
            text.Refuse("verbosity", "say in the prompt how long an answer should be", "medium");
            text.Finish();
        }
        request = ReadTools(f, request);
        if (f.Object("reasoning") is { } reasoning)
        {
            request = request with { Think = RequestFields.ReadEffort(reasoning, "effort", template, hints) };
            foreach (var name in (string[])["summary", "generate_summary"])
                if (reasoning.Word(name, "auto", "concise", "detailed") is not null)
                    hints.Add(new NoEffect(reasoning.At(name), "thoughts are told as they are"));
            reasoning.Finish();
        }
        request = ReadInput(f, request, template);
        var stream = f.Flag("stream") ?? false;
        if (f.Object("stream_options") is { } options)
        {
            options.Refuse("include_obfuscation", "answers are not padded", "false");
            options.Finish();
        }
        foreach (var (name, why, nothing) in Others) f.Refuse(name, why, nothing);
        RequestFields.ReadServiceFields(f, hints);
        var echo = new ResponseEcho(f.Text("instructions"), f.Any("metadata")?.Clone(), f.Any("tools")?.Clone(), f.Any("tool_choice")?.Clone(),
            f.Any("text")?.Clone(), f.Any("reasoning")?.Clone());
        f.Finish();
        return new ResponsesRequest(request with { NoEffects = hints }, stream, echo);
    }

    private static readonly (string Name, string Why, string Nothing)[] Others =
    [
        ("previous_response_id", "answers are not kept; send all items", ""),
        ("conversation", "conversations are not kept; send all items", ""),
        ("background", "an answer is given while the client waits", "false"),
        ("truncation", "a prompt is never cut", "disabled"),
        ("max_tool_calls", "there are no tools of the server's", ""),
        ("prompt", "there are no stored prompts", ""),
        ("context_management", "a prompt is never cut", ""),
    ];

    private static bool Include(JsonFields f, List<NoEffect> hints)
    {
        var logprobs = false;
        foreach (var (value, path) in f.List("include"))
        {
            var what = value.ValueKind == JsonValueKind.String ? value.GetString() : null;
            if (what == "message.output_text.logprobs") logprobs = true;
            else if (what == "reasoning.encrypted_content") hints.Add(new NoEffect("include", "thoughts are told as they are, not encrypted"));
            else throw ApiException.Unsupported(path, "only message.output_text.logprobs can be included");
        }
        return logprobs;
    }

    private static ModelRequest ReadTools(JsonFields f, ModelRequest request)
    {
        List<Tool> tools = [];
        foreach (var (value, path) in f.List("tools", 128))
        {
            var tool = new JsonFields(value, path);
            if (tool.RequiredText("type") != "function") throw ApiException.Unsupported(tool.At("type"), "tools are functions");
            tools.Add(RequestFields.ReadTool(tool));
            tool.Finish();
        }
        request = request with { Tools = RequestFields.Distinct(tools, "tools"), ParallelCalls = f.Flag("parallel_tool_calls") ?? true };
        if (f.Any("tool_choice") is not { } choice) return request;
        if (choice.ValueKind == JsonValueKind.String)
            return request with
            {
                Choice = f.Word("tool_choice", "auto", "none", "required") switch
                {
                    "auto" => ToolChoice.Auto,
                    "none" => ToolChoice.None,
                    _ => ToolChoice.Required,
                },
            };
        var named = new JsonFields(choice, "tool_choice");
        if (named.RequiredText("type") != "function") throw ApiException.Unsupported(named.At("type"), "only a function can be chosen");
        var name = RequestFields.Known(named.RequiredText("name"), tools, named.At("name"));
        named.Finish();
        return request with { Choice = ToolChoice.Required, ToolName = name };
    }

    private static ModelRequest ReadInput(JsonFields f, ModelRequest request, Template template)
    {
        var turns = new Turns(template);
        if (f.Text("instructions") is { } instructions) turns.AddSystem(instructions, "instructions");
        if (f.Required("input").ValueKind == JsonValueKind.String) turns.AddUser(f.Text("input")!, "input");
        else ReadItems(f.List("input"), turns);
        var (messages, _) = turns.End(mayGoOn: false, "input");
        return request with { Messages = messages, System = turns.System };
    }

    /// <summary>Thoughts and calls that stand before an answer belong to it.</summary>
    private static void ReadItems(IReadOnlyList<(JsonElement Value, string Path)> items, Turns turns)
    {
        string? thought = null, text = null;
        List<(string, string, string)> calls = [];
        var at = "input";
        foreach (var (value, path) in items)
        {
            var item = new JsonFields(value, path);
            item.Text("status");
            var type = item.Text("type") ?? "message";
            var answers = type is "reasoning" or "function_call" || (type == "message" && item.Text("role") == "assistant");
            if (!answers) Say();
            if (answers) at = path;
            switch (type)
            {
                case "message":
                    item.Text("id");
                    var content = ContentOf(item);
                    switch (item.RequiredText("role"))
                    {
                        case "system" or "developer": turns.AddSystem(content, path); break;
                        case "user": turns.AddUser(content, path); break;
                        case "assistant": text = text is null ? content : text + "\n\n" + content; break;
                        default: throw ApiException.Wrong(item.At("role"), "must be one of system, developer, user, assistant");
                    }
                    break;
                case "reasoning":
                    item.Text("id");
                    item.List("summary");
                    item.Refuse("encrypted_content", "thoughts are told as they are");
                    thought = string.Concat(item.List("content").Select(part => new JsonFields(part.Value, part.Path).RequiredText("text")));
                    break;
                case "function_call":
                    item.Text("id");
                    calls.Add((item.RequiredText("call_id"), item.RequiredText("name"), item.RequiredText("arguments")));
                    break;
                case "function_call_output":
                    item.Text("id");
                    turns.AddResult(item.RequiredText("call_id"), item.Any("output") is { ValueKind: JsonValueKind.Array }
                        ? TextOf(item.List("output")) : item.RequiredText("output"), path);
                    break;
                default: throw ApiException.Unsupported(item.At("type"), $"'{type}'");
            }
            item.Finish();
        }
        Say();

        void Say()
        {
            if (text is not null || calls.Count > 0) turns.AddAnswer(thought, text, calls, at);
            (thought, text, calls) = (null, null, []);
        }
    }

    private static string ContentOf(JsonFields item) => item.Required("content") is { ValueKind: JsonValueKind.String } text
        ? text.GetString()! : TextOf(item.List("content"));

    private static string TextOf(IReadOnlyList<(JsonElement Value, string Path)> parts) => string.Concat(parts.Select(part =>
    {
        var p = new JsonFields(part.Value, part.Path);
        if (p.RequiredText("type") is not ("input_text" or "output_text" or "text") and var type)
            throw ApiException.Unsupported(part.Path, $"'{type}': this model reads text alone");
        p.List("annotations");
        p.Any("logprobs");
        var said = p.RequiredText("text");
        p.Finish();
        return said;
    }));
}

/// <summary>What a response repeats of its request, as it was.</summary>
internal sealed record ResponseEcho(string? Instructions, JsonElement? Metadata, JsonElement? Tools, JsonElement? ToolChoice, JsonElement? Text,
    JsonElement? Reasoning);
