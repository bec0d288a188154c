using System.Text.Json;

using KtNotebooks.Files;

namespace KtNotebooks.Data;

/// <summary>
/// The chat template that a model brings (Jinja, in chat_template.jinja or tokenizer_config.json). <see cref="ChatForm"/> runs it for template: auto; else
/// conversations are told by <see cref="Template"/>s, by LLaMA-Factory's names. What it shows, by marks that only some of them have, is which of them are
/// likely to be the model's.
/// </summary>
public static class ChatTemplate
{
    /// <summary>Its text; null where the model brings none. Of several by name that which is used without tools.</summary>
    /// <param name="folder">A model's folder, or an adapter's with tokenizer files in it.</param>
    /// <exception cref="InvalidDataException">tokenizer_config.json is not valid.</exception>
    public static string? Find(string folder) => Read(folder)?.Text;

    /// <summary>The same, and the file that it stands in.</summary>
    internal static (string Text, string File)? Read(string folder)
    {
        var (file, settings) = (Path.Combine(folder, "chat_template.jinja"), Path.Combine(folder, "tokenizer_config.json"));
        if (File.Exists(file)) return (RegularFile.ReadAllText(file, "a chat template"), file);
        if (!File.Exists(settings) || !JsonSource.Read(settings, "a tokenizer's settings").TryGetProperty("chat_template", out var found)) return null;
        if (found.ValueKind == JsonValueKind.Array) found = found.EnumerateArray().FirstOrDefault(IsDefault);
        if (found.ValueKind == JsonValueKind.Object) found = found.TryGetProperty("template", out var text) ? text : default;
        return found.ValueKind == JsonValueKind.String ? (found.GetString()!, $"{settings}, chat_template") : null;
    }

    /// <summary>Names of the templates that fit: one is the answer, several are for a person to choose from, none is known.</summary>
    public static IReadOnlyList<string> Likely(string chatTemplate)
    {
        ArgumentNullException.ThrowIfNull(chatTemplate);
        bool Has(string mark) => chatTemplate.Contains(mark, StringComparison.Ordinal);
        if (Has("<|im_middle|>")) return Has("an AI assistant created by Moonshot AI") ? ["kimi_k2"]
            : Has("provided by Moonshot-AI") ? ["moonlight"] : ["kimi_k2", "moonlight"];
        if (Has("<|im_start|>")) return Has("<think>") || Has("enable_thinking") ? ["qwen3"] : ["qwen3_nothink"];
        if (Has("<｜User｜>")) return Has("think") ? ["deepseek3", "deepseekr1"] : ["deepseek3"]; // of those that think, some always do and some when asked
        if (Has("[gMASK]")) return Has("<think>") ? [] : ["glm4"];
        return Has("'User: '") && Has("Assistant:") ? ["deepseek"] : [];
    }

    /// <summary>
    /// Refuses a run whose template was not given though the model brings one: LLaMA-Factory would use that one, and rows told in another form teach
    /// another model.
    /// </summary>
    /// <exception cref="ArgumentException">The model has a chat template.</exception>
    public static void RequireNone(string folder)
    {
        if (Find(folder) is not { } text) return;
        var likely = Likely(text);
        throw new ArgumentException($"'template' is not given, and {folder} brings a chat template: template=auto runs it, a name takes LLaMA-Factory's form "
            + $"{(likely.Count > 0 ? $"(this one looks like {string.Join(" or ", likely)})" : $"({string.Join(", ", Templates.Names)})")}, and "
            + "template=empty is for rows that carry all marks themselves");
    }

    private static bool IsDefault(JsonElement named) =>
        named.ValueKind == JsonValueKind.Object && named.TryGetProperty("name", out var name) && name.ValueKind == JsonValueKind.String
            && name.ValueEquals("default");
}
