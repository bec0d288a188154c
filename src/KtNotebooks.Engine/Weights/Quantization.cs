using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Files;
using KtNotebooks.Formats;

namespace KtNotebooks.Weights;

/// <summary>
/// config.json's quantization_config: which <see cref="StorageFormat"/> a checkpoint's low-bit matrices are in, by what the formats say of themselves.
/// </summary>
public static class Quantization
{
    public const string Key = "quantization_config";

    /// <summary>The format of the low-bit matrices of a config's checkpoint; null where there are none. The path stands in errors.</summary>
    /// <exception cref="NotSupportedException">Another layout, named with its file.</exception>
    public static StorageFormat? Of(JsonElement config, string path)
    {
        var inner = JsonSource.MaybeField(TextPart.Of(config, path), Key, JsonValueKind.Object, path);
        if ((inner ?? JsonSource.MaybeField(config, Key, JsonValueKind.Object, path)) is not { } block) return null;
        var method = Json.Text(block, "quant_method");
        var methods = StorageFormat.All.Where(f => f.QuantMethod is not null).ToArray();
        return methods.FirstOrDefault(f => f.QuantMethod == method && f.Describes(block)) ?? throw new NotSupportedException($"{path}: "
            + (methods.FirstOrDefault(f => f.QuantMethod == method) is { } near
                ? $"{near.Understood}, but the config says {block.GetRawText().ReplaceLineEndings(" ")}"
                : $"{Key}.quant_method '{method}' is not known; known are {string.Join(", ", methods.Select(f => f.QuantMethod))}"));
    }

    /// <summary>Takes the announcement out of a config whose checkpoint is plain from now on.</summary>
    public static void Remove(JsonObject config)
    {
        ArgumentNullException.ThrowIfNull(config);
        config.Remove(Key);
        (config["text_config"] as JsonObject)?.Remove(Key);
    }
}
