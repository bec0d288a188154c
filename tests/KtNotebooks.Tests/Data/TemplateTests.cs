using KtNotebooks.Data;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Tokenizers;
using Xunit;

namespace KtNotebooks.Tests.Data;

public class TemplateTests
{
    private static readonly Tokenizer Small = Samples.Small;

    private static readonly Message[] TwoTurns =
        [new(Role.User, "hi"), new(Role.Assistant, "hello"), new(Role.User, "bye"), new(Role.Assistant, "ciao")];

    [Theory]
    [InlineData("deepseek", null, "<B>User: hi\n\nAssistant:|hello<E>|User: bye\n\nAssistant:|ciao<E>")]
    [InlineData("deepseek", "Be kind.", "<B>Be kind.\n\nUser: hi\n\nAssistant:|hello<E>|User: bye\n\nAssistant:|ciao<E>")]
    [InlineData("deepseek3", null, "<B><｜User｜>hi<｜Assistant｜>|hello<E>|<｜User｜>bye<｜Assistant｜>|ciao<E>")]
    [InlineData("deepseek3", "Be kind.", "<B>Be kind.<｜User｜>hi<｜Assistant｜>|hello<E>|<｜User｜>bye<｜Assistant｜>|ciao<E>")]
    [InlineData("empty", null, "hi|hello|bye|ciao")]
    [InlineData("empty", "Be kind.", "Be kind.hi|hello|bye|ciao")]
    [InlineData("deepseekr1", "Be kind.",
        "<B>Be kind.<｜User｜>hi<｜Assistant｜>|<think>\n\n</think>\n\nhello<E>|<｜User｜>bye<｜Assistant｜>|<think>\n\n</think>\n\nciao<E>")]
    [InlineData("qwen3", null,
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
            + "|<think>\n\n</think>\n\nhello<|im_end|>\n|<|im_start|>user\nbye<|im_end|>\n<|im_start|>assistant\n|<think>\n\n</think>\n\nciao<|im_end|>\n")]
    [InlineData("qwen3_nothink", "Be kind.",
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
            + "|hello<|im_end|>\n|<|im_start|>user\nbye<|im_end|>\n<|im_start|>assistant\n|ciao<|im_end|>\n")]
    [InlineData("moonlight", null,
        "<|im_system|>system<|im_middle|>You are a helpful assistant provided by "
            + "Moonshot-AI.<|im_end|><|im_user|>user<|im_middle|>hi<|im_end|><|im_assistant|>assistant<|im_middle|>"
            + "|hello<|im_end|>|<|im_user|>user<|im_middle|>bye<|im_end|><|im_assistant|>assistant<|im_middle|>|ciao<|im_end|>")]
    [InlineData("kimi_k2", null,
        "<|im_system|>system<|im_middle|>You are Kimi, an AI assistant created by Moonshot "
            + "AI.<|im_end|><|im_user|>user<|im_middle|>hi<|im_end|><|im_assistant|>assistant<|im_middle|>"
            + "|hello<|im_end|>|<|im_user|>user<|im_middle|>bye<|im_end|><|im_assistant|>assistant<|im_middle|>|ciao<|im_end|>")]
    [InlineData("kimi_k2", "Be kind.",
        "<|im_system|>system<|im_middle|>Be kind.<|im_end|><|im_user|>user<|im_middle|>hi<|im_end|><|im_assistant|>assistant<|im_middle|>"
            + "|hello<|im_end|>|<|im_user|>user<|im_middle|>bye<|im_end|><|im_assistant|>assistant<|im_middle|>|ciao<|im_end|>")]
    [InlineData("glm4", null, "[gMASK]<sop><|user|>\nhi<|assistant|>|\nhello|<|user|>\nbye<|assistant|>|\nciao")]
    [InlineData("glm4", "Be kind.", "[gMASK]<sop><|system|>\nBe kind.<|user|>\nhi<|assistant|>|\nhello|<|user|>\nbye<|assistant|>|\nciao")]
    public void Golden(string name, string? system, string expected)
    {
        var turns = Templates.Get(name).EncodeTurns(Small, TwoTurns, system);
        var text = string.Join('|', turns.Select(t => $"{Small.Decode(t.Source)}|{Small.Decode(t.Target)}"));
        Assert.Equal(expected, text.Replace("<｜begin▁of▁sentence｜>", "<B>", StringComparison.Ordinal)
            .Replace("<｜end▁of▁sentence｜>", "<E>", StringComparison.Ordinal));
    }

    /// <summary>What a model's chat_template tells is what it was trained on, with a system text, with the template's own and without.</summary>
    [Theory]
    [InlineData("empty")]
    [InlineData("deepseek")]
    [InlineData("deepseek3")]
    [InlineData("qwen3_nothink")]
    [InlineData("moonlight")]
    [InlineData("kimi_k2")]
    public void Jinja_of_a_template_tells_the_same(string name)
    {
        var (template, folder) = (Templates.Get(name), Directory.CreateTempSubdirectory("kt-jinja-").FullName);
        try
        {
            Small.WithChatTemplate(TemplateJinja.Of(template)!).Save(folder);
            var chat = ChatForm.Load(folder, null);
            foreach (var system in (string?[])[null, "Be 'kind'\\n."])
            {
                Assert.Equal(Small.Decode([.. template.EncodeTurns(Small, TwoTurns, system).SelectMany(t => t.Source.Concat(t.Target))]),
                    chat.Render(TwoTurns, system));
                Assert.Equal(Small.Decode(template.EncodePrompt(Small, [.. TwoTurns.Take(3)], system)),
                    chat.Render([.. TwoTurns.Take(3)], system, prompt: true));
            }
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    [Theory]
    [InlineData("qwen3")]
    [InlineData("deepseekr1")]
    [InlineData("glm4")]
    public void A_template_that_Jinja_of_one_form_does_not_tell_has_none(string name) => Assert.Null(TemplateJinja.Of(Templates.Get(name)));

    [Fact]
    public void Every_template_has_a_golden_test()
    {
        var tested = typeof(TemplateTests).GetMethod(nameof(Golden))!.GetCustomAttributes(typeof(InlineDataAttribute), false).Cast<InlineDataAttribute>()
            .Select(a => (string)a.Data[0]!);
        Assert.Empty(Templates.Names.Except(tested));
    }

    [Fact]
    public void System_prompt_and_question_are_tokenised_apart()
    {
        // "Be " + "kind" would merge across the border if they were one text.
        var ids = Templates.Get("empty").EncodePrompt(Small, [new(Role.User, " cat")], "the");
        Assert.Equal([.. Small.Encode("the"), .. Small.Encode(" cat")], ids);
    }

    [Fact]
    public void A_prompt_ends_where_the_answer_begins()
    {
        var template = Templates.Get("deepseek");
        var turns = template.EncodeTurns(Small, TwoTurns);
        Assert.Equal([.. turns[0].Source, .. turns[0].Target, .. turns[1].Source], template.EncodePrompt(Small, TwoTurns[..3]));
    }

    /// <summary>As the model's own chat template tells them: what an answer begins with stands before an answer alone.</summary>
    [Theory]
    [InlineData("deepseek", "User: 21 °C\n\nUser: and?\n\nAssistant:")]
    [InlineData("deepseek3", "<｜User｜>21 °C<｜User｜>and?<｜Assistant｜>")]
    [InlineData("qwen3_nothink",
        "<|im_start|>user\n<tool_response>\n21 °C\n</tool_response><|im_end|>\n<|im_start|>user\nand?<|im_end|>\n<|im_start|>assistant\n")]
    [InlineData("moonlight", "<|im_user|>user<|im_middle|>21 °C<|im_end|><|im_user|>user<|im_middle|>and?<|im_end|><|im_assistant|>assistant<|im_middle|>")]
    [InlineData("glm4", "<|observation|>\n21 °C<|user|>\nand?<|assistant|>")]
    [InlineData("empty", "21 °Cand?")]
    public void What_a_person_says_to_a_tools_result_stands_behind_it(string name, string expected)
    {
        Message[] all = [TwoTurns[0], TwoTurns[1], new(Role.User, "and?") { Behind = new(Role.Observation, "21 °C") }];
        var template = Templates.Get(name);
        Assert.EndsWith(expected, Small.Decode(template.EncodePrompt(Small, all)), StringComparison.Ordinal);
        Assert.Equal(template.AnswerHeader.Length > 0, name != "empty");
    }

    [Fact]
    public void User_text_is_never_taken_for_a_placeholder()
    {
        const string Text = "{{content}} {{idx}} {0}";
        Assert.Equal(Text, Small.Decode(Templates.Get("empty").EncodePrompt(Small, [new(Role.User, Text)])));
    }

    [Fact]
    public void Stop_ids_are_eos_and_stop_words()
    {
        Assert.Equal([1], Templates.Get("deepseek").StopIds(Small));
        var template = new Template { Name = "t", StopWords = ["<｜User｜>"], ReplaceEos = true };
        Assert.Equal([1, 3], template.StopIds(Small)); // a model may end with its own, whatever it is taught
        Assert.Equal(3, template.EosId(Small));
    }

    [Fact]
    public void Wrong_conversations_are_refused()
    {
        var template = Templates.Get("deepseek");
        Assert.Contains("even number", Assert.Throws<ArgumentException>(() => template.EncodeTurns(Small, TwoTurns[..3])).Message);
        Assert.Contains("odd number", Assert.Throws<ArgumentException>(() => template.EncodePrompt(Small, TwoTurns)).Message);
        Assert.Contains("alternate", Assert.Throws<ArgumentException>(() => template.EncodePrompt(Small, [new(Role.Assistant, "x")])).Message);
    }

    [Fact]
    public void A_missing_token_and_an_unknown_template_are_named()
    {
        var template = new Template { Name = "glm", Prefix = [Slot.Named("[gMASK]")] };
        Assert.Contains("'[gMASK]'", Assert.Throws<InvalidDataException>(() => template.EncodePrompt(Small, [new(Role.User, "x")])).Message);
        Assert.Contains("Did you mean 'deepseek'?", Assert.Throws<ArgumentException>(() => Templates.Get("depseek")).Message);
    }
}
