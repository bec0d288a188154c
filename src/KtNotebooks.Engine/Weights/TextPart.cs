using System.Text.Json;

using KtNotebooks.Files;

namespace KtNotebooks.Weights;

/// <summary>
/// Models that see have a language model inside: its settings are config.json's `text_config`, its tensors begin with a word of their own, and both are then
/// as if the language model stood alone. What else is in the files is not loaded.
/// </summary>
internal static class TextPart
{
    /// <summary>By the model_type of the whole: what its text model's tensors begin with. Kimi-K2.5 and K2.6.</summary>
    private static readonly Dictionary<string, string> Prefixes = new() { ["kimi_k25"] = "language_model." };

    public static IEnumerable<string> Types => Prefixes.Keys;

    /// <summary>What the tensors of the text model begin with; "" where the model is nothing else.</summary>
    public static string PrefixOf(JsonElement config) =>
        config.ValueKind == JsonValueKind.Object && config.TryGetProperty("model_type", out var type) && type.ValueKind == JsonValueKind.String
            ? Prefixes.GetValueOrDefault(type.GetString()!, "") : "";

    /// <summary>The settings of the text model.</summary>
    /// <exception cref="InvalidDataException">A model of this type without them.</exception>
    public static JsonElement Of(JsonElement config, string path) =>
        PrefixOf(config).Length == 0 ? config : JsonSource.Field(config, "text_config", JsonValueKind.Object, path);
}
