using System.Text.Json;

using KtNotebooks.Files;

namespace KtNotebooks.Data;

/// <summary>
/// The template that a model was made with, as far as its own files say it: the chat template of Hugging Face (chat_template.jinja, or chat_template in tokenizer_config.json) is searched for the marks that
/// only one of ours has. What two of them have in common is no answer but a choice.
/// </summary>
public static class TemplateGuess
{
    private const string Config = "tokenizer_config.json", Jinja = "chat_template.jinja";

    /// <summary>Names of templates that fit: one is the answer, several are for a person to choose from, none is known.</summary>
    /// <param name="folder">A model folder, or an adapter's with tokenizer files in it.</param>
    /// <exception cref="InvalidDataException">tokenizer_config.json is damaged.</exception>
    public static IReadOnlyList<string> Of(string folder) => ChatTemplate(folder) is { } text ? Fitting(text) : [];

    /// <summary>The same for the text of a chat template.</summary>
    public static IReadOnlyList<string> Fitting(string chatTemplate)
    {
        ArgumentNullException.ThrowIfNull(chatTemplate);
        bool Has(string mark) => chatTemplate.Contains(mark, StringComparison.Ordinal);
        if (Has("<|im_system|>")) return Has("an AI assistant created by Moonshot AI") ? ["kimi_k2"] : Has("provided by Moonshot-AI") ? ["moonlight"] : ["kimi_k2", "moonlight"];
        if (Has("<|im_start|>")) return Has("<think>") || Has("enable_thinking") ? ["qwen3"] : ["qwen3_nothink"];
        if (Has("<｜User｜>")) return !Has("think") ? ["deepseek3"] : ["deepseek3", "deepseekr1"]; // of those that think, some always do and some when asked
        if (Has("User: ") && Has("Assistant:") && !Has("<|")) return ["deepseek"];
        return [];
    }

    private static string? ChatTemplate(string folder)
    {
        var jinja = Path.Combine(folder, Jinja);
        if (File.Exists(jinja)) return RegularFile.ReadAllText(jinja, "a chat template");
        var config = Path.Combine(folder, Config);
        if (!File.Exists(config) || !JsonSource.Read(config, "a tokenizer's settings").TryGetProperty("chat_template", out var template)) return null;
        // Several by name: that which is used without tools.
        if (template.ValueKind == JsonValueKind.Array) template = template.EnumerateArray().FirstOrDefault(t => t.ValueKind == JsonValueKind.Object && t.TryGetProperty("name", out var name) && name.ValueEquals("default"));
        if (template.ValueKind == JsonValueKind.Object) template = template.TryGetProperty("template", out var text) ? text : default;
        return template.ValueKind == JsonValueKind.String ? template.GetString() : null;
    }
}
