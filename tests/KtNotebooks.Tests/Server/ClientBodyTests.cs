using System.Text;
using System.Text.Json.Nodes;

using KtNotebooks.Server;

using Xunit;

namespace KtNotebooks.Tests.Server;

/// <summary>What well-known clients send without being asked to: bodies and headers, whole. Each is answered, and what has no effect is named.</summary>
public sealed class ClientBodyTests(TinyServer tiny) : IClassFixture<TinyServer>
{
    private const string Weather = """
        {"type":"function","function":{"name":"get_weather","description":"Of a city","strict":true,"parameters":{"type":"object","title":"get_weather",
        "properties":{"city":{"title":"City","description":"Which","type":"string"}},"required":["city"],"additionalProperties":false}}}
        """;

    private const string Bash = """
        {"name":"Bash","description":"Runs a command","input_schema":{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object","properties":
        {"command":{"type":"string","description":"It"},"timeout":{"type":"number"}},"required":["command"],"additionalProperties":false},
        "eager_input_streaming":true}
        """;

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    public static TheoryData<string, string, string> Bodies => new()
    {
        // message.model_dump() of openai-python, sent back as the history of a conversation
        { "openai-python", "/v1/chat/completions", """
            "messages":[{"role":"user","content":"hi"},{"content":"Hello","refusal":null,"role":"assistant","annotations":[],"audio":null,
            "function_call":null,"tool_calls":null},{"role":"user","content":[{"type":"text","text":"and?"}]}],"stop":null,"unknown_to_us":null,"max_tokens":4
            """ },
        { "LangChain", "/v1/chat/completions", $$$"""
            "messages":[{"content":"You are helpful","role":"system"},{"content":"Weather?","role":"user"},{"content":null,"role":"assistant",
            "tool_calls":[{"type":"function","id":"call_1","function":{"name":"get_weather","arguments":"{\"city\": \"Rome\"}"}}]},
            {"content":"sunny","role":"tool","tool_call_id":"call_1"}],"stream":true,"stream_options":{"include_usage":true},"temperature":0.7,
            "max_completion_tokens":4,"tools":[{{{Weather}}}],"parallel_tool_calls":false
            """ },
        { "LiteLLM and aider", "/v1/chat/completions", """
            "messages":[{"role":"system","content":"Act as an expert developer."},{"role":"user","content":"example"},{"role":"assistant","content":"Ok."},
            {"role":"user","content":"I switched to a new code base."},{"role":"assistant","content":"Ok."},{"role":"user","content":"hi\n\nReminder"}],
            "temperature":0,"stream":true,"max_tokens":4
            """ },
        { "Open WebUI", "/v1/chat/completions", """
            "stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"hi"}],"max_tokens":4
            """ },
        { "Open WebUI's titles", "/v1/chat/completions", """
            "messages":[{"role":"user","content":"### Task:\nGenerate a title"}],"stream":false,"max_completion_tokens":4
            """ },
        { "Continue", "/v1/chat/completions", $$$"""
            "messages":[{"role":"system","content":"You are in agent mode."},{"role":"user","content":[{"type":"text","text":"Weather?"}]},{"role":"assistant",
            "content":" ","tool_calls":[{"id":"c","type":"function","function":{"name":"get_weather","arguments":"{}"}}]},
            {"role":"tool","content":"sunny","tool_call_id":"c"},{"role":"user","content":[{"type":"text","text":"Thanks"}]}],"max_tokens":4,"stream":true,
            "stream_options":{"include_usage":true},"tools":[{{{Weather}}}],"parallel_tool_calls":false
            """ },
        { "OpenAI Agents SDK", "/v1/responses", $$$"""
            "include":[],"input":[{"content":"hi","role":"user"},{"id":"msg_1","content":[{"annotations":[],"text":"Hello","type":"output_text","logprobs":[]}],
            "role":"assistant","status":"completed","type":"message"},{"content":"and?","role":"user"}],"instructions":"You are","stream":false,
            "tools":[],"max_output_tokens":4,"metadata":{"run":"1"}
            """ },
        { "Codex", "/v1/responses", """
            "instructions":"You are a coding agent","input":[{"type":"message","role":"developer","content":[{"type":"input_text","text":"rules"}]},
            {"type":"message","role":"user","content":[{"type":"input_text","text":"hi"}]}],"tools":[{"type":"function","name":"shell","description":"Runs",
            "strict":false,"parameters":{"type":"object","properties":{"command":{"type":"array","items":{"type":"string"}}},"required":["command"],
            "additionalProperties":false}}],"tool_choice":"auto","parallel_tool_calls":false,"reasoning":null,"store":false,"stream":true,
            "include":["reasoning.encrypted_content"],"prompt_cache_key":"0198","max_output_tokens":4
            """ },
        { "Claude Code", "/v1/messages?beta=true", $$$"""
            "max_tokens":32000,"stream":true,"system":[{"type":"text","text":"You are Claude Code","cache_control":{"type":"ephemeral"}}],
            "messages":[{"role":"user","content":[{"type":"text","text":"<system-reminder>x</system-reminder>"},
            {"type":"text","text":"list","cache_control":{"type":"ephemeral"}}]},{"role":"assistant","content":[{"type":"text","text":"Looking"},
            {"type":"tool_use","id":"t1","name":"Bash","input":{"command":"ls"}}]},{"role":"user","content":[{"tool_use_id":"t1","type":"tool_result",
            "content":"a.txt","is_error":false},{"type":"text","text":"<system-reminder>y</system-reminder>","cache_control":{"type":"ephemeral"}}]}],
            "tools":[{{{Bash}}}],"metadata":{"user_id":"user_1"},"temperature":1,"thinking":{"type":"enabled","budget_tokens":31999},
            "context_management":{"edits":[{"type":"clear_thinking_20251015","keep":"all"}]},"output_config":{"effort":"medium"},"stop_sequences":["\n"]
            """ },
        { "Claude Code counts", "/v1/messages/count_tokens?beta=true", $$$"""
            "messages":[{"role":"user","content":"x"}],"tools":[{{{Bash}}}],"thinking":{"type":"enabled","budget_tokens":1024}
            """ },
    };

    [Theory]
    [MemberData(nameof(Bodies))]
    public async Task What_a_client_sends_by_itself_is_answered(string client, string path, string fields)
    {
        var (answer, text) = await Send(path, $"{{\"model\":\"kt-tiny\",{fields}}}");
        Assert.True((int)answer.StatusCode == 200 && !text.Contains("\"error\":{", StringComparison.Ordinal), $"{client}: {text}");
        var said = answer.Headers.TryGetValues(NoEffect.Header, out var names) ? names.Single() : "";
        Assert.Equal(client switch
        {
            "Claude Code" => "tools.eager_input_streaming, thinking, output_config.effort, context_management",
            "Codex" => "include, prompt_cache_key",
            _ => "",
        }, said);
    }

    [Fact]
    public async Task What_has_no_effect_is_logged_once()
    {
        const string Body = """{"model":"kt-tiny","max_tokens":1,"messages":[{"role":"user","content":"x"}],"output_config":{"effort":"high"}}""";
        bool Says(string line) => line.Contains("output_config.effort has no effect here: the model has no degrees of it", StringComparison.Ordinal);
        for (var i = 0; i < 2; i++) await Send("/v1/messages", Body);
        for (var wait = 0; wait < 500 && !tiny.Log.All.Any(Says); wait++) await Task.Delay(10, Stop); // a line comes when its answer has gone out
        Assert.Single(tiny.Log.All, Says);
    }

    [Theory]
    [InlineData("\"context_management\":{\"edits\":[{\"type\":\"clear_tool_uses_20250919\"}]}",
        "context_management.edits[0].type is not supported: 'clear_tool_uses_20250919': a prompt is never cut")]
    [InlineData("\"tools\":[{\"name\":\"a\",\"input_schema\":{},\"defer_loading\":true}]",
        "tools[0].defer_loading is not supported: every tool is told to the model")]
    [InlineData("\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":0}", "thinking.budget_tokens: must be at least 1, but is 0")]
    public async Task What_would_change_a_prompt_is_refused(string field, string message)
    {
        const string Body = """ "model":"kt-tiny","max_tokens":1,"messages":[{"role":"user","content":"x"}] """;
        var (_, text) = await Send("/v1/messages", $"{{{Body},{field}}}");
        Assert.Equal(message, (string?)JsonNode.Parse(text)!["error"]!["message"]);
    }

    /// <summary>The words are those that Claude Code and LiteLLM look for, which then make the conversation shorter.</summary>
    [Theory]
    [InlineData("/v1/messages")]
    [InlineData("/v1/chat/completions")]
    public async Task A_conversation_that_is_too_long_is_told_in_words_that_clients_know(string path)
    {
        var words = string.Concat(Enumerable.Repeat("word ", 1100));
        var (answer, text) = await Send(path, $"{{\"model\":\"kt-tiny\",\"max_tokens\":1,\"messages\":[{{\"role\":\"user\",\"content\":\"{words}\"}}]}}");
        Assert.Equal(400, (int)answer.StatusCode);
        Assert.Matches(@"^prompt is too long: \d+ tokens > 1023 maximum; this model's maximum context length is 1024 tokens",
            (string?)JsonNode.Parse(text)!["error"]!["message"]);
    }

    [Fact]
    public async Task A_page_that_may_call_may_send_its_clients_headers_and_probes_may_ask_for_heads()
    {
        await using var open = await ApiServer.StartAsync(tiny.Engine, new ApiSettings { Port = 0, Origins = ["https://app.example"] });
        using var http = new HttpClient { BaseAddress = open.Url };
        using var ask = new HttpRequestMessage(HttpMethod.Options, "/v1/chat/completions");
        ask.Headers.Add("Origin", "https://app.example");
        ask.Headers.Add("Access-Control-Request-Method", "POST");
        ask.Headers.Add("Access-Control-Request-Headers", "authorization,content-type,x-stainless-os,anthropic-dangerous-direct-browser-access");
        using var told = await http.SendAsync(ask, Stop);
        Assert.Equal(204, (int)told.StatusCode);
        Assert.Contains("x-stainless-os", told.Headers.GetValues("Access-Control-Allow-Headers").Single(), StringComparison.Ordinal);
        Assert.Contains("x-request-id", told.Headers.GetValues("Access-Control-Expose-Headers").Single(), StringComparison.Ordinal);
        foreach (var path in (string[])["/", "/health", "/v1/models"])
        {
            using var head = await http.SendAsync(new HttpRequestMessage(HttpMethod.Head, path), Stop);
            Assert.Equal((200, ""), ((int)head.StatusCode, await head.Content.ReadAsStringAsync(Stop)));
        }
    }

    private async Task<(HttpResponseMessage Answer, string Text)> Send(string path, string json)
    {
        using var ask = new HttpRequestMessage(HttpMethod.Post, path) { Content = new StringContent(json, Encoding.UTF8, "application/json") };
        ask.Headers.Add("anthropic-version", "2023-06-01");
        ask.Headers.Add("anthropic-beta", "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27");
        ask.Headers.Add("x-stainless-lang", "js");
        var answer = await tiny.Http.SendAsync(ask, Stop);
        return (answer, await answer.Content.ReadAsStringAsync(Stop));
    }
}
