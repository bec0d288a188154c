using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Files;
using KtNotebooks.Ops;

namespace KtNotebooks.Weights;

/// <summary>
/// config.json's quantization_config: which low-bit layout a checkpoint is in. Known are DeepSeek's block-wise FP8 (`quant_method: fp8`, e4m3, blocks of
/// 128×128) and Kimi's 4 bits (`compressed-tensors`, pack-quantized, symmetric, groups of 32).
/// </summary>
public static class Quantization
{
    public const string Key = "quantization_config";

    /// <summary>What a config says of a checkpoint in a low-bit format, as its makers write it.</summary>
    public static JsonNode Block(MatrixFormat format) => JsonNode.Parse(format switch
    {
        MatrixFormat.Fp8 => """{"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}""",
        MatrixFormat.Int4 => """
            {"config_groups": {"group_0": {"input_activations": null, "output_activations": null, "targets": ["Linear"], "weights": {"actorder": null,
            "block_structure": null, "dynamic": false, "group_size": 32,
            "num_bits": 4, "observer": "minmax", "strategy": "group", "symmetric": true, "type": "int"}}}, "format": "pack-quantized",
            "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"], "kv_cache_scheme": null,
            "quant_method": "compressed-tensors", "quantization_status": "compressed"}
            """,
        _ => throw new ArgumentException($"{format} has no {Key}"),
    })!;

    /// <summary>The format of the folder's low-bit matrices; null where there are none.</summary>
    /// <exception cref="NotSupportedException">Another layout, named with its file.</exception>
    public static MatrixFormat? Read(string folder)
    {
        var path = Path.Combine(folder, "config.json");
        return File.Exists(path) ? Of(JsonSource.Read(path, "a model's config.json"), path) : null;
    }

    /// <summary>The same of a config that has been read; the path stands in errors.</summary>
    public static MatrixFormat? Of(JsonElement config, string path)
    {
        if (JsonSource.MaybeField(config, Key, JsonValueKind.Object, path) is not { } block) return null;
        return Text(block, "quant_method") switch
        {
            "fp8" => IsBlockFp8(block) ? MatrixFormat.Fp8
                : throw Refused(path, $"FP8 is read as e4m3 with blocks of 128×128, but the config says {block.GetRawText().ReplaceLineEndings(" ")}"),
            "compressed-tensors" => IsPackedInt4(block) ? MatrixFormat.Int4
                : throw Refused(path, "of compressed-tensors only pack-quantized, symmetric 4-bit integers in groups of 32 are read"),
            var method => throw Refused(path, $"{Key}.quant_method '{method}' is not known; known are fp8 and compressed-tensors"),
        };
    }

    private static bool IsBlockFp8(JsonElement block) => Text(block, "fmt", "e4m3") == "e4m3" && block.TryGetProperty("weight_block_size", out var size)
        && size.ValueKind == JsonValueKind.Array
        && size.EnumerateArray().Select(WholeOf).SequenceEqual([MatrixFormats.Fp8Block, MatrixFormats.Fp8Block]);

    private static bool IsPackedInt4(JsonElement block) => Text(block, "format") == "pack-quantized"
        && block.TryGetProperty("config_groups", out var groups) && groups.ValueKind == JsonValueKind.Object
        && groups.EnumerateObject().All(g => IsPackedInt4Group(g.Value));

    private static bool IsPackedInt4Group(JsonElement group) => group.ValueKind == JsonValueKind.Object && group.TryGetProperty("weights", out var w)
        && w.ValueKind == JsonValueKind.Object
        && Number(w, "num_bits") == 4 && Number(w, "group_size") == MatrixFormats.Int4Group && Text(w, "type", "int") == "int"
        && (!w.TryGetProperty("symmetric", out var s) || s.ValueKind == JsonValueKind.True);

    private static string Text(JsonElement block, string key, string missing = "") =>
        block.TryGetProperty(key, out var value) && value.ValueKind == JsonValueKind.String ? value.GetString()! : missing;

    private static int Number(JsonElement block, string key) => block.TryGetProperty(key, out var value) ? WholeOf(value) : -1;

    private static int WholeOf(JsonElement value) => value.ValueKind == JsonValueKind.Number && value.TryGetInt32(out var whole) ? whole : -1;

    private static NotSupportedException Refused(string path, string what) => new($"{path}: {what}");
}
