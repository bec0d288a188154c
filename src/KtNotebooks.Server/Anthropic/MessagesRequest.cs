using System.Text.Json;

using KtNotebooks.Data;
using KtNotebooks.Server.Http;
using KtNotebooks.Server.OpenAi;

namespace KtNotebooks.Server.Anthropic;

/// <summary>The body of /v1/messages and of /v1/messages/count_tokens.</summary>
internal sealed record MessagesRequest(ModelRequest Request, bool Stream)
{
    /// <param name="body">JSON.</param>
    /// <param name="template">Of the model.</param>
    /// <param name="counts">It asks how many tokens the prompt has, and nothing else.</param>
    public static MessagesRequest Read(JsonElement body, Template template, bool counts = false)
    {
        var f = new JsonFields(body);
        List<NoEffect> hints = [];
        var request = new ModelRequest { Model = f.RequiredText("model") };
        if (!counts)
        {
            request = request with
            {
                MaxTokens = f.Int("max_tokens", 1) ?? throw f.Missing("max_tokens"),
                Temperature = f.Number("temperature", SamplingRange.Temperature with { Most = 1 }),
                TopP = f.Number("top_p", SamplingRange.TopP),
                TopK = f.Int("top_k", 0),
                Stops = RequestFields.Stops(f, "stop_sequences"),
            };
        }
        request = ReadTools(f, request, hints);
        if (f.Object("thinking") is { } thinking) request = request with { Think = ReadThinking(thinking, template, hints) };
        if (f.Object("output_config") is { } output)
        {
            request = ReadFormat(output, request);
            if (output.Text("effort") is not null) hints.Add(new NoEffect(output.At("effort"), "the model has no degrees of it"));
            output.Finish();
        }
        if (f.Object("context_management") is { } context) ReadContext(context, hints);
        if (f.Object("metadata") is { } metadata)
        {
            request = request with { User = metadata.Text("user_id") };
            metadata.Finish();
        }
        request = ReadMessages(f, request, template);
        var stream = !counts && (f.Flag("stream") ?? false);
        f.Refuse("service_tier", "there is one", "auto", "standard_only");
        f.Any("cache_control"); // what begins alike is always kept
        f.Refuse("container", "there are no containers");
        f.Refuse("mcp_servers", "tools are functions of the client's");
        f.Finish();
        return new MessagesRequest(request with { NoEffects = hints }, stream);
    }

    /// <summary>Whether the model thinks; null: as the config says. That it may think says nothing to a model that does not.</summary>
    private static bool? ReadThinking(JsonFields thinking, Template template, List<NoEffect> hints)
    {
        var on = thinking.Word("type", "enabled", "disabled", "adaptive");
        var none = template.Thinking is null;
        if (none && on != "disabled") hints.Add(new NoEffect("thinking", $"the template '{template.Name}' is of a model that does not think"));
        if (thinking.Int("budget_tokens", 1) is not null && !none)
            hints.Add(new NoEffect(thinking.At("budget_tokens"), "max_tokens bounds thought and answer together"));
        if (thinking.Word("display", "summarized", "omitted") is not null && !none)
            hints.Add(new NoEffect(thinking.At("display"), "thoughts are told as they are"));
        thinking.Finish();
        return none || on is null or "adaptive" ? null : on == "enabled";
    }

    /// <summary>Edits of a conversation by the service: all but those of thoughts, which the model's template makes itself, would change the prompt.</summary>
    private static void ReadContext(JsonFields context, List<NoEffect> hints)
    {
        foreach (var (value, path) in context.List("edits"))
        {
            var edit = new JsonFields(value, path);
            if (edit.RequiredText("type") is not "clear_thinking_20251015" and var type)
                throw ApiException.Unsupported(edit.At("type"), $"'{type}': a prompt is never cut");
            edit.Any("keep");
            edit.Finish();
            hints.Add(new NoEffect("context_management", "earlier thoughts are told or left out as the model's template has it"));
        }
        context.Finish();
    }

    private static ModelRequest ReadFormat(JsonFields output, ModelRequest request)
    {
        if (output.Object("format") is not { } format) return request;
        format.Word("type", "json_schema");
        var schema = format.Required("schema");
        format.Finish();
        return request with { Schema = schema.Clone() };
    }

    private static ModelRequest ReadTools(JsonFields f, ModelRequest request, List<NoEffect> hints)
    {
        List<Tool> tools = [];
        foreach (var (value, path) in f.List("tools", 128))
        {
            var tool = new JsonFields(value, path);
            if (tool.Text("type") is not (null or "custom") and var type)
                throw ApiException.Unsupported(tool.At("type"), $"'{type}': tools are functions of the client's");
            tool.Any("cache_control");
            tool.Refuse("defer_loading", "every tool is told to the model", "false");
            tool.Refuse("allowed_callers", "the model alone calls tools", """["direct"]""");
            if (tool.Flag("eager_input_streaming") == true && tools.Count == 0)
                hints.Add(new NoEffect("tools.eager_input_streaming", "the arguments of a call come in one piece"));
            tools.Add(RequestFields.ReadTool(tool, "input_schema"));
            tool.Finish();
        }
        request = request with { Tools = RequestFields.Distinct(tools, "tools") };
        if (f.Object("tool_choice") is not { } choice) return request;
        var kind = choice.Word("type", "auto", "any", "tool", "none");
        request = request with
        {
            Choice = kind switch { "auto" or null => ToolChoice.Auto, "none" => ToolChoice.None, _ => ToolChoice.Required },
            ToolName = kind == "tool" ? RequestFields.Known(choice.RequiredText("name"), tools, choice.At("name")) : null,
            ParallelCalls = !(choice.Flag("disable_parallel_tool_use") ?? false),
        };
        choice.Finish();
        return request;
    }

    private static ModelRequest ReadMessages(JsonFields f, ModelRequest request, Template template)
    {
        var turns = new Turns(template);
        if (f.Any("system") is { } system)
        {
            if (system.ValueKind == JsonValueKind.String) turns.AddSystem(f.Text("system")!, "system");
            else foreach (var (value, path) in f.List("system")) turns.AddSystem(TextOf(new JsonFields(value, path)), path);
        }
        f.Required("messages");
        foreach (var (value, path) in f.List("messages"))
        {
            var m = new JsonFields(value, path);
            var role = m.Word("role", "user", "assistant", "system") ?? throw m.Missing("role");
            var blocks = m.Required("content").ValueKind == JsonValueKind.String ? null : m.List("content");
            if (role == "user") ReadUser(m, blocks, turns, path);
            else if (role == "system")
                turns.AddSystem(blocks is null ? m.Text("content")! : string.Concat(blocks.Select(b => TextOf(new JsonFields(b.Value, b.Path)))), path);
            else ReadAnswer(m, blocks, turns, path);
            m.Finish();
        }
        var (messages, prefill) = turns.End(mayGoOn: true, "messages");
        return request with { Messages = messages, System = turns.System, Prefill = prefill };
    }

    private static void ReadUser(JsonFields m, IReadOnlyList<(JsonElement Value, string Path)>? blocks, Turns turns, string path)
    {
        List<string> texts = [];
        if (blocks is null) texts.Add(m.Text("content")!);
        foreach (var (value, at) in blocks ?? [])
        {
            var block = new JsonFields(value, at);
            if (block.RequiredText("type") != "tool_result")
            {
                texts.Add(TextOf(block));
                continue;
            }
            block.Any("cache_control");
            var failed = block.Flag("is_error") ?? false;
            var result = block.Any("content") is not { } content ? ""
                : content.ValueKind == JsonValueKind.String ? block.Text("content")!
                : string.Concat(block.List("content").Select(part => TextOf(new JsonFields(part.Value, part.Path))));
            turns.AddResult(block.RequiredText("tool_use_id"), failed ? $"error: {result}" : result, at);
            block.Finish();
        }
        if (texts.Count > 0) turns.AddUser(string.Join("\n\n", texts), path);
    }

    private static void ReadAnswer(JsonFields m, IReadOnlyList<(JsonElement Value, string Path)>? blocks, Turns turns, string path)
    {
        string? thought = null, text = blocks is null ? m.Text("content") : null;
        List<(string, string, string)> calls = [];
        foreach (var (value, at) in blocks ?? [])
        {
            var block = new JsonFields(value, at);
            switch (block.RequiredText("type"))
            {
                case "thinking":
                    thought += block.RequiredText("thinking");
                    block.Text("signature");
                    block.Any("cache_control");
                    block.Finish();
                    break;
                case "tool_use":
                    block.Any("cache_control");
                    calls.Add((block.RequiredText("id"), block.RequiredText("name"), block.Required("input").GetRawText()));
                    block.Finish();
                    break;
                default:
                    text += TextOf(block);
                    break;
            }
        }
        turns.AddAnswer(thought, text, calls, path);
    }

    private static string TextOf(JsonFields block)
    {
        if (block.RequiredText("type") is not "text" and var type) throw ApiException.Unsupported(block.At("type"), $"'{type}': this model reads text alone");
        block.Any("cache_control");
        block.List("citations");
        var text = block.RequiredText("text");
        block.Finish();
        return text;
    }
}
