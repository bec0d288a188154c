using System.Text.Json;

using KtNotebooks.Data;
using KtNotebooks.Tests.Tokenizers;

using Xunit;

namespace KtNotebooks.Tests.Data;

public class ChatTemplateTests
{
    [Theory]
    [InlineData("{{ 'User: ' + m + '\\n\\n' + 'Assistant:' }}", "deepseek")]
    [InlineData("{{ '<｜User｜>' + m + '<｜Assistant｜>' }}", "deepseek3")]
    [InlineData("{{ '<｜User｜>' + m + '<｜Assistant｜><think>\\n' }}", "deepseek3 deepseekr1")]
    [InlineData("{{ '<|im_start|>user\\n' }}{%- if enable_thinking is false %}{{ '<think>' }}{% endif %}", "qwen3")]
    [InlineData("{{ '<|im_start|>user\\n' }}", "qwen3_nothink")]
    [InlineData("<|im_system|>system<|im_middle|>You are a helpful assistant provided by Moonshot-AI.<|im_end|>", "moonlight")]
    [InlineData("<|im_system|>system<|im_middle|>You are Kimi, an AI assistant created by Moonshot AI.<|im_end|>", "kimi_k2")]
    [InlineData("<|im_system|>system<|im_middle|>", "kimi_k2 moonlight")]
    [InlineData("[gMASK]<sop><|user|>", "glm4")]
    [InlineData("[gMASK]<sop><|user|><think>", "")]
    [InlineData("[INST] {{ m }} [/INST]", "")]
    public void Is_read_from_the_marks_of_a_chat_template(string template, string names) =>
        Assert.Equal(names.Split(' ', StringSplitOptions.RemoveEmptyEntries), ChatTemplate.Likely(template));

    [Fact]
    public void A_list_of_chat_templates_counts_by_its_default()
    {
        using var folder = new Samples.Folder();
        var list = new[] { new { name = "tool_use", template = "<|im_start|>" }, new { name = "default", template = "<｜User｜>" } };
        folder.Write("tokenizer_config.json", JsonSerializer.Serialize(new { chat_template = list }));
        Assert.Equal("<｜User｜>", ChatTemplate.Find(folder.Path));
    }

    [Fact]
    public void The_built_in_model_names_its_own() =>
        Assert.Equal(["deepseek"], ChatTemplate.Likely(ChatTemplate.Find(Path.Combine(Checkout.Root, "notebooks/models/kt-tiny"))!));

    [Fact]
    public void A_folder_without_any_has_none()
    {
        using var folder = new Samples.Folder();
        Assert.Null(ChatTemplate.Find(folder.Path));
        folder.Write("tokenizer_config.json", """{"chat_template": null}""");
        Assert.Null(ChatTemplate.Find(folder.Path));
    }
}
