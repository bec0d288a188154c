using KtNotebooks.Data;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Tokenizers;
using Xunit;

namespace KtNotebooks.Tests.Data;

/// <summary>The three states of enable_thinking, and tool calls.</summary>
public class ThinkingTests
{
    private const string Tools =
        """[{"name":"get_weather","description":"Weather of a city.","parameters":"""
        + """{"type":"object","properties":{"city":{"type":"string","description":"Name of the city","enum":["Paris","北京"]},"""
        + """ "days":{"type":"array","items":{"type":"integer"}}},"required":["city"]}}]""";

    private static readonly Tokenizer Small = Samples.Small;

    private static readonly Message[] Thought = [new(Role.User, "hi"), new(Role.Assistant, "<think>\nhm\n</think>\n\nhello"), new(Role.User, "bye"),
        new(Role.Assistant, "ciao")];

    // Source and target of both turns; the user's text between them is left out.
    [Theory]
    [InlineData(true, false, "", "<think>\nhm\n</think>\n\nhello", "", "<think>\n\n</think>\n\nciao")]
    [InlineData(false, false, "<think>\n\n</think>\n\n", "hello", "<think>\n\n</think>\n\n", "ciao")]
    [InlineData(null, false, "", "<think>\nhm\n</think>\n\nhello", "<think>\n\n</think>\n\n", "ciao")]
    [InlineData(true, true, "", "<think>\n\n</think>\n\nhello", "", "<think>\n\n</think>\n\nciao")]
    [InlineData(null, true, "<think>\n\n</think>\n\n", "hello", "<think>\n\n</think>\n\n", "ciao")]
    public void Answers_without_a_thought_get_an_empty_one(bool? thinking, bool bareHistory, string source1, string target1, string source2, string target2)
    {
        var template = Templates.Get("deepseekr1") with { EnableThinking = thinking };
        var turns = template.EncodeTurns(Small, Thought, bareHistory: bareHistory);
        Assert.Equal($"<｜User｜>hi<｜Assistant｜>{source1}", Small.Decode(turns[0].Source)[Small.Decode([Small.BosId!.Value]).Length..]);
        Assert.Equal(target1, Small.Decode(turns[0].Target, skipSpecial: true));
        Assert.Equal($"<｜User｜>bye<｜Assistant｜>{source2}", Small.Decode(turns[1].Source));
        Assert.Equal(target2, Small.Decode(turns[1].Target, skipSpecial: true));
    }

    [Theory]
    [InlineData(true, "")]
    [InlineData(false, "<think>\n\n</think>\n\n")]
    [InlineData(null, "<think>\n\n</think>\n\n")]
    public void A_prompt_has_no_old_thoughts_and_says_whether_to_think(bool? thinking, string end)
    {
        var template = Templates.Get("qwen3") with { EnableThinking = thinking };
        Assert.Equal("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nhello<|im_end|>\n<|im_start|>user\nbye<|im_end|>\n<|im_start|>assistant\n"
            + end, Small.Decode(template.EncodePrompt(Small, Thought[..3])));
    }

    [Fact]
    public void Templates_without_thinking_leave_thoughts_alone() =>
        Assert.Equal("<think>\nhm\n</think>\n\nhello<|im_end|>\n", Small.Decode(Templates.Get("qwen3_nothink").EncodeTurns(Small, Thought)[0].Target));

    [Fact]
    public void An_encoder_that_masks_the_history_bares_it()
    {
        var encoder = new SftEncoder(Templates.Get("qwen3"), Small, maskHistory: true);
        var encoded = encoder.Encode(new Example(Thought[..3], [Thought[3]], null, null, "test:1"));
        Assert.DoesNotContain("hm", Small.Decode(encoded.Ids));
        Assert.Equal("<think>\n\n</think>\n\nciao<|im_end|>\n", Small.Decode([.. encoded.Labels.Where(l => l >= 0)]));
    }

    [Fact]
    public void Deepseek_tools_are_a_plain_list()
    {
        const string Expected = "You have access to the following tools:\n> Tool Name: get_weather\nTool Description: Weather of a city.\nTool Args:\n  - "
            + "city (string, required): Name of the city, should be one of [Paris, 北京]\n"
            + "  - days (array): , where each item should be integer\n\nUse the following format if using a tool:\n```\nAction: tool name (one of "
            + "[get_weather])\n"
            + "Action Input: the input to the tool, in a JSON format representing the kwargs (e.g. ```{\"input\": \"hello world\", \"num_beams\": "
            + "5}```)\n```\n";
        Assert.Equal(Expected, ToolForm.Plain.Describe(Tools));
        Assert.StartsWith("Be kind.You have access", Decoded(Templates.Get("deepseek3").EncodePrompt(Small, [new(Role.User, "hi")], "Be kind.", Tools)));
    }

    [Fact]
    public void Qwen_tools_are_json_lines()
    {
        const string Expected = "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function "
            + "signatures within <tools></tools> XML tags:\n<tools>\n"
            + """{"type": "function", "function": {"name": "f", "description": "d\n", "parameters": {"type": "object", "properties": {}}}}"""
            + "\n</tools>\n\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> XML "
            + "tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>";
        Assert.Equal(Expected, ToolForm.Qwen.Describe("""[{"name":"f","description":"d\n","parameters":{"type":"object","properties":{}}}]"""));
    }

    [Theory]
    [InlineData("deepseek3", "Action: f\nAction Input: {\"城市\": \"北京\", \"n\": [1, 2.50]}\nAction: g\nAction Input: {}")]
    [InlineData("qwen3",
        "<think>\n\n</think>\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"城市\": \"北京\", \"n\": [1, 2.50]}}\n</tool_call>\n<tool_call>\n{\"name\": "
            + "\"g\", \"arguments\": {}}\n</tool_call><|im_end|>\n")]
    public void Function_calls_and_their_results(string name, string call)
    {
        Message[] messages =
        [
            new(Role.User, "hi"), new(Role.Function, """[{"name":"f","arguments":{"城市":"北京","n":[1,2.50]}},{"name":"g","arguments":"{}"}]"""),
            new(Role.Observation, "sunny"), new(Role.Assistant, "It is sunny."),
        ];
        var turns = Templates.Get(name).EncodeTurns(Small, messages);
        Assert.Equal(call, Small.Decode(turns[0].Target, skipSpecial: true));
        Assert.Equal(name == "qwen3" ? "<|im_start|>user\n<tool_response>\nsunny\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
            : "<｜User｜>sunny<｜Assistant｜>", Small.Decode(turns[1].Source));
    }

    [Fact]
    public void A_call_keeps_the_thought_before_it() =>
        Assert.Equal("<think>\nhm\n</think>\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call><|im_end|>\n", Small.Decode(
            Templates.Get("qwen3").EncodeTurns(Small,
                [new(Role.User, "hi"), new(Role.Function, "<think>\nhm\n</think>\n\n{\"name\": \"f\", \"arguments\": {}}")])[0].Target));

    [Theory]
    [InlineData("")]
    [InlineData(" \n")]
    [InlineData("[]")]
    [InlineData(" [ \n ] ")]
    [InlineData("{ }")]
    [InlineData("null")]
    [InlineData("\"\"")]
    public void No_tools_add_nothing_however_they_are_spelled(string tools)
    {
        Message[] messages = [new(Role.User, "hi")];
        // Every form of tools, and a template that has none, with the system prompt that they would stand in and without.
        foreach (var form in new[] { ToolForm.Plain, ToolForm.Qwen, ToolForm.Glm4, null })
            foreach (var system in new[] { null, "Be kind." })
            {
                var template = Templates.Get("deepseek3") with { Tools = form };
                Assert.Equal(template.EncodePrompt(Small, messages, system), template.EncodePrompt(Small, messages, system, tools));
            }
    }

    [Fact]
    public void What_is_no_call_or_no_tool_is_said()
    {
        Assert.Contains("no JSON object {name, arguments}", Assert.Throws<InvalidDataException>(() => ToolForm.Qwen.Call("f()")).Message);
        Assert.Contains("no JSON list", Assert.Throws<InvalidDataException>(() => ToolForm.Plain.Describe("""[{"name":"f"}]""")).Message);
        string Refusal(string parameters) => Assert.Throws<InvalidDataException>(() =>
            ToolForm.Plain.Describe("""[{"name":"f","parameters":{"type":"object",""" + parameters + "}}]")).Message;
        Assert.Equal("the property 'c' of the tool 'f' must be a JSON Schema, an object, but is 3", Refusal("\"properties\":{\"c\":3}"));
        Assert.Equal("'required' of the tool 'f' must be a list of names, but is true", Refusal("\"properties\":{},\"required\":true"));
        Assert.Contains("  - c (any, required): \n", ToolForm.Plain.Describe(
            """[{"name":"f","parameters":{"type":"object","properties":{"c":true},"required":["c",null]}}]"""));
        Assert.Contains("one function at a time",
            Assert.Throws<InvalidDataException>(() => ToolForm.Glm4.Call("""[{"name":"f","arguments":{}},{"name":"g","arguments":{}}]""")).Message);
        Assert.Contains("'kimi_k2' has no form for tools",
            Assert.Throws<NotSupportedException>(() => Templates.Get("kimi_k2").EncodePrompt(Small, [new(Role.User, "hi")], null, Tools)).Message);
        var row = new Example([new(Role.User, "hi")], [new(Role.Function, "f()")], null, null, "data.json:3");
        Assert.StartsWith("data.json:3: a function call is no JSON",
            Assert.Throws<InvalidDataException>(() => new SftEncoder(Templates.Get("qwen3"), Small).Encode(row)).Message);
    }

    private static string Decoded(int[] ids) => Small.Decode(ids)[Small.Decode([Small.BosId!.Value]).Length..];
}
