using System.Text.Json;

using KtNotebooks.Data;
using KtNotebooks.Server.Http;

namespace KtNotebooks.Server.OpenAi;

/// <summary>The body of /v1/chat/completions.</summary>
/// <param name="Request">What is asked for.</param>
/// <param name="Stream">In events.</param>
/// <param name="StreamUsage">With a last event that holds the usage.</param>
internal sealed record ChatRequest(ModelRequest Request, bool Stream, bool StreamUsage)
{
    public static ChatRequest Read(JsonElement body, Template template)
    {
        var f = new JsonFields(body);
        var request = RequestFields.ReadSampling(f, new ModelRequest { Model = f.RequiredText("model") });
        var most = f.Int("max_tokens", 1);
        request = request with { MaxTokens = f.Int("max_completion_tokens", 1) ?? most };
        request = ReadLogprobs(f, request);
        request = RequestFields.ReadFormat(f.Object("response_format"), request, format => format.Object("json_schema") ?? throw format.Missing("json_schema"));
        request = RequestFields.ReadVllm(f, request);
        f.Refuse("add_generation_prompt", "a conversation is told up to where its answer begins; continue_final_message goes on with the last", "true");
        request = ReadTools(f, request);
        List<NoEffect> hints = [];
        request = ReadThinking(f, request, template, hints);
        request = ReadMessages(f, request, template);
        var stream = f.Flag("stream") ?? false;
        var usage = ReadStreamOptions(f, stream);
        RequestFields.ReadServiceFields(f, hints);
        ReadOthers(f, hints);
        f.Finish();
        return new ChatRequest(request with { NoEffects = hints }, stream, usage);
    }

    /// <summary>The messages alone, as /tokenize has them.</summary>
    public static ModelRequest ReadMessages(JsonFields f, ModelRequest request, Template template)
    {
        var turns = new Turns(template);
        f.Required("messages");
        foreach (var (value, path) in f.List("messages"))
        {
            var m = new JsonFields(value, path);
            m.Text("name"); // templates have no place for it, and models were not trained with it
            switch (m.RequiredText("role"))
            {
                case "system" or "developer": turns.AddSystem(ContentOf(m), path); break;
                case "user": turns.AddUser(ContentOf(m), path); break;
                case "tool": turns.AddResult(m.RequiredText("tool_call_id"), ContentOf(m), path); break;
                case "assistant":
                    m.Refuse("audio", "this model has text alone");
                    m.Refuse("function_call", "write tool_calls");
                    m.Any("refusal");
                    m.List("annotations"); // where the words came from: no template tells it
                    var thought = m.Text("reasoning_content");
                    var calls = CallsOf(m);
                    turns.AddAnswer(thought, calls.Count > 0 && !m.Has("content") ? null : ContentOf(m), calls, path);
                    break;
                case "function": throw ApiException.Unsupported(m.At("role"), "write role: tool with a tool_call_id");
                default: throw ApiException.Wrong(m.At("role"), "must be one of system, developer, user, assistant, tool");
            }
            m.Finish();
        }
        var (messages, prefill) = turns.End(f.Flag("continue_final_message") ?? false, "messages");
        return request with { Messages = messages, System = turns.System, Prefill = prefill };
    }

    public static ModelRequest ReadTools(JsonFields f, ModelRequest request)
    {
        List<Tool> tools = [];
        foreach (var (value, path) in f.List("tools", 128))
        {
            var tool = new JsonFields(value, path);
            if (tool.RequiredText("type") != "function") throw ApiException.Unsupported(tool.At("type"), "tools are functions");
            var function = tool.Object("function") ?? throw tool.Missing("function");
            tools.Add(RequestFields.ReadTool(function));
            function.Finish();
            tool.Finish();
        }
        request = request with { Tools = RequestFields.Distinct(tools, "tools"), ParallelCalls = f.Flag("parallel_tool_calls") ?? true };
        return f.Any("tool_choice") switch
        {
            null => request,
            { ValueKind: JsonValueKind.String } => request with
            {
                Choice = f.Word("tool_choice", "auto", "none", "required") switch
                {
                    "auto" => ToolChoice.Auto,
                    "none" => ToolChoice.None,
                    _ => ToolChoice.Required,
                },
            },
            { } named => request with { Choice = ToolChoice.Required, ToolName = Named(new JsonFields(named, "tool_choice"), tools) },
        };
    }

    private static string Named(JsonFields choice, List<Tool> tools)
    {
        choice.Word("type", "function");
        var function = choice.Object("function") ?? throw choice.Missing("function");
        var name = function.RequiredText("name");
        function.Finish();
        choice.Finish();
        return RequestFields.Known(name, tools, function.At("name"));
    }

    private static ModelRequest ReadLogprobs(JsonFields f, ModelRequest request)
    {
        var wanted = f.Flag("logprobs") ?? false;
        var top = f.Int("top_logprobs", 0, RequestFields.MostLikeliest);
        if (top is not null && !wanted) throw ApiException.Wrong("top_logprobs", "needs logprobs: true");
        return wanted ? request with { Logprobs = top ?? 0 } : request;
    }

    private static ModelRequest ReadThinking(JsonFields f, ModelRequest request, Template template, List<NoEffect> hints)
    {
        var think = RequestFields.ReadEffort(f, "reasoning_effort", template, hints);
        if (f.Object("chat_template_kwargs") is { } kwargs)
        {
            think = kwargs.Flag("enable_thinking") ?? kwargs.Flag("thinking") ?? think;
            kwargs.Finish();
        }
        return request with { Think = think };
    }

    private static bool ReadStreamOptions(JsonFields f, bool stream)
    {
        if (f.Object("stream_options") is not { } options) return false;
        if (!stream) throw ApiException.Wrong("stream_options", "needs stream: true");
        var usage = options.Flag("include_usage") ?? false;
        options.Refuse("include_obfuscation", "answers are not padded", "false");
        options.Finish();
        return usage;
    }

    private static void ReadOthers(JsonFields f, List<NoEffect> hints)
    {
        f.Refuse("functions", "write tools");
        f.Refuse("function_call", "write tool_choice");
        f.Refuse("audio", "this model has text alone");
        f.Refuse("modalities", "this model has text alone", """["text"]""");
        f.Refuse("web_search_options", "there is no search; give the model a tool that searches");
        f.Refuse("verbosity", "say in the prompt how long an answer should be", "medium");
        if (f.Object("prediction") is not null) hints.Add(new NoEffect("prediction", "tokens are drawn one by one; the answer is the same"));
        if (f.Object("metadata") is not null) hints.Add(new NoEffect("metadata", "answers are not kept"));
    }

    private static string ContentOf(JsonFields m)
    {
        if (m.Required("content") is { ValueKind: JsonValueKind.String } text) return text.GetString()!;
        return string.Concat(m.List("content").Select(part =>
        {
            var p = new JsonFields(part.Value, part.Path);
            var type = p.RequiredText("type");
            if (type is not ("text" or "input_text" or "output_text"))
                throw ApiException.Unsupported(part.Path, $"'{type}': this model reads text alone");
            var said = p.RequiredText("text");
            p.Finish();
            return said;
        }));
    }

    private static List<(string Id, string Name, string Arguments)> CallsOf(JsonFields m) => [.. m.List("tool_calls").Select(call =>
    {
        var c = new JsonFields(call.Value, call.Path);
        c.Word("type", "function");
        var id = c.RequiredText("id");
        var function = c.Object("function") ?? throw c.Missing("function");
        var (name, arguments) = (function.RequiredText("name"), function.RequiredText("arguments"));
        function.Finish();
        c.Any("index"); // clients send back what they have put together from a stream
        c.Finish();
        return (id, name, arguments);
    })];
}
