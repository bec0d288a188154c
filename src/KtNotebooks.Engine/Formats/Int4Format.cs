using System.Numerics.Tensors;
using System.Text.Json;

using KtNotebooks.Tensors;

namespace KtNotebooks.Formats;

/// <summary>
/// Data U8 [N, K/2], element 2j in the low nibble of byte j, stored as value + 8; scales BF16 [N, K/32], one for 32 neighbours in a row: byte for byte
/// Kimi-K2's pack-quantized form. A scale is the number of the largest size divided by −8, rounded to BF16: that one becomes −8, all 16 codes are used. On
/// normal numbers the relative error is then 8.6 % (root mean square), with largest/7.5 it is 9.5 %, with largest/7 9.7 %.
/// </summary>
internal sealed class Int4Format() : StorageFormat("int4", 4, DType.U8, DType.BF16)
{
    /// <summary>Neighbours in a row that share a scale.</summary>
    public const int Group = 32;

    public override long[] DataShape(long n, long k) => [n, k / 2];

    public override long[] ScaleShape(long n, long k) => [n, k / Group];

    public override (int Rows, int Columns) ScaledBlock(long k) => (1, Group);

    public override string? Refusal(long k) => k % Group == 0 ? null : $"int4 needs rows of a multiple of {Group} elements, but they have {k}";

    internal override StoredForm Stored => new("_packed", DType.I32, 8, "_scale", [DType.BF16], "_shape");

    internal override string QuantMethod => "compressed-tensors";

    internal override bool Describes(JsonElement config) => Json.Text(config, "format") == "pack-quantized"
        && config.TryGetProperty("config_groups", out var groups) && groups.ValueKind == JsonValueKind.Object
        && groups.EnumerateObject().All(g => g.Value.ValueKind == JsonValueKind.Object && g.Value.TryGetProperty("weights", out var w) && IsGroup(w));

    internal override string Understood => "of compressed-tensors only pack-quantized, symmetric 4-bit integers in groups of 32 are read";

    public override string Config => """
        {"config_groups": {"group_0": {"input_activations": null, "output_activations": null, "targets": ["Linear"], "weights": {"actorder": null,
        "block_structure": null, "dynamic": false, "group_size": 32, "num_bits": 4, "observer": "minmax", "strategy": "group", "symmetric": true,
        "type": "int"}}}, "format": "pack-quantized",
        "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"], "kv_cache_scheme": null,
        "quant_method": "compressed-tensors", "quantization_status": "compressed"}
        """;

    internal override float RandomDeviation => 4.2f;

    private protected override string Cuda => """
        typedef unsigned int Code8;
        typedef bf16 Scale;

        // K is a multiple of 32.
        __device__ __forceinline__ Code8 code8(const unsigned char* data, int n, int k, int K, int)
        {
            return ((const Code8*)data)[((long long)n * K + k) / 8];
        }

        __device__ __forceinline__ Scale scale8(const unsigned char* scales, int n, int k, int K)
        {
            return ((const bf16*)scales)[(long long)n * (K / 32) + k / 32];
        }

        __device__ __forceinline__ void decode8(Code8 c, Scale s, int, float* v)
        {
            // 2^23 + code as bits: exact, and faster than a conversion, which a multiprocessor does for 16 lanes a clock
            float scale = widen(s);
            for (int j = 0; j < 8; j++) v[j] = scale * (__uint_as_float(0x4B000000u | (c >> (4 * j) & 15)) - 8388616.0f);
        }

        // Two at a time: 128 + code as BF16, whose last bit is 1 there; minus 136 it is exact, and times the scale rounded once.
        __device__ __forceinline__ void decode8(Code8 c, Scale s, unsigned int* pairs)
        {
            unsigned int scale = s.bits * 0x10001u, v[4];
            for (int j = 0; j < 4; j++) v[j] = multiply_bf16x2(subtract_bf16x2(0x43004300u | (c >> (4 * j) & 0x000F000Fu), 0x43084308u), scale);
            pairs[0] = low_halves(v[0], v[1]);
            pairs[1] = low_halves(v[2], v[3]);
            pairs[2] = high_halves(v[0], v[1]);
            pairs[3] = high_halves(v[2], v[3]);
        }

        """;

    internal override void DequantizeRow(Tensor data, Tensor? scales, long row, Span<float> target)
    {
        var pairs = data.Row<byte>(row);
        var groups = scales!.Row<ushort>(row);
        for (var j = 0; j < target.Length; j++) target[j] = (((pairs[j / 2] >> (j % 2 * 4)) & 15) - 8) * Bf16.ToFloat(groups[j / Group]);
    }

    private protected override void QuantizeBand(ReadOnlySpan<float> values, int rows, long band, Tensor data, Tensor scales)
    {
        var codes = data.Row<byte>(band);
        var steps = scales.Row<ushort>(band);
        for (var start = 0; start < values.Length; start += Group)
        {
            var group = values.Slice(start, Group);
            steps[start / Group] = Bf16.FromFloat(ScaleOf(TensorPrimitives.MaxMagnitude(group) / -8));
            var scale = Bf16.ToFloat(steps[start / Group]);
            for (var j = 0; j < Group; j += 2) codes[(start + j) / 2] = (byte)(Nearest(group[j] / scale) | (Nearest(group[j + 1] / scale) << 4));
        }
    }

    private static int Nearest(float steps) => (int)Math.Clamp(MathF.Round(steps), -8, 7) + 8;

    private static bool IsGroup(JsonElement weights) => weights.ValueKind == JsonValueKind.Object && Json.Whole(weights, "num_bits") == 4
        && Json.Whole(weights, "group_size") == Group && Json.Text(weights, "type", "int") == "int"
        && (!weights.TryGetProperty("symmetric", out var s) || s.ValueKind == JsonValueKind.True);
}
