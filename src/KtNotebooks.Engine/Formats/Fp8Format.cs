using System.Numerics.Tensors;
using System.Text.Json;

using KtNotebooks.Tensors;

namespace KtNotebooks.Formats;

/// <summary>
/// Data F8E4M3 [N, K], scales F32 [⌈N/128⌉, ⌈K/128⌉], one a square of 128 × 128: DeepSeek's weight and weight_scale_inv. A scale is the largest of its
/// numbers divided by 448, DeepSeek's rule.
/// </summary>
internal sealed class Fp8Format() : StorageFormat("fp8", 2, DType.F8E4M3, DType.F32)
{
    /// <summary>Side of a square of codes that share a scale.</summary>
    public const int Block = 128;

    public override long[] ScaleShape(long n, long k) => [(n + Block - 1) / Block, (k + Block - 1) / Block];

    public override (int Rows, int Columns) ScaledBlock(long k) => (Block, Block);

    /// <summary>DeepSeek stores scales in F32; Qwen3's FP8 releases have BF16, others F16.</summary>
    internal override StoredForm Stored => new("", DType.F8E4M3, 1, "_scale_inv", [DType.F32, DType.BF16, DType.F16]);

    internal override string QuantMethod => "fp8";

    internal override bool Describes(JsonElement config) => Json.Text(config, "fmt", "e4m3") == "e4m3"
        && Json.Wholes(config, "weight_block_size").SequenceEqual([Block, Block]);

    internal override string Understood => "FP8 is read as e4m3 with blocks of 128×128";

    public override string Config => """{"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}""";

    internal override float RandomDeviation => 60;

    // Exponent and mantissa moved to their places in an F32 whose exponent is 120 too small: right for subnormals too. S.1111.111 is NaN.
    private protected override string Cuda => """
        __device__ __forceinline__ float e4m3(unsigned int code)
        {
            float v = __uint_as_float((code & 0x7F) << 20) * 1.329227995784916e36f; // 2^120
            v = (code & 0x7F) == 0x7F ? __uint_as_float(0x7FC00000u) : v;
            return code & 0x80 ? -v : v;
        }

        typedef Bytes8 Code8;
        typedef float Scale;

        __device__ __forceinline__ Code8 code8(const unsigned char* data, int n, int k, int K, int count)
        {
            return bytes8(data + (long long)n * K + k, K % 8 == 0, count);
        }

        __device__ __forceinline__ Scale scale8(const unsigned char* scales, int n, int k, int K)
        {
            return ((const float*)scales)[(n / 128) * ((K + 127) / 128) + k / 128];
        }

        __device__ __forceinline__ void decode8(Code8 c, Scale scale, int count, float* v)
        {
            for (int j = 0; j < count; j++) v[j] = scale * e4m3(c[j]);
        }

        __device__ __forceinline__ void decode8(Code8 c, Scale scale, unsigned int* pairs) { by_floats(c, scale, pairs); }

        """;

    internal override void DequantizeRow(Tensor data, Tensor? scales, long row, Span<float> target)
    {
        var codes = data.Row<byte>(row);
        var blocks = scales!.Row<float>(row / Block);
        for (var j = 0; j < target.Length; j++) target[j] = Tensors.Fp8.ToFloat(codes[j]) * blocks[j / Block];
    }

    private protected override void QuantizeBand(ReadOnlySpan<float> values, int rows, long band, Tensor data, Tensor scales)
    {
        var k = values.Length / rows;
        for (var start = 0; start < k; start += Block)
        {
            var length = Math.Min(Block, k - start);
            var largest = 0f;
            for (var i = 0; i < rows; i++) largest = Math.Max(largest, Math.Abs(TensorPrimitives.MaxMagnitude(values.Slice((i * k) + start, length))));
            var scale = ScaleOf(largest / Tensors.Fp8.Max);
            scales.Row<float>(band)[start / Block] = scale;
            for (var i = 0; i < rows; i++)
            {
                var codes = data.Row<byte>((band * Block) + i).Slice(start, length);
                var row = values.Slice((i * k) + start, length);
                for (var j = 0; j < length; j++) codes[j] = Tensors.Fp8.FromFloat(row[j] / scale);
            }
        }
    }
}
