using System.Text.Json;

using KtNotebooks.Data;
using KtNotebooks.Data.Jinja;
using KtNotebooks.Tests.Tokenizers;

using Xunit;

namespace KtNotebooks.Tests.Data;

/// <summary>
/// The Jinja of chat templates against what Jinja2 makes of the same (Golden/jinja/make.py): short pieces, and templates with all constructs of those of
/// the supported models; and conversations told by them.
/// </summary>
public class JinjaTests
{
    private static readonly string Folder = Path.Combine(Checkout.Root, "tests/KtNotebooks.Tests/Golden/jinja");

    private static readonly JsonElement Expected = JsonDocument.Parse(File.ReadAllText(Path.Combine(Folder, "expected.json"))).RootElement;

    public static TheoryData<string> Pieces => [.. Expected.GetProperty("pieces").EnumerateArray().Select(p => p.GetProperty("template").GetString()!)];

    public static TheoryData<string> Cases => [.. Expected.GetProperty("templates").EnumerateArray().Select(c => c.GetProperty("name").GetString()!)];

    [Theory]
    [MemberData(nameof(Pieces))]
    public void A_piece_is_what_Jinja2_makes_of_it(string template) => Assert.Equal(
        Expected.GetProperty("pieces").EnumerateArray().First(p => p.GetProperty("template").GetString() == template).GetProperty("text").GetString(),
        JinjaTemplate.Parse(template, "x").Render(new Dictionary<string, object?> { ["null_"] = null }));

    [Theory]
    [MemberData(nameof(Cases))]
    public void A_template_is_what_Jinja2_makes_of_it(string name)
    {
        var test = Expected.GetProperty("templates").EnumerateArray().Single(c => c.GetProperty("name").GetString() == name);
        var file = test.GetProperty("template").GetString()!;
        var values = (Dictionary<string, object?>)Value(test.GetProperty("values"))!;
        Assert.Equal(test.GetProperty("text").GetString(), JinjaTemplate.Parse(File.ReadAllText(Path.Combine(Folder, file)), file).Render(values));
    }

    [Theory]
    [InlineData("a\n{% include 'x' %}", "t:2: {% include %} is not run here: no chat template of a known model needs it")]
    [InlineData("{{ 1 | shout }}", "t:1: the filter 'shout' is not known here.")]
    [InlineData("{{ 1 is big }}", "t:1: the test 'is big' is not known here.")]
    [InlineData("{% if 1 %}\nx", "t:2: {% endif %} is missing")]
    [InlineData("\n\n{{ x.y.z }}", "t:3: 'y' is undefined, so it has no 'z'")]
    [InlineData("{{ now() }}", "t:1: 'now' is not known here and cannot be called")]
    [InlineData("{{ 'a' + 1 }}", "t:1: a string + a number has no meaning")]
    [InlineData("{{ raise_exception('no tools') }}", "t:1: the chat template refuses the conversation: no tools")]
    [InlineData("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "t:1: the macro 'f' calls itself without end")]
    [InlineData("{{ range(10000000) }}", "t:1: range(10000000) is too long")]
    [InlineData("{{ 'a", "t:1: a string has no end")]
    public void What_is_not_here_or_wrong_has_its_line(string template, string message) => Assert.StartsWith(message,
        Assert.Throws<InvalidDataException>(() => JinjaTemplate.Parse(template, "t").Render(new Dictionary<string, object?>
        {
            ["x"] = new Dictionary<string, object?>(),
        })).Message, StringComparison.Ordinal);

    [Theory]
    [InlineData("deepseek_v2", " Hi there|", " Fine|", "")]
    [InlineData("deepseek_r1", "Hi there<｜end▁of▁sentence｜>", "Fine<｜end▁of▁sentence｜>", "")]
    [InlineData("qwen3", "Hi there<|im_end|>\n", "<think>\nwell\n</think>\n\nFine<|im_end|>\n", "<think>\nwell\n</think>\n\n")]
    [InlineData("glm4_moe", "\n<think></think>\nHi there", "\n<think>well</think>\nFine", "<think>\nwell\n</think>\n\n")]
    [InlineData("gpt_oss", "<|channel|>final<|message|>Hi there<|end|>", "<|channel|>final<|message|>Fine<|return|>", "")]
    [InlineData("kimi_k2", "Hi there<|im_end|>", "Fine<|im_end|>", "")]
    public void Answers_are_found_in_the_text_and_the_whole_is_that_of_the_template(string template, string first, string last, string thought)
    {
        using var folder = Model(template);
        var form = ChatForm.Load(folder.Path, thinking: null);
        Message[] messages = [new(Role.User, "hello"), new(Role.Assistant, thought + "Hi there"), new(Role.User, "How are you?"),
            new(Role.Assistant, thought + "Fine")];
        var turns = form.EncodeTurns(Samples.Small, messages, "Be kind.", null);
        string Text(int[] ids) => Samples.Small.Decode(ids);
        Assert.Equal([first, last], turns.Select(t => Text(t.Target)).Select(t => t.TrimEnd('\u0000')).Select((t, i) => i == 1 ? WithoutEos(t, last) : t));
        var whole = string.Concat(turns.Select(t => Text(t.Source) + Text(t.Target)));
        Assert.StartsWith(form.Render(messages, "Be kind."), whole, StringComparison.Ordinal);
        Assert.Contains("How are you?", Text(turns[1].Source), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("deepseek_r1")]
    [InlineData("qwen3")]
    [InlineData("glm4_moe")]
    [InlineData("gpt_oss")]
    [InlineData("kimi_k2")]
    public void Function_calls_are_learned_as_answers(string template)
    {
        using var folder = Model(template);
        var form = ChatForm.Load(folder.Path, thinking: null);
        Message[] messages = [new(Role.User, "Rain?"), new(Role.Function, """[{"name": "weather", "arguments": {"city": "Bern"}}]"""),
            new(Role.Observation, "dry"), new(Role.Assistant, "No rain.")];
        var turns = form.EncodeTurns(Samples.Small, messages, null, """[{"name": "weather", "description": "w", "parameters": {}}]""");
        string[] targets = [.. turns.Select(t => Samples.Small.Decode(t.Target))];
        Assert.Contains("weather", targets[0], StringComparison.Ordinal);
        Assert.Contains("Bern", targets[0], StringComparison.Ordinal);
        Assert.DoesNotContain("dry", targets[0], StringComparison.Ordinal);
        Assert.Contains("dry", Samples.Small.Decode(turns[1].Source), StringComparison.Ordinal);
        Assert.Contains("No rain.", targets[1], StringComparison.Ordinal);
        var prompt = form.Render([.. messages[..2], new(Role.User, "Sure?") { Behind = messages[2] }], prompt: true);
        Assert.Matches(@"(?s)Bern.*\bdry\b.*\bSure\?", prompt);
    }

    private static string WithoutEos(string text, string wanted) => text.StartsWith(wanted, StringComparison.Ordinal) ? wanted : text;

    private static Samples.Folder Model(string template)
    {
        var folder = new Samples.Folder();
        folder.Write("chat_template.jinja", File.ReadAllText(Path.Combine(Folder, template + ".jinja")));
        folder.Write("tokenizer_config.json", """{"bos_token": "^", "eos_token": {"content": "|"}}""");
        return folder;
    }

    private static object? Value(JsonElement json) => json.ValueKind switch
    {
        JsonValueKind.Object => json.EnumerateObject().ToDictionary(p => p.Name, p => Value(p.Value)),
        JsonValueKind.Array => json.EnumerateArray().Select(Value).ToList(),
        JsonValueKind.String => json.GetString(),
        JsonValueKind.Number => json.TryGetInt64(out var whole) ? (object)whole : json.GetDouble(),
        JsonValueKind.True => true,
        JsonValueKind.False => false,
        _ => null,
    };
}
