namespace KtNotebooks.Data;

/// <summary>The templates by LLaMA-Factory's names.</summary>
public static class Templates
{
    // The bars in DeepSeek's tokens are full-width (U+FF5C).
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
        },
        new()
        {
            Name = "deepseek3",
            Prefix = [Slot.Bos],
            User = [Slot.Around("<｜User｜>", "<｜Assistant｜>")],
        },
    ];

    private static readonly Dictionary<string, Template> ByName = All.ToDictionary(t => t.Name);

    public static IReadOnlyCollection<string> Names => ByName.Keys;

    /// <exception cref="ArgumentException">No template has this name; the message gives the nearest.</exception>
    public static Template Get(string name) => ByName.TryGetValue(name, out var template)
        ? template
        : throw new ArgumentException($"Unknown template '{name}'.{Nearest.Hint(name, Names)}");
}
