using System.Text.Json.Nodes;

using KtNotebooks.Formats;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Models;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Weights;

namespace KtNotebooks.Tests.Weights;

/// <summary>
/// The tiny model as a folder in a low-bit layout: all matrices but embedding, head and router in FP8, as DeepSeek ships it, or the experts in packed 4
/// bits, as Kimi does; matrices and scales in different shards.
/// </summary>
internal static class LowBitFolder
{
    /// <summary>The tiny config with widths that are multiples of 32, as 4 bits want them.</summary>
    public static string Wide(string config) => config.Replace("\"hidden_size\": 40", "\"hidden_size\": 64", StringComparison.Ordinal)
        .Replace("\"moe_intermediate_size\": 18", "\"moe_intermediate_size\": 32", StringComparison.Ordinal);

    /// <param name="wide">With the widths that 4 bits have anyway; if not, FP8 has odd ones.</param>
    /// <param name="change">Of the tiny config, another model.</param>
    public static string Save(string folder, StorageFormat format, ulong seed = 1, bool wide = false, Func<string, string>? change = null)
    {
        Tiny.Save(folder, seed, config => wide || format == StorageFormat.Int4 ? Wide(change?.Invoke(config) ?? config) : change?.Invoke(config) ?? config);
        List<(string, Tensor)> matrices = [], scales = [];
        using (var file = new SafetensorsFile(Path.Combine(folder, "model.safetensors")))
            foreach (var (name, entry) in file.Entries)
            {
                using var tensor = file.Get(name);
                var quantised = entry.Shape.Length == 2
                    && (format == StorageFormat.Int4 ? name.Contains(".experts.", StringComparison.Ordinal)
                    : !name.Contains("embed", StringComparison.Ordinal) && !name.Contains("lm_head", StringComparison.Ordinal)
                    && !name.EndsWith(".gate.weight", StringComparison.Ordinal));
                if (!quantised)
                {
                    matrices.Add((name, tensor.To(DType.BF16)));
                    continue;
                }
                var (data, scale) = format.Quantize(tensor);
                if (format == StorageFormat.Fp8)
                {
                    matrices.Add((name, data));
                    scales.Add((name + "_scale_inv", scale));
                    continue;
                }
                var packed = Tensor.Empty(DType.I32, entry.Shape[0], entry.Shape[1] / 8);
                data.Span<byte>().CopyTo(System.Runtime.InteropServices.MemoryMarshal.AsBytes(packed.Span<int>()));
                data.Dispose();
                var shape = Tensor.Empty(DType.I64, 2);
                entry.Shape.CopyTo(shape.Span<long>());
                matrices.Add((name + "_packed", packed));
                scales.AddRange([(name + "_scale", scale), (name + "_shape", shape)]);
            }
        File.Delete(Path.Combine(folder, "model.safetensors"));
        var map = new JsonObject();
        foreach (var (shard, tensors) in new[] { ("model-00001-of-00002.safetensors", matrices), ("model-00002-of-00002.safetensors", scales) })
        {
            SafetensorsWriter.Write(Path.Combine(folder, shard), tensors);
            foreach (var (name, tensor) in tensors)
            {
                map[name] = shard;
                tensor.Dispose();
            }
        }
        File.WriteAllText(Path.Combine(folder, "model.safetensors.index.json"), new JsonObject
        {
            ["metadata"] = new JsonObject(),
            ["weight_map"] = map,
        }.ToJsonString());
        Edit(folder, config => config["quantization_config"] = JsonNode.Parse(format == StorageFormat.Fp8
            ? """{"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}"""
            : """{"quant_method": "compressed-tensors", "format": "pack-quantized", """
                + """ "config_groups": {"group_0": {"targets": ["Linear"], """
                + """ "weights": {"num_bits": 4, "group_size": 32, "strategy": "group", "symmetric": true, "type": "int"}}}}"""));
        return folder;
    }

    /// <summary>Writes the scales of an FP8 folder again in another type, each as a power of two that F32, BF16 and F16 all hold.</summary>
    public static void StoreScalesAs(string folder, DType type)
    {
        var shard = Path.Combine(folder, "model-00002-of-00002.safetensors");
        List<(string Name, Tensor Tensor)> scales = [];
        using (var file = new SafetensorsFile(shard))
            foreach (var (name, entry) in file.Entries)
            {
                using var old = file.Get(name);
                float[] values = [.. old.ToFloats().Select(v => MathF.Pow(2, MathF.Max(-14, MathF.Round(MathF.Log2(v)))))];
                var scale = Tensor.Empty(type, entry.Shape);
                if (type == DType.F16) Array.ConvertAll(values, v => (Half)v).CopyTo(scale.Span<Half>());
                else scale.Store(values);
                scales.Add((name, scale));
            }
        SafetensorsWriter.Write(shard, scales);
        foreach (var (_, scale) in scales) scale.Dispose();
    }

    public static void Edit(string folder, Action<JsonObject> edit)
    {
        var path = Path.Combine(folder, "config.json");
        var config = JsonNode.Parse(File.ReadAllText(path))!.AsObject();
        edit(config);
        File.WriteAllText(path, config.ToJsonString());
    }

    /// <summary>A source for conversions: shards of one FP8 matrix [rows, k] each, its scales in the next shard.</summary>
    public static string Large(Samples.Folder folder, int shards, int rows, int k)
    {
        var source = Path.Combine(folder.Path, "source");
        Directory.CreateDirectory(source);
        var random = new Random(1);
        var map = new JsonObject();
        for (var s = 0; s < shards; s++)
        {
            using var codes = Tensor.Empty(DType.F8E4M3, rows, k);
            random.NextBytes(codes.Span<byte>());
            using var scales = Tensor.Zeros(DType.F32, StorageFormat.Fp8.ScaleShape(rows, k));
            foreach (ref var scale in scales.Span<float>()) scale = random.NextSingle();
            (string, Tensor)[] tensors = [($"layer.{s}.weight", codes), ($"layer.{(s + 1) % shards}.weight_scale_inv", scales)];
            SafetensorsWriter.Write(Path.Combine(source, $"model-{s:D5}.safetensors"), tensors);
            foreach (var (name, _) in tensors) map[name] = $"model-{s:D5}.safetensors";
        }
        File.WriteAllText(Path.Combine(source, "model.safetensors.index.json"), new JsonObject { ["weight_map"] = map }.ToJsonString());
        File.WriteAllText(Path.Combine(source, "config.json"),
            """{"quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}}""");
        return source;
    }
}
