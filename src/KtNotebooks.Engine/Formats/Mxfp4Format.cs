using System.Numerics.Tensors;
using System.Text.Json;

using KtNotebooks.Tensors;

namespace KtNotebooks.Formats;

/// <summary>
/// OCP's MXFP4, as gpt-oss ships it: data U8 [N, K/2], an E2M1 code a nibble, element 2j in the low one of byte j; scales U8 [N, K/32], E8M0, 2^(s − 127) for
/// 32 neighbours in a row. The codes are ±{0, ½, 1, 1½, 2, 3, 4, 6}; −0 counts as 0, a scale of 255 is NaN. Quantized with ⌊log₂ largest⌋ − 2 (OCP
/// Microscaling Formats 1.0, 6.3) or the next exponent, whichever has the smaller squared error: on normal numbers 11.1 % instead of 11.5 %
/// (FormatTests).
/// </summary>
internal sealed class Mxfp4Format() : StorageFormat("mxfp4", 5, DType.U8, DType.U8)
{
    /// <summary>Neighbours in a row that share a scale.</summary>
    public const int Group = 32;

    private const int Bias = 127, NaN = 255;

    private static readonly float[] Values = [0, 0.5f, 1, 1.5f, 2, 3, 4, 6];

    public override long[] DataShape(long n, long k) => [n, k / 2];

    public override long[] ScaleShape(long n, long k) => [n, k / Group];

    public override (int Rows, int Columns) ScaledBlock(long k) => (1, Group);

    public override string? Refusal(long k) => k % Group == 0 ? null : $"mxfp4 needs rows of a multiple of {Group} elements, but they have {k}";

    internal override string QuantMethod => "mxfp4";

    internal override bool Describes(JsonElement config) => true;

    public override string Config => """
        {"modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"], "quant_method": "mxfp4"}
        """;

    internal override float RandomDeviation => 2.9f;

    private protected override string Cuda => """
        typedef unsigned int Code8;
        typedef unsigned int Scale;

        // K is a multiple of 32.
        __device__ __forceinline__ Code8 code8(const unsigned char* data, int n, int k, int K, int) { return ((const Code8*)data)[((long long)n * K + k) / 8]; }

        __device__ __forceinline__ Scale scale8(const unsigned char* scales, int n, int k, int K) { return scales[(long long)n * (K / 32) + k / 32]; }

        __device__ __forceinline__ void decode8(Code8 c, Scale s, int, float* v)
        {
            float scale = __uint_as_float(s == 0 ? 0x00400000u : s == 255 ? 0x7FC00000u : s << 23); // 2^(s - 127), the smallest a subnormal
            for (int j = 0; j < 8; j++)
            {
                // Two exponent bits and one of the mantissa in their places of a float, which is 2^126 times too small; ½ is a subnormal there
                unsigned int code = c >> (4 * j);
                float value = __uint_as_float((code & 7) << 22) * 8.507059173023462e37f;
                v[j] = scale * __uint_as_float(__float_as_uint(value) | (code & 8 && code & 7 ? 0x80000000u : 0));
            }
        }

        // The same two at a time in BF16: both factors are powers of two, so nothing is rounded but what falls below BF16's normal numbers, once.
        __device__ __forceinline__ void decode8(Code8 c, Scale s, unsigned int* pairs)
        {
            unsigned int scale = (s == 0 ? 0x0040u : s == 255 ? 0x7FC0u : s << 7) * 0x10001u, v[4];
            for (int j = 0; j < 4; j++)
            {
                unsigned int code = c >> (4 * j);
                v[j] = multiply_bf16x2(multiply_bf16x2((code & 0x00070007u) << 6 | (code & 0x00080008u) << 12, 0x7E807E80u), scale);
            }
            pairs[0] = low_halves(v[0], v[1]);
            pairs[1] = low_halves(v[2], v[3]);
            pairs[2] = high_halves(v[0], v[1]);
            pairs[3] = high_halves(v[2], v[3]);
        }

        """;

    internal override void DequantizeRow(Tensor data, Tensor? scales, long row, Span<float> target)
    {
        var pairs = data.Row<byte>(row);
        var groups = scales!.Row<byte>(row);
        for (var j = 0; j < target.Length; j++)
        {
            var code = (pairs[j / 2] >> (j % 2 * 4)) & 15;
            target[j] = (code > 8 ? -Values[code & 7] : Values[code & 7]) * Scale(groups[j / Group]);
        }
    }

    internal override void FillScales(Tensor scales, float value) =>
        scales.Span<byte>().Fill((byte)Math.Clamp((int)Math.Round(Math.Log2(value)) + Bias, 0, NaN - 1));

    private protected override void QuantizeBand(ReadOnlySpan<float> values, int rows, long band, Tensor data, Tensor scales)
    {
        var codes = data.Row<byte>(band);
        var exponents = scales.Row<byte>(band);
        for (var start = 0; start < values.Length; start += Group)
        {
            var group = values.Slice(start, Group);
            var largest = Math.Abs(TensorPrimitives.MaxMagnitude(group));
            var least = float.IsFinite(largest) ? largest == 0 ? Bias : Math.Clamp(Math.ILogB(largest) - 2 + Bias, 0, NaN - 2) : NaN;
            var exponent = least == NaN || Error(group, least) <= Error(group, least + 1) ? least : least + 1;
            exponents[start / Group] = (byte)exponent;
            for (var j = 0; j < Group; j += 2)
                codes[(start + j) / 2] = (byte)(Nearest(group[j] / Scale(exponent)) | (Nearest(group[j + 1] / Scale(exponent)) << 4));
        }
    }

    private static double Error(ReadOnlySpan<float> group, int exponent)
    {
        var (scale, sum) = (Scale(exponent), 0.0);
        foreach (var value in group)
        {
            var code = Nearest(value / scale);
            var error = ((code > 8 ? -Values[code & 7] : Values[code & 7]) * scale) - (double)value;
            sum += error * error;
        }
        return sum;
    }

    /// <summary>The nearest code; between two the one of the even mantissa, which the even index is.</summary>
    private static int Nearest(float steps)
    {
        var size = Math.Abs(steps);
        var index = 0;
        while (index < 7 && (size > (Values[index] + Values[index + 1]) / 2 || (size == (Values[index] + Values[index + 1]) / 2 && index % 2 == 1))) index++;
        return index == 0 || steps > 0 ? index : index | 8;
    }

    private static float Scale(int exponent) =>
        BitConverter.Int32BitsToSingle(exponent switch { 0 => 0x00400000, NaN => 0x7FC00000, _ => exponent << 23 });
}
