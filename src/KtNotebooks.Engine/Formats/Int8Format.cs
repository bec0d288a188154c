using System.Numerics.Tensors;

using KtNotebooks.Tensors;

namespace KtNotebooks.Formats;

/// <summary>Data I8 [N, K], scales F32 [N], one a row: the largest of it divided by 127.</summary>
internal sealed unsafe class Int8Format() : StorageFormat("int8", 3, DType.I8, DType.F32)
{
    public override long[] ScaleShape(long n, long k) => [n];

    public override (int Rows, int Columns) ScaledBlock(long k) => (1, checked((int)k));

    internal override float RandomDeviation => 74;

    private protected override string Cuda => """
        typedef Bytes8 Code8;
        typedef float Scale;

        __device__ __forceinline__ Code8 code8(const unsigned char* data, int n, int k, int K, int count)
        {
            return bytes8(data + (long long)n * K + k, K % 8 == 0, count);
        }

        __device__ __forceinline__ Scale scale8(const unsigned char* scales, int n, int, int) { return ((const float*)scales)[n]; }

        __device__ __forceinline__ void decode8(Code8 c, Scale scale, int count, float* v)
        {
            // 2^23 + 128 + code as bits: exact, and faster than a conversion
            for (int j = 0; j < count; j++) v[j] = scale * (__uint_as_float(0x4B000000u | (c[j] ^ 0x80u)) - 8388736.0f);
        }

        __device__ __forceinline__ void decode8(Code8 c, Scale scale, unsigned int* pairs) { by_floats(c, scale, pairs); }

        """;

    internal override void DequantizeRow(Tensor data, Tensor? scales, long row, Span<float> target)
    {
        var codes = data.Row<sbyte>(row);
        var scale = ((float*)scales!.Pointer)[row];
        for (var j = 0; j < target.Length; j++) target[j] = codes[j] * scale;
    }

    private protected override void QuantizeBand(ReadOnlySpan<float> values, int rows, long band, Tensor data, Tensor scales)
    {
        var scale = ScaleOf(Math.Abs(TensorPrimitives.MaxMagnitude(values)) / 127);
        ((float*)scales.Pointer)[band] = scale;
        var codes = data.Row<sbyte>(band);
        for (var j = 0; j < values.Length; j++) codes[j] = (sbyte)Math.Clamp(MathF.Round(values[j] / scale), -127, 127);
    }
}
