using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Nn;

using Xunit;

namespace KtNotebooks.Tests.Server;

/// <summary>Every field of /v1/chat/completions acts, or is refused by name.</summary>
public sealed class ChatFieldTests(TinyServer tiny) : IClassFixture<TinyServer>
{
    private const string Question = """[{"role":"user","content":"What is the capital of France?"}]""";
    private const string Weather = """
        [{"type":"function","function":{"name":"weather","description":"of a city","parameters":
          {"type":"object","properties":{"city":{"enum":["Paris","Rome"]},"days":{"type":"integer","minimum":1,"maximum":9}},"required":["city"]}}}]
        """;

    private static readonly JsonSerializerOptions Web = JsonSerializerOptions.Web;

    [Fact]
    public async Task Temperature_0_is_the_likeliest_and_a_seed_decides_the_draws()
    {
        Assert.Equal(await Text("\"temperature\":0"), await Text("\"temperature\":0,\"seed\":5"));
        var drawn = """ "temperature":2,"top_p":1,"top_k":0,"max_tokens":20 """;
        var (a, b, c) = (await Text($"{drawn},\"seed\":1"), await Text($"{drawn},\"seed\":1"), await Text($"{drawn},\"seed\":2"));
        Assert.Equal(a, b);
        Assert.NotEqual(a, c);
        // Without a seed every request has draws of its own.
        HashSet<string> texts = [await Text(drawn), await Text(drawn), await Text(drawn)];
        Assert.True(texts.Count > 1);
    }

    [Theory]
    [InlineData("\"top_k\":1,\"top_p\":1")]
    [InlineData("\"top_p\":0.0000001,\"top_k\":-1")]
    [InlineData("\"min_p\":1,\"top_p\":1,\"top_k\":0")]
    [InlineData("\"do_sample\":false,\"top_p\":1,\"top_k\":0")]
    public async Task What_leaves_one_token_makes_it_greedy(string fields) =>
        Assert.Equal(await Text("\"temperature\":0"), await Text($"\"temperature\":2,{fields}"));

    [Theory]
    [InlineData("\"max_tokens\":2")]
    [InlineData("\"max_completion_tokens\":2,\"max_tokens\":7")]
    public async Task Max_tokens_end_an_answer(string fields)
    {
        var answer = await Ask($"\"temperature\":0,{fields}");
        Assert.Equal(2, (int)answer["usage"]!["completion_tokens"]!);
        Assert.Equal("length", (string?)Choice(answer)["finish_reason"]);
    }

    [Fact]
    public async Task A_stop_text_ends_it_wherever_tokens_are_cut()
    {
        var whole = await Text("\"temperature\":0");
        for (var from = 1; from + 3 < whole.Length; from += 2)
        {
            var stop = JsonSerializer.Serialize(whole.Substring(from, 3), Web);
            var answer = await Ask($"\"temperature\":0,\"stop\":[{stop},\"never there\"]");
            Assert.Equal(whole[..whole.IndexOf(whole.Substring(from, 3), StringComparison.Ordinal)], Content(answer));
            Assert.Equal("stop", (string?)Choice(answer)["finish_reason"]);
        }
        Assert.Equal("", Content(await Ask($"\"temperature\":0,\"stop\":{JsonSerializer.Serialize(whole[..1], Web)}")));
    }

    [Fact]
    public async Task Stop_token_ids_and_logit_bias_act_on_tokens()
    {
        var first = (int)(await Ask("\"temperature\":0,\"logprobs\":true,\"max_tokens\":1"))["usage"]!["completion_tokens"]!;
        Assert.Equal(1, first);
        var text = await Text("\"temperature\":0,\"max_tokens\":1");
        var id = tiny.Engine.Tokenizer.Encode("The capital of France is").First();
        var answer = await Ask($"\"temperature\":0,\"logit_bias\":{{\"{id}\":100}},\"max_tokens\":3");
        Assert.StartsWith(tiny.Engine.Tokenizer.Decode([id, id, id]), Content(answer), StringComparison.Ordinal);
        Assert.Equal("", Content(await Ask($"\"temperature\":0,\"logit_bias\":{{\"{id}\":100}},\"stop_token_ids\":[{id}]")));
        Assert.NotNull(text);
    }

    [Theory]
    [InlineData("\"presence_penalty\":2")]
    [InlineData("\"frequency_penalty\":2")]
    [InlineData("\"repetition_penalty\":5")]
    public async Task Penalties_act_on_what_was_there(string field)
    {
        // The first token comes first without help. Somewhere a bias lets it come again, by so little that a penalty for having been there takes that away.
        var id = tiny.Engine.Tokenizer.Encode(await Text("\"temperature\":0")).First();
        var changed = false;
        for (var bias = 0; bias <= 60 && !changed; bias += 2)
        {
            var fields = $"\"temperature\":0,\"max_tokens\":2,\"logit_bias\":{{\"{id}\":{bias}}}";
            changed = await Text(fields) != await Text($"{fields},{field}");
        }
        Assert.True(changed, field);
    }

    [Fact]
    public async Task N_answers_have_draws_of_their_own_and_one_prompt()
    {
        var answer = await Ask("\"n\":4,\"temperature\":2,\"top_p\":1,\"top_k\":0,\"seed\":3,\"max_tokens\":12");
        var choices = answer["choices"]!.AsArray();
        Assert.Equal([0, 1, 2, 3], choices.Select(c => (int)c!["index"]!));
        Assert.Equal(4, choices.Select(c => (string?)c!["message"]!["content"]).Distinct().Count());
        Assert.Equal((int)(await Ask("\"max_tokens\":1"))["usage"]!["prompt_tokens"]!, (int)answer["usage"]!["prompt_tokens"]!);
    }

    [Fact]
    public async Task Logprobs_belong_to_the_tokens_that_were_drawn()
    {
        var answer = await Ask("\"temperature\":0,\"logprobs\":true,\"top_logprobs\":3");
        var tokens = Choice(answer)["logprobs"]!["content"]!.AsArray();
        Assert.Equal(Content(answer), string.Concat(tokens.Select(t => (string?)t!["token"])));
        Assert.All(tokens, token =>
        {
            var top = token!["top_logprobs"]!.AsArray();
            Assert.Equal(3, top.Count);
            Assert.Equal((string?)token["token"], (string?)top[0]!["token"]); // greedy: the drawn one is the likeliest
            Assert.Equal((float)token["logprob"]!, (float)top[0]!["logprob"]!);
            Assert.True((float)token["logprob"]! <= 0 && (float)top[1]!["logprob"]! <= (float)top[0]!["logprob"]!);
            Assert.Equal((string?)token["token"], System.Text.Encoding.UTF8.GetString([.. token["bytes"]!.AsArray().Select(b => (byte)(int)b!)]));
        });
        Assert.Null(Choice(await Ask("\"temperature\":0"))["logprobs"]);
    }

    [Fact]
    public async Task Response_format_is_always_whole_JSON()
    {
        for (var seed = 0; seed < 5; seed++)
        {
            var any = await Text($"\"seed\":{seed},\"temperature\":2,\"max_tokens\":30,\"response_format\":{{\"type\":\"json_object\"}}");
            Assert.IsType<JsonObject>(JsonNode.Parse(any));
            var made = JsonNode.Parse(await Text($"\"seed\":{seed}," + """
                "temperature":2,"max_tokens":30,"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":
                {"type":"object","properties":{"ok":{"type":"boolean"},"n":{"type":"integer","minimum":3,"maximum":5}},"required":["ok","n"]}}}
                """))!;
            Assert.InRange((int)made["n"]!, 3, 5);
            _ = (bool)made["ok"]!;
        }
    }

    [Fact]
    public async Task Tools_are_told_called_and_answered()
    {
        var tools = $"\"tools\":{Weather}";
        var prompts = new List<int>();
        foreach (var choice in (string[])["none", "auto"])
            prompts.Add((int)(await Ask($"{tools},\"tool_choice\":\"{choice}\",\"max_tokens\":1"))["usage"]!["prompt_tokens"]!);
        Assert.True(prompts[1] > prompts[0] + 20); // described, unless none may be called
        foreach (var choice in (string[])["\"required\"", """{"type":"function","function":{"name":"weather"}}"""])
        {
            var answer = await Ask($"{tools},\"tool_choice\":{choice},\"parallel_tool_calls\":false,\"temperature\":2,\"max_tokens\":60");
            Assert.Equal("tool_calls", (string?)Choice(answer)["finish_reason"]);
            var message = Choice(answer)["message"]!;
            Assert.Null(message["content"]);
            var call = Assert.Single(message["tool_calls"]!.AsArray())!;
            Assert.Equal("weather", (string?)call["function"]!["name"]);
            var arguments = JsonNode.Parse((string)call["function"]!["arguments"]!)!;
            Assert.Contains((string?)arguments["city"], (string?[])["Paris", "Rome"]);
            // The conversation goes on with the call and its result.
            var (status, next) = await tiny.Post("/v1/chat/completions", $$"""
                {"model":"kt-tiny","max_tokens":4,"tools":{{Weather}},"messages":[{"role":"user","content":"Weather?"},{{message.ToJsonString()}},
                {"role":"tool","tool_call_id":"{{call["id"]}}","content":"sunny"}]}
                """);
            Assert.True(status == 200, next?.ToJsonString());
        }
    }

    [Fact]
    public async Task Prompts_are_found_in_the_cache()
    {
        var system = string.Concat(Enumerable.Range(0, 40).Select(i => $"Rule {i} holds. "));
        var body = $$"""{"model":"kt-tiny","max_tokens":1,"messages":[{"role":"system","content":"{{system}}"},{"role":"user","content":"x"}]}""";
        // Whoever changes weights in this process, a test that trains beside this one, makes every server forget: only what stood still is judged.
        for (var i = 0; ; i++)
        {
            var version = WeightVersion.Current;
            _ = await tiny.Post("/v1/chat/completions", body);
            var (_, again) = await tiny.Post("/v1/chat/completions", body.Replace("\"x\"", $"\"{i}\"", StringComparison.Ordinal));
            if (version != WeightVersion.Current && i < 100) continue;
            Assert.True((int)again!["usage"]!["prompt_tokens_details"]!["cached_tokens"]! > 100);
            return;
        }
    }

    [Fact]
    public async Task An_answer_can_be_gone_on_with()
    {
        var (_, answer) = await tiny.Post("/v1/chat/completions", """
            {"model":"kt-tiny","temperature":0,"continue_final_message":true,"messages":[{"role":"user","content":"What is the capital of France?"},
            {"role":"assistant","content":"The capital of France is"}]}
            """);
        Assert.StartsWith(" Paris", Content(answer!), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("\"temperature\":3", "temperature: must be from 0 to 2, but is 3")]
    [InlineData("\"temperature\":\"hot\"", "temperature must be a number, but is the string \"hot\"")]
    [InlineData("\"top_p\":0", "top_p: must be above 0 and at most 1, but is 0")]
    [InlineData("\"max_tokens\":0", "max_tokens: must be at least 1, but is 0")]
    [InlineData("\"max_tokens\":1.5", "max_tokens must be a whole number, but is the number 1.5")]
    [InlineData("\"n\":1000", "n: must be from 1 to 128, but is 1000")]
    [InlineData("\"stop\":[\"\"]", "stop: a stop text must not be empty")]
    [InlineData("\"stop\":[7]", "stop[0] must be a string, but is the number 7")]
    [InlineData("\"logit_bias\":{\"99999\":1}", "logit_bias: there is no token 99999; ids go from 0 to 4095")]
    [InlineData("\"logit_bias\":{\"5\":101}", "logit_bias.5: must be a number from -100 to 100")]
    [InlineData("\"top_logprobs\":2", "top_logprobs: needs logprobs: true")]
    [InlineData("\"tempertaure\":1", "tempertaure is not a field that is known here. Did you mean 'temperature'?")]
    [InlineData("\"functions\":[]", "functions is not supported: write tools")]
    [InlineData("\"audio\":{}", "audio is not supported: this model has text alone")]
    [InlineData("\"web_search_options\":{}", "web_search_options is not supported: there is no search; give the model a tool that searches")]
    [InlineData("\"service_tier\":\"fast\"", "service_tier: must be one of auto, default, flex, scale, priority, but is 'fast'")]
    [InlineData("\"store\":\"yes\"", "store must be true or false, but is the string \"yes\"")]
    [InlineData("\"metadata\":7", "metadata must be a JSON object, but is the number 7")]
    [InlineData("\"modalities\":[\"audio\"]", "modalities is not supported: this model has text alone")]
    [InlineData("\"verbosity\":\"low\"", "verbosity is not supported: say in the prompt how long an answer should be")]
    [InlineData("\"reasoning_effort\":\"high\"", "reasoning_effort is not supported: 'high': the template 'deepseek' is of a model that does not think; "
        + "leave it out or say 'none'")]
    [InlineData("\"reasoning_effort\":\"much\"", "reasoning_effort: must be one of none, minimal, low, medium, high, xhigh, but is 'much'")]
    [InlineData("\"chat_template_kwargs\":{\"enable_thinking\":true}",
        "thinking is not supported: the template 'deepseek' is of a model that does not think")]
    [InlineData("\"stream_options\":{\"include_usage\":true}", "stream_options: needs stream: true")]
    [InlineData("\"tool_choice\":\"required\"", "tool_choice: asks for a call, but there are no tools")]
    [InlineData("\"tools\":[{\"type\":\"web_search\"}]", "tools[0].type is not supported: tools are functions")]
    [InlineData("\"response_format\":{\"type\":\"xml\"}", "response_format.type: must be one of text, json_object, json_schema")]
    [InlineData("\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"x\",\"schema\":{\"not\":{}}}}", "#/not is not supported")]
    [InlineData("\"max_tokens\":2147483648", "max_tokens: must be from 1 to 2147483647, but is 2147483648")]
    [InlineData("\"temperature\":1e400", "temperature: must be from 0 to 2, but is 1e400")]
    [InlineData("\"stop\":5", "stop must be a string or a list of strings, but is the number 5")]
    [InlineData("\"seed\":1,\"seed\":2", "the key 'seed' stands twice in one object (byte 101)")]
    [InlineData("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":\"objekt\"}}}]",
        "tools[0].function.parameters: the parameters of the tool 'f': type must be object, but is \"objekt\"")]
    [InlineData("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"$ref\":\"#/$defs/x\"}}}]",
        "tools[0].function.parameters: the parameters of the tool 'f': #: there is no #/$defs/x")]
    [InlineData("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"allOf\":[{\"type\":\"object\"},{\"type\":\"null\"}]}}}]",
        "tools[0].function.parameters: the parameters of the tool 'f': nothing is of all its parts at once")]
    [InlineData("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"anyOf\":[{},{}]}}}]",
        "the tool 'f' cannot be told in this template's form, a list of its properties: its parameters have none, but anyOf")]
    [InlineData("\"seed\":\"a\"", "seed must be a whole number of 64 bits, but is the string \"a\"")]
    public async Task What_is_wrong_or_not_to_be_had_is_named(string field, string message)
    {
        var (status, body) = await tiny.Post("/v1/chat/completions", $"{{\"model\":\"kt-tiny\",\"messages\":{Question},{field}}}");
        Assert.Equal(400, status);
        Assert.Equal(message, (string?)body!["error"]!["message"]);
    }

    [Fact]
    public async Task Levels_without_end_are_told_from_what_is_no_JSON()
    {
        var (status, body) = await tiny.Post("/v1/chat/completions", "{\"a\":" + new string('[', 200) + new string(']', 200) + "}");
        Assert.Equal((400, "the body has more than 64 objects and lists in each other (byte 69)"), (status, (string?)body!["error"]!["message"]));
    }

    /// <summary>What vLLM's clients send: its benchmark asks for so many tokens, its users for JSON by its own names.</summary>
    [Fact]
    public async Task Fields_of_vLLM_act()
    {
        async Task<JsonNode> Say(string fields) =>
            (await tiny.Post("/v1/chat/completions", $"{{\"model\":\"kt-tiny\",\"messages\":{Question},{fields}}}")).Body!["choices"]![0]!;
        var end = tiny.Engine.Tokenizer.EosId!.Value;
        var ends = $"\"max_tokens\":9,\"logit_bias\":{{\"{end}\":100}}";
        Assert.Equal("stop", (string?)(await Say(ends))["finish_reason"]);
        Assert.Equal("length", (string?)(await Say(ends + ",\"ignore_eos\":true"))["finish_reason"]);
        foreach (var schema in (string[])["\"guided_json\":{\"enum\":[\"a\"]}", "\"structured_outputs\":{\"json\":{\"enum\":[\"a\"]}}"])
            Assert.Equal("\"a\"", (string?)(await Say(schema + ",\"skip_special_tokens\":true,\"priority\":0"))["message"]!["content"]);
        Assert.Equal("ignore_eos: an answer of a given form ends where the form does", (string?)(await tiny.Post("/v1/chat/completions",
            $"{{\"model\":\"kt-tiny\",\"messages\":{Question},\"ignore_eos\":true,\"guided_json\":{{}}}}")).Body!["error"]!["message"]);
    }

    /// <summary>Generators put what they made under $defs and refer to it.</summary>
    [Fact]
    public async Task A_tool_s_parameters_may_stand_under_a_reference()
    {
        const string Parameters = """
            {"$ref":"#/$defs/args","properties":{"n":{"enum":[3,5]}},"$defs":{"args":{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]}}}
            """;
        var (status, body) = await tiny.Post("/v1/chat/completions", "{\"model\":\"kt-tiny\",\"messages\":" + Question + """
            ,"max_tokens":60,"tool_choice":"required","parallel_tool_calls":false,"tools":[{"type":"function","function":{"name":"f","parameters":
            """ + Parameters + "}}]}");
        Assert.Equal(200, status);
        var call = body!["choices"]![0]!["message"]!["tool_calls"]![0]!["function"]!;
        Assert.Contains((int)JsonNode.Parse((string)call["arguments"]!)!["n"]!, (int[])[3, 5]);
    }

    /// <summary>What says something about the service alone changes no answer, and the header names it.</summary>
    [Theory]
    [InlineData("", "")]
    [InlineData(",\"store\":false,\"metadata\":null,\"service_tier\":\"auto\",\"modalities\":[\"text\"],\"verbosity\":\"medium\"", "")]
    [InlineData(",\"user\":\"u\",\"safety_identifier\":\"s\",\"parallel_tool_calls\":false", "")]
    [InlineData(",\"reasoning_effort\":\"none\",\"chat_template_kwargs\":{\"enable_thinking\":false}", "")] // which it does not do anyway
    [InlineData(",\"store\":true,\"metadata\":{\"a\":\"b\"},\"service_tier\":\"flex\"", "service_tier, store, metadata")]
    [InlineData(",\"prompt_cache_key\":\"k\",\"prompt_cache_retention\":\"24h\",\"prediction\":{\"type\":\"content\",\"content\":\"x\"}",
        "prompt_cache_key, prompt_cache_retention, prediction")]
    public async Task What_is_about_the_service_alone_changes_no_answer(string fields, string named)
    {
        using var ask = new StringContent($"{{\"model\":\"kt-tiny\",\"messages\":{Question},\"temperature\":0,\"max_tokens\":8{fields}}}",
            System.Text.Encoding.UTF8, "application/json");
        using var answer = await tiny.Http.PostAsync(new Uri("/v1/chat/completions", UriKind.Relative), ask, TestContext.Current.CancellationToken);
        var body = JsonNode.Parse(await answer.Content.ReadAsStringAsync(TestContext.Current.CancellationToken))!;
        Assert.True(answer.IsSuccessStatusCode, body.ToJsonString());
        Assert.Equal(await Text("\"temperature\":0,\"max_tokens\":8"), Content(body));
        Assert.Equal(named, answer.Headers.TryGetValues(KtNotebooks.Server.NoEffect.Header, out var said) ? said.Single() : "");
    }

    [Theory]
    [InlineData("""[]""", "messages: must hold a question")]
    [InlineData("""[{"role":"assistant","content":"x"}]""", "messages[0]: a conversation begins with a question")]
    [InlineData("""[{"role":"user","content":"x"},{"role":"system","content":"y"}]""",
        "messages[1]: a system message must stand before all others: the model's template has one place for it")]
    [InlineData("""[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]""",
        "messages[0].content[0] is not supported: 'image_url': this model reads text alone")]
    [InlineData("""[{"role":"tool","tool_call_id":"a","content":"x"}]""", "messages[0]: there is no call a before it that waits for a result")]
    [InlineData("""[{"role":"user","content":"x"},{"role":"assistant","content":"y"}]""",
        "messages: must end with a question (or with continue_final_message: true, to go on with the last answer)")]
    [InlineData("""[{"role":"robot","content":"x"}]""", "messages[0].role: must be one of system, developer, user, assistant, tool")]
    [InlineData("""[{"role":"user"}]""", "messages[0].content is required")]
    [InlineData("""[{"role":"user","content":"\ud800"}]""", "messages[0].content: holds half of a surrogate pair, which is no character")]
    public async Task Messages_that_no_template_has_a_form_for_are_named(string messages, string message)
    {
        var (status, body) = await tiny.Post("/v1/chat/completions", $"{{\"model\":\"kt-tiny\",\"messages\":{messages}}}");
        Assert.Equal((400, message), (status, (string?)body!["error"]!["message"]));
    }

    [Fact]
    public async Task Messages_of_one_side_are_one_turn()
    {
        var (_, two) = await tiny.Post("/v1/chat/completions", """
            {"model":"kt-tiny","temperature":0,"messages":[{"role":"user","content":"a"},{"role":"user","content":[{"type":"text","text":"b"}]}]}
            """);
        var (_, one) = await tiny.Post("/v1/chat/completions", """{"model":"kt-tiny","temperature":0,"messages":[{"role":"user","content":"a\n\nb"}]}""");
        Assert.Equal(Content(one!), Content(two!));
    }

    private async Task<JsonNode> Ask(string fields)
    {
        var (status, body) = await tiny.Post("/v1/chat/completions", $"{{\"model\":\"kt-tiny\",\"messages\":{Question},{fields}}}");
        Assert.True(status == 200, body?.ToJsonString());
        return body!;
    }

    private async Task<string> Text(string fields) => Content(await Ask(fields));

    private static JsonNode Choice(JsonNode answer) => answer["choices"]![0]!;

    private static string Content(JsonNode answer) => (string?)Choice(answer)["message"]!["content"] ?? "";
}
