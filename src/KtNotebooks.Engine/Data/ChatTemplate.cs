using System.Text.Json;
using KtNotebooks.Files;

namespace KtNotebooks.Data;

/// <summary>
/// The chat template that a model brings (Jinja, in tokenizer_config.json or chat_template.jinja). It is not run here: conversations are told by
/// <see cref="Template"/>s, by LLaMA-Factory's names. What it shows is which of them are likely to be the model's.
/// </summary>
public static class ChatTemplate
{
    /// <summary>Words that only one family of models has, and the templates of that family.</summary>
    private static readonly (string Mark, string[] Names)[] Families =
    [
        ("<|im_middle|>", ["moonlight", "kimi_k2"]),
        ("<|im_start|>", ["qwen3", "qwen3_nothink"]),
        ("<｜User｜>", ["deepseek3", "deepseekr1"]),
        ("[gMASK]", ["glm4"]),
        ("'User: '", ["deepseek"]),
    ];

    /// <summary>Its text; null where the model brings none.</summary>
    /// <param name="folder">The model's folder.</param>
    /// <exception cref="InvalidDataException">tokenizer_config.json is not valid.</exception>
    public static string? Find(string folder)
    {
        var (file, settings) = (Path.Combine(folder, "chat_template.jinja"), Path.Combine(folder, "tokenizer_config.json"));
        if (File.Exists(file)) return RegularFile.ReadAllText(file, "a chat template");
        if (!File.Exists(settings)) return null;
        // One text, or a list of named ones.
        return JsonSource.Read(settings, "a tokenizer's settings").TryGetProperty("chat_template", out var found)
            && found.ValueKind is JsonValueKind.String or JsonValueKind.Array ? found.ToString() : null;
    }

    /// <summary>The templates that are likely to fit, or an empty list.</summary>
    public static IReadOnlyList<string> Likely(string chatTemplate) =>
        Families.FirstOrDefault(f => chatTemplate.Contains(f.Mark, StringComparison.Ordinal)).Names ?? [];

    /// <summary>
    /// Refuses a run whose template was not given though the model brings one: LLaMA-Factory would use that one, and rows told in another form teach another
    /// model.
    /// </summary>
    /// <exception cref="ArgumentException">The model has a chat template.</exception>
    public static void RequireNone(string folder)
    {
        if (Find(folder) is not { } text) return;
        var likely = Likely(text);
        throw new ArgumentException($"'template' is not given, and {folder} brings a chat template, which is not run here: give its name"
            + $"{(likely.Count > 0 ? $" (this one looks like {string.Join(" or ", likely)})" : $", one of {string.Join(", ", Templates.Names)}")}, or"
            + $" template=empty for rows that carry all marks themselves");
    }
}
