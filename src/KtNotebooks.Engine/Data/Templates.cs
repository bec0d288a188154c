namespace KtNotebooks.Data;

/// <summary>The templates by LLaMA-Factory's names.</summary>
public static class Templates
{
    private const string QwenSystem = "<|im_start|>system\n", QwenEnd = "<|im_end|>\n", QwenUser = "<|im_start|>user\n",
        QwenAssistant = "<|im_start|>assistant\n";
    private const string MoonSystem = "<|im_system|>system<|im_middle|>", MoonUser = "<|im_user|>user<|im_middle|>",
        MoonAssistant = "<|im_assistant|>assistant<|im_middle|>", MoonEnd = "<|im_end|>";

    private static readonly Template Deepseek3 = new()
    {
        // The bars in DeepSeek's tokens are full-width (U+FF5C).
        Name = "deepseek3",
        Prefix = [Slot.Bos],
        User = [Slot.Around("<｜User｜>", "<｜Assistant｜>")],
        AnswerHeader = "<｜Assistant｜>",
    };

    private static readonly Template Qwen3 = new()
    {
        Name = "qwen3",
        System = [Slot.Around(QwenSystem, QwenEnd)],
        User = [Slot.Around(QwenUser, QwenEnd + QwenAssistant)],
        AnswerHeader = QwenAssistant,
        Assistant = [Slot.Around("", QwenEnd)],
        Function = [Slot.Around("", QwenEnd)],
        Observation = [Slot.Around(QwenUser + "<tool_response>\n", "\n</tool_response>" + QwenEnd + QwenAssistant)],
        Tools = ToolForm.Qwen,
        StopWords = ["<|im_end|>"],
        ReplaceEos = true,
        Thinking = new Thinking(),
    };

    private static readonly Template Moonlight = new()
    {
        Name = "moonlight",
        System = [Slot.Around(MoonSystem, MoonEnd)],
        User = [Slot.Around(MoonUser, MoonEnd + MoonAssistant)],
        AnswerHeader = MoonAssistant,
        Assistant = [Slot.Around("", MoonEnd)],
        DefaultSystem = "You are a helpful assistant provided by Moonshot-AI.",
        StopWords = [MoonEnd],
        ReplaceEos = true,
    };

    private static readonly Template[] All =
    [
        // No end token: for text that carries its own, pre-rendered with the model's chat template.
        new() { Name = "empty", Assistant = [Slot.Content] },
        // DeepSeek-V2. Its official chat template puts a space after "Assistant:"; adapters trained with LLaMA-Factory expect none.
        new()
        {
            Name = "deepseek",
            Prefix = [Slot.Bos],
            System = [Slot.Around("", "\n\n")],
            User = [Slot.Around("User: ", "\n\nAssistant:")],
            AnswerHeader = "Assistant:",
        },
        Deepseek3,
        Deepseek3 with { Name = "deepseekr1", Thinking = new Thinking() },
        Qwen3,
        Qwen3 with { Name = "qwen3_nothink", Thinking = null },
        Moonlight,
        // Ours: LLaMA-Factory has none. Kimi-K2's own chat template has Moonlight's shape with this system prompt; its tool calls carry ids, which data
        // sets here have not.
        Moonlight with { Name = "kimi_k2", DefaultSystem = "You are Kimi, an AI assistant created by Moonshot AI.", Tools = null },
        new()
        {
            Name = "glm4",
            Prefix = [Slot.Fixed("[gMASK]<sop>")],
            System = [Slot.Around("<|system|>\n", "")],
            User = [Slot.Around("<|user|>\n", "<|assistant|>")],
            AnswerHeader = "<|assistant|>",
            Assistant = [Slot.Around("\n", "")],
            Observation = [Slot.Around("<|observation|>\n", "<|assistant|>")],
            Tools = ToolForm.Glm4,
            StopWords = ["<|user|>", "<|observation|>"],
            EfficientEos = true,
        },
    ];

    private static readonly Dictionary<string, Template> ByName = All.ToDictionary(t => t.Name);

    public static IReadOnlyCollection<string> Names => ByName.Keys;

    /// <exception cref="ArgumentException">No template has this name; the message gives the nearest.</exception>
    public static Template Get(string name) => ByName.TryGetValue(name, out var template)
        ? template
        : throw new ArgumentException(IsOfAnotherFamily(name)
            ? $"Unknown template '{name}': a template is made for one family of models, and this one's is not here. Known: " +
                string.Join(", ", Names.Order(StringComparer.Ordinal)) + ". template: auto is the one that the model brings"
            : $"Unknown template '{name}'.{Nearest.Hint(name, Names)}"
                + (Nearest.Find(name, Names) is null ? " template: auto is the one that the model brings" : ""));

    /// <summary>qwen3_5 is one of LLaMA-Factory's names for other models, no slip for qwen3, which would train it with wrong marks.</summary>
    private static bool IsOfAnotherFamily(string name) =>
        Nearest.Find(name, Names) is { } near && name.StartsWith($"{near}_", StringComparison.OrdinalIgnoreCase);
}
