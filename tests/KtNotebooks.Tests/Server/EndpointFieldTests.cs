using System.Diagnostics;
using System.Text.Json.Nodes;

using KtNotebooks.Data;
using KtNotebooks.Server;

using Xunit;

namespace KtNotebooks.Tests.Server;

/// <summary>The fields of the other endpoints, and those of chat that need a model which thinks or a trace: each acts, or is refused by name.</summary>
public sealed class EndpointFieldTests(TinyServer tiny) : IClassFixture<TinyServer>
{
    private const string Messages = """ "model":"kt-tiny","messages":[{"role":"user","content":"What is the capital of France?"}] """;
    private const string City = """{"type":"object","properties":{"city":{"enum":["Paris","Rome"]}},"required":["city"]}""";

    [Theory]
    [InlineData("/v1/completions", "\"best_of\":2", "best_of is not supported: answers are not ranked; n gives several")]
    [InlineData("/v1/completions", "\"suffix\":\"x\"", "suffix is not supported: text is not filled in, it goes on")]
    [InlineData("/v1/completions", "\"prompt\":[[]]", "prompt: must hold at least one token")]
    [InlineData("/v1/completions", "\"max_tokens\":0", "max_tokens: 0 asks for nothing; with echo: true it gives the prompt and its logprobs")]
    [InlineData("/v1/completions", "\"stream_options\":{\"include_usage\":true}", "stream_options: needs stream: true")]
    [InlineData("/v1/completions", "\"logprobs\":21", "logprobs: must be from 0 to 20, but is 21")]
    [InlineData("/v1/completions", "\"stream\":true,\"stream_options\":{\"include_obfuscation\":true}",
        "stream_options.include_obfuscation is not supported: answers are not padded")]
    [InlineData("/v1/responses", "\"previous_response_id\":\"r\"", "previous_response_id is not supported: answers are not kept; send all items")]
    [InlineData("/v1/responses", "\"conversation\":\"c\"", "conversation is not supported: conversations are not kept; send all items")]
    [InlineData("/v1/responses", "\"background\":true", "background is not supported: an answer is given while the client waits")]
    [InlineData("/v1/responses", "\"truncation\":\"auto\"", "truncation is not supported: a prompt is never cut")]
    [InlineData("/v1/responses", "\"max_tool_calls\":1", "max_tool_calls is not supported: there are no tools of the server's")]
    [InlineData("/v1/responses", "\"prompt\":{\"id\":\"p\"}", "prompt is not supported: there are no stored prompts")]
    [InlineData("/v1/responses", "\"include\":[\"web_search_call.results\"]",
        "include[0] is not supported: only message.output_text.logprobs can be included")]
    [InlineData("/v1/responses", "\"reasoning\":{\"effort\":\"low\"}",
        "reasoning.effort is not supported: 'low': the template 'deepseek' is of a model that does not think; leave it out or say 'none'")]
    [InlineData("/v1/responses", "\"text\":{\"verbosity\":\"high\"}",
        "text.verbosity is not supported: say in the prompt how long an answer should be")]
    [InlineData("/v1/responses", "\"tools\":[{\"type\":\"web_search\"}]", "tools[0].type is not supported: tools are functions")]
    [InlineData("/v1/responses", "\"tool_choice\":{\"type\":\"file_search\"}", "tool_choice.type is not supported: only a function can be chosen")]
    [InlineData("/v1/messages", "\"container\":\"c\"", "container is not supported: there are no containers")]
    [InlineData("/v1/messages", "\"context_management\":{\"edits\":[{\"type\":\"compact_20260112\"}]}",
        "context_management.edits[0].type is not supported: 'compact_20260112': a prompt is never cut")]
    [InlineData("/v1/messages", "\"mcp_servers\":[{}]", "mcp_servers is not supported: tools are functions of the client's")]
    [InlineData("/v1/messages", "\"service_tier\":\"priority\"", "service_tier is not supported: there is one")]
    [InlineData("/v1/messages", "\"tools\":[{\"type\":\"bash_20250124\",\"name\":\"bash\"}]",
        "tools[0].type is not supported: 'bash_20250124': tools are functions of the client's")]
    public async Task What_is_not_to_be_had_is_named(string path, string fields, string message)
    {
        var body = path switch
        {
            "/v1/completions" when fields.Contains("prompt", StringComparison.Ordinal) => """ "model":"kt-tiny" """,
            "/v1/completions" => """ "model":"kt-tiny","prompt":"x" """,
            "/v1/responses" => """ "model":"kt-tiny","input":"x" """,
            _ => Messages + ",\"max_tokens\":4",
        };
        var (status, answer) = await tiny.Post(path, $"{{{body},{fields}}}");
        Assert.Equal((400, message), (status, (string?)answer!["error"]!["message"]));
    }

    [Fact]
    public async Task Completions_repeat_a_prompt_number_their_answers_and_tell_where_tokens_begin()
    {
        var plain = Text(await Ask("/v1/completions", """ "model":"kt-tiny","prompt":"The capital of France is","temperature":0,"max_tokens":4 """));
        Assert.Equal("The capital of France is" + plain, Text(await Ask("/v1/completions",
            """ "model":"kt-tiny","prompt":"The capital of France is","temperature":0,"max_tokens":4,"echo":true,"best_of":1 """)));
        var several = (await Ask("/v1/completions",
            """ "model":"kt-tiny","prompt":["A","The capital of France is"],"n":2,"temperature":0,"max_tokens":4 """))["choices"]!;
        Assert.Equal([0, 1, 2, 3], several.AsArray().Select(c => (int)c!["index"]!));
        Assert.Equal([plain, plain], several.AsArray().Skip(2).Select(c => (string?)c!["text"]));
        var answer = await Ask("/v1/completions", """ "model":"kt-tiny","prompt":"The capital","temperature":0,"max_tokens":5,"logprobs":2 """);
        var logprobs = answer["choices"]![0]!["logprobs"]!;
        string[] tokens = [.. logprobs["tokens"]!.AsArray().Select(t => (string)t!)];
        Assert.Equal(Text(answer), string.Concat(tokens));
        Assert.Equal(tokens.Select((_, i) => tokens[..i].Sum(t => t.Length)), logprobs["text_offset"]!.AsArray().Select(o => (int)o!));
        Assert.All(logprobs["top_logprobs"]!.AsArray(), (top, i) => Assert.Equal((float)logprobs["token_logprobs"]![i]!, (float)top![tokens[i]]!));
        var events = await Raw("/v1/completions", """
            "model":"kt-tiny","prompt":"x","max_tokens":3,"temperature":0,"stream":true,"stream_options":{"include_usage":true,"include_obfuscation":false}
            """);
        Assert.Contains("\"completion_tokens\":3", events.Split("data: ")[^2]);
    }

    /// <summary>As lm-evaluation-harness asks: lists of texts or of tokens, scored by what stands behind a context.</summary>
    [Fact]
    public async Task Completions_score_prompts_as_evaluation_harnesses_ask_for_it()
    {
        const string Text = "The capital of France is Paris — größer als 東京.";
        const string Score = """ "model":"kt-tiny","temperature":0,"logprobs":2,"seed":1234,"echo":true """;
        var ids = (await tiny.Post("/tokenize", $$"""{"prompt":"{{Text}}"}""")).Body!["tokens"]!.AsArray().Select(t => (int)t!).ToArray();
        var list = $"[{string.Join(',', ids)}]";
        var none = (await Ask("/v1/completions", $$"""{{Score}},"max_tokens":0,"prompt":["{{Text}}",{{list}},[5,6,7]] """))["choices"]!.AsArray();
        var one = (await Ask("/v1/completions", $$"""{{Score}},"max_tokens":1,"prompt":[{{list}},[5,6,7]] """))["choices"]!.AsArray();
        Assert.Equal(3, none.Count);
        Assert.Equal(none[0]!["logprobs"]!.ToJsonString(), none[1]!["logprobs"]!.ToJsonString());
        Assert.Equal([Text, Text], none.Take(2).Select(c => (string?)c!["text"]));
        var told = none[0]!["logprobs"]!;
        foreach (var name in (string[])["tokens", "token_logprobs", "top_logprobs", "text_offset"])
        {
            Assert.Equal(ids.Length, told[name]!.AsArray().Count);
            for (var c = 0; c < 2; c++) // one token more, which the harness leaves out: also where it ended the text
                Assert.Equal(none[c + 1]!["logprobs"]![name]!.AsArray().Select(v => v?.ToJsonString()),
                    one[c]!["logprobs"]![name]!.AsArray().SkipLast(1).Select(v => v?.ToJsonString()));
        }
        Assert.Null(told["token_logprobs"]![0]);
        Assert.Null(told["top_logprobs"]![0]);
        // Token by token: the same number for each, and each among the likeliest of its place.
        for (var i = 1; i < ids.Length; i++)
        {
            var (logprob, top) = ((float)told["token_logprobs"]![i]!, told["top_logprobs"]![i]!.AsObject());
            var forced = await Ask("/v1/completions", $$"""
                "model":"kt-tiny","temperature":0,"logprobs":0,"max_tokens":1,"prompt":[{{string.Join(',', ids[..i])}}],"logit_bias":{"{{ids[i]}}":100}
                """);
            Assert.Equal(logprob, (float)forced["choices"]![0]!["logprobs"]!["token_logprobs"]![0]!);
            Assert.InRange(top.Count, 1, 3);
            Assert.True(logprob <= top.Max(t => (float)t.Value!));
            Assert.Contains((string)told["tokens"]![i]!, top.Select(t => t.Key));
        }
        var offsets = told["text_offset"]!.AsArray().Select(o => (int)o!).ToArray();
        foreach (var (token, offset) in told["tokens"]!.AsArray().Zip(offsets).Where(t => !((string)t.First!).Contains('\uFFFD', StringComparison.Ordinal)))
            Assert.Equal((string?)token, Text.Substring(offset, ((string)token!).Length));
        Assert.Equal(offsets.Order(), offsets);
        var events = await Raw("/v1/completions", $$"""{{Score}},"max_tokens":2,"n":2,"stream":true,"prompt":{{list}} """);
        JsonNode[] parts = [.. events.Split("data: ")[1..^1].Select(e => JsonNode.Parse(e)!["choices"]![0]!)];
        foreach (var answer in parts.GroupBy(p => (int)p["index"]!))
        {
            Assert.StartsWith(Text, string.Concat(answer.Select(p => (string?)p["text"])), StringComparison.Ordinal);
            Assert.Equal([.. told["token_logprobs"]!.AsArray().Select(v => (float?)v)],
                answer.SelectMany(p => p["logprobs"]!["token_logprobs"]!.AsArray()).Take(ids.Length).Select(v => (float?)v));
        }
        var (status, refused) = await tiny.Post("/v1/completions", $$"""{{{Score}},"prompt":[1,999999]}""");
        Assert.Equal((400, "prompt[1]: must be a token, from 0 to"), (status, ((string)refused!["error"]!["message"]!)[..37]));
    }

    [Fact]
    public async Task Responses_include_logprobs_tell_why_they_end_and_take_results_of_calls()
    {
        const string Input = """ "model":"kt-tiny","input":"What is the capital of France?","temperature":0 """;
        var answer = await Ask("/v1/responses", Input + """, "max_output_tokens":3,"include":["message.output_text.logprobs"],"top_logprobs":2 """);
        Assert.Equal(("incomplete", "max_output_tokens"), ((string?)answer["status"], (string?)answer["incomplete_details"]!["reason"]));
        Assert.Equal("incomplete", (string?)answer["output"]![0]!["status"]);
        var events = await Raw("/v1/responses", Input + """, "max_output_tokens":3,"stream":true """);
        var done = events.Split("\n\n").Single(e => e.Contains("output_item.done\"", StringComparison.Ordinal));
        Assert.Contains("\"status\":\"incomplete\"", done, StringComparison.Ordinal);
        var part = answer["output"]![0]!["content"]![0]!;
        Assert.Equal((string?)part["text"], string.Concat(part["logprobs"]!.AsArray().Select(t => (string?)t!["token"])));
        Assert.All(part["logprobs"]!.AsArray(), t => Assert.Equal(2, t!["top_logprobs"]!.AsArray().Count));
        var bare = await Ask("/v1/responses", Input + """, "max_output_tokens":3 """);
        Assert.Empty(bare["output"]![0]!["content"]![0]!["logprobs"]?.AsArray() ?? []);
        var told = await Ask("/v1/responses", Input + """, "max_output_tokens":3,"instructions":"Be brief, and say nothing of towns." """);
        Assert.True((int)told["usage"]!["input_tokens"]! > (int)bare["usage"]!["input_tokens"]! + 4);
        var tools = $$""" "tools":[{"type":"function","name":"weather","parameters":{{City}}}],"parallel_tool_calls":false """;
        var called = await Ask("/v1/responses", Input + $$""", {{tools}}, "tool_choice":{"type":"function","name":"weather"},"max_output_tokens":60 """);
        var call = Assert.Single(called["output"]!.AsArray())!;
        Assert.Equal(("function_call", "weather"), ((string?)call["type"], (string?)call["name"]));
        var next = await Ask("/v1/responses", $$"""
            "model":"kt-tiny","max_output_tokens":4,{{tools}},"input":[{"role":"user","content":"Weather?"},{{call.ToJsonString()}},
            {"type":"function_call_output","call_id":"{{call["call_id"]}}","output":"sunny"}]
            """);
        Assert.True((int)next["usage"]!["output_tokens"]! is > 0 and <= 4);
    }

    [Fact]
    public async Task Messages_stop_choose_tools_and_take_failed_results()
    {
        var whole = await Say("\"temperature\":0,\"max_tokens\":12");
        Assert.Equal(whole, await Say("\"temperature\":1,\"top_k\":1,\"max_tokens\":12,\"cache_control\":{\"type\":\"ephemeral\"}"));
        var stopped = await Ask("/v1/messages", $"{Messages},\"temperature\":0,\"max_tokens\":12,\"stop_sequences\":[\"{whole[4..7]}\"]");
        Assert.Equal(("stop_sequence", whole[4..7]), ((string?)stopped["stop_reason"], (string?)stopped["stop_sequence"]));
        var schema = await Say($"\"temperature\":1,\"max_tokens\":40,\"output_config\":{{\"format\":{{\"type\":\"json_schema\",\"schema\":{City}}}}}");
        Assert.Contains((string?)JsonNode.Parse(schema)!["city"], (string?[])["Paris", "Rome"]);
        var tools = $$""" "max_tokens":60,"tools":[{"name":"weather","input_schema":{{City}}},{"name":"time","input_schema":{{City}}}] """;
        foreach (var choice in (string[])["""{"type":"any","disable_parallel_tool_use":true}""", """{"type":"tool","name":"time"}"""])
        {
            var called = await Ask("/v1/messages", $"{Messages},{tools},\"tool_choice\":{choice}");
            Assert.Equal("tool_use", (string?)called["stop_reason"]);
            var use = called["content"]!.AsArray().First(b => (string?)b!["type"] == "tool_use")!;
            if (choice.Contains("time", StringComparison.Ordinal)) Assert.Equal("time", (string?)use["name"]);
            else Assert.Single(called["content"]!.AsArray());
            Assert.Contains((string?)use["input"]!["city"], (string?[])["Paris", "Rome"]);
        }
        async Task<int> Count(string more) => (int)(await Ask("/v1/messages/count_tokens", more))["input_tokens"]!;
        var told = tools.Replace("\"max_tokens\":60,", "", StringComparison.Ordinal);
        Assert.Equal(await Count(Messages), await Count($"{Messages},{told},\"tool_choice\":{{\"type\":\"none\"}}"));
        Assert.True(await Count($"{Messages},{told}") > await Count(Messages) + 20);
        string Result(string more) => $$$"""
            "model":"kt-tiny","messages":[{"role":"user","content":"Weather?"},{"role":"assistant","content":[{"type":"tool_use","id":"t","name":"weather",
            "input":{"city":"Rome"}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":"no wires"{{{more}}}}]}]
            """;
        Assert.True(await Count(Result(",\"is_error\":true")) > await Count(Result("")));
    }

    /// <summary>Where nothing tells a call from text until it is there (GLM's form), one that may be made cannot be held to its schema.</summary>
    [Fact]
    public async Task A_strict_tool_is_held_to_its_schema_or_refused()
    {
        var tools = $$$""" "tools":[{"type":"function","function":{"name":"weather","strict":true,"parameters":{{{City}}}}}],"max_tokens":60 """;
        for (var seed = 0; seed < 4; seed++)
        {
            var answer = await Ask("/v1/chat/completions", $"{Messages},{tools},\"tool_choice\":\"required\",\"temperature\":2,\"seed\":{seed}");
            foreach (var call in answer["choices"]![0]!["message"]!["tool_calls"]!.AsArray())
                Assert.Contains((string?)JsonNode.Parse((string)call!["function"]!["arguments"]!)!["city"], (string?[])["Paris", "Rome"]);
        }
        _ = await Ask("/v1/chat/completions", $"{Messages},{tools}");
        await using var glm = new Other(tiny, tiny.Engine.Template with { Tools = ToolForm.Glm4 });
        var (status, refused) = await glm.Post($"{{{Messages},{tools}}}");
        Assert.Equal(400, status);
        Assert.StartsWith("strict is not supported: 'weather' may be called", (string?)refused["error"]!["message"], StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("\"chat_template_kwargs\":{\"enable_thinking\":false}", true)]
    [InlineData("\"chat_template_kwargs\":{\"thinking\":false}", true)]
    [InlineData("\"reasoning_effort\":\"none\"", true)]
    [InlineData("\"chat_template_kwargs\":{\"enable_thinking\":true}", false)]
    [InlineData("\"reasoning_effort\":\"low\"", false)]
    public async Task Thinking_is_turned_off_by_an_empty_thought(string field, bool off)
    {
        // The config says the opposite: the field decides.
        await using var thinking = new Other(tiny, tiny.Engine.Template with { Thinking = new Thinking(), EnableThinking = off });
        async Task<int> Prompt(string more) => (int)(await thinking.Post($"{{{Messages},\"max_tokens\":1{more}}}")).Body["usage"]!["prompt_tokens"]!;
        var thought = tiny.Engine.Tokenizer.Encode(new Thinking().Empty).Length;
        Assert.Equal(off ? thought : -thought, await Prompt($",{field}") - await Prompt(""));
    }

    [Fact]
    public void A_thought_is_told_from_the_answer_wherever_its_pieces_are_cut()
    {
        const string Said = "<think>\nFirst this,\n\nthen < that.\n</think>\n\nThe answer: 1 < 2";
        for (var size = 1; size < Said.Length; size++)
        {
            var reader = new AnswerReader(new Thinking(), null);
            List<AnswerPart> parts = [.. Said.Chunk(size).SelectMany(piece => reader.Push(new string(piece))), .. reader.Flush()];
            Assert.Equal("First this,\n\nthen < that.", string.Concat(parts.OfType<ThoughtPart>().Select(p => p.Text)));
            Assert.Equal("The answer: 1 < 2", string.Concat(parts.OfType<TextPart>().Select(p => p.Text)));
        }
    }

    [Theory]
    [InlineData("/v1/chat/completions", "\"user\":\"ann\"")]
    [InlineData("/v1/chat/completions", "\"user\":\"old\",\"safety_identifier\":\"ann\",\"prompt_cache_key\":\"k\"")]
    [InlineData("/v1/messages", "\"metadata\":{\"user_id\":\"ann\"}")]
    public async Task Who_asks_stands_in_the_trace(string path, string field)
    {
        List<string?> users = [];
        using var listener = new ActivityListener
        {
            ShouldListenTo = source => source.Name == EngineTelemetry.Name,
            Sample = (ref ActivityCreationOptions<ActivityContext> _) => ActivitySamplingResult.AllDataAndRecorded,
            ActivityStopped = activity =>
            {
                lock (users) users.Add(activity.GetTagItem("user.id") as string);
            },
        };
        ActivitySource.AddActivityListener(listener);
        await Ask(path, $"{Messages},\"max_tokens\":1,{field}");
        for (var wait = 0; wait < 500 && users.Count == 0; wait++) await Task.Delay(10, TestContext.Current.CancellationToken);
        Assert.Contains("ann", users);
    }

    /// <summary>The same model with another template.</summary>
    private sealed class Other(TinyServer tiny, Template template) : IAsyncDisposable
    {
        private readonly ModelEngine _engine = new(tiny.Engine.Model, tiny.Engine.Tokenizer, template, new EngineSettings { BaseName = "kt-tiny" });

        private ApiServer? _server;

        public async Task<(int Status, JsonNode Body)> Post(string json)
        {
            _server ??= await ApiServer.StartAsync(_engine, new ApiSettings { Port = 0 });
            using var http = new HttpClient { BaseAddress = _server.Url };
            using var content = new StringContent(json, System.Text.Encoding.UTF8, "application/json");
            using var answer = await http.PostAsync(new Uri("/v1/chat/completions", UriKind.Relative), content, TestContext.Current.CancellationToken);
            return ((int)answer.StatusCode, JsonNode.Parse(await answer.Content.ReadAsStringAsync(TestContext.Current.CancellationToken))!);
        }

        public async ValueTask DisposeAsync()
        {
            if (_server is not null) await _server.DisposeAsync();
            _engine.Dispose();
        }
    }

    private static string Text(JsonNode answer) => (string)answer["choices"]![0]!["text"]!;

    private async Task<string> Say(string fields) => (string)(await Ask("/v1/messages", $"{Messages},{fields}"))["content"]![0]!["text"]!;

    private async Task<JsonNode> Ask(string path, string fields)
    {
        var (status, body) = await tiny.Post(path, $"{{{fields}}}");
        Assert.True(status == 200, body?.ToJsonString());
        return body!;
    }

    private async Task<string> Raw(string path, string fields)
    {
        using var content = new StringContent($"{{{fields}}}", System.Text.Encoding.UTF8, "application/json");
        using var answer = await tiny.Http.PostAsync(new Uri(path, UriKind.Relative), content, TestContext.Current.CancellationToken);
        return await answer.Content.ReadAsStringAsync(TestContext.Current.CancellationToken);
    }
}
