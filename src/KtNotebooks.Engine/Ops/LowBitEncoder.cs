using System.Numerics.Tensors;

using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>
/// Quantisation of a matrix [N, K], each code the nearest one. A scale is, of the numbers that share it: fp8 largest/448 (as DeepSeek does), int8
/// largest/127, int4 the one of the largest size divided by −8, rounded to BF16: that one becomes −8, all 16 codes are used. On normal numbers in groups of
/// 32 the relative error of int4 is then 8.6 % (root mean square), with largest/7.5 it is 9.5 %, with largest/7 9.7 %.
/// </summary>
public static class LowBitEncoder
{
    /// <param name="format">A low-bit format.</param>
    /// <param name="source">F32 or BF16 [N, K] in host memory.</param>
    /// <exception cref="ArgumentException">K does not suit the format.</exception>
    public static (Tensor Data, Tensor Scales) Encode(MatrixFormat format, Tensor source)
    {
        ArgumentNullException.ThrowIfNull(source);
        var (n, k) = (source.Dim(0), source.Width);
        if (format.Refusal(k) is { } refusal) throw new ArgumentException(refusal);
        var data = Tensor.Empty(format.DataType(), format.DataShape(n, k));
        var scales = Tensor.Empty(format.ScaleType(), format.ScaleShape(n, k));
        var band = format == MatrixFormat.Fp8 ? MatrixFormats.Fp8Block : 16;
        RowParallel.For((n + band - 1) / band, (long)band * k, (first, last) =>
        {
            var values = new float[band * k];
            for (var b = first; b < last; b++)
            {
                var rows = (int)Math.Min(band, n - (b * band));
                for (var i = 0; i < rows; i++)
                {
                    var target = values.AsSpan(i * k, k);
                    var row = FloatRows.Load(source, (b * band) + i, target);
                    if (!row.Overlaps(target)) row.CopyTo(target);
                }
                if (format == MatrixFormat.Fp8) Fp8Band(values, rows, k, b, data, scales);
                else
                    for (var i = 0; i < rows; i++)
                        if (format == MatrixFormat.Int8) Int8Row(values.AsSpan(i * k, k), (b * band) + i, data, scales);
                        else Int4Row(values.AsSpan(i * k, k), data.Row<byte>((b * band) + i), scales.Row<ushort>((b * band) + i));
            }
        });
        return (data, scales);
    }

    private static void Fp8Band(float[] values, int rows, int k, long band, Tensor data, Tensor scales)
    {
        for (var start = 0; start < k; start += MatrixFormats.Fp8Block)
        {
            var length = Math.Min(MatrixFormats.Fp8Block, k - start);
            var largest = 0f;
            for (var i = 0; i < rows; i++) largest = Math.Max(largest, Largest(values.AsSpan((i * k) + start, length)));
            var scale = ScaleOf(largest / Fp8.Max);
            scales.Row<float>(band)[start / MatrixFormats.Fp8Block] = scale;
            for (var i = 0; i < rows; i++)
            {
                var codes = data.Row<byte>((band * MatrixFormats.Fp8Block) + i).Slice(start, length);
                var row = values.AsSpan((i * k) + start, length);
                for (var j = 0; j < length; j++) codes[j] = Fp8.FromFloat(row[j] / scale);
            }
        }
    }

    private static unsafe void Int8Row(Span<float> row, long index, Tensor data, Tensor scales)
    {
        var scale = ScaleOf(Largest(row) / 127);
        ((float*)scales.Pointer)[index] = scale;
        var codes = data.Row<sbyte>(index);
        for (var j = 0; j < row.Length; j++) codes[j] = (sbyte)Math.Clamp(MathF.Round(row[j] / scale), -127, 127);
    }

    private static void Int4Row(Span<float> row, Span<byte> codes, Span<ushort> scales)
    {
        for (var start = 0; start < row.Length; start += MatrixFormats.Int4Group)
        {
            var group = row.Slice(start, MatrixFormats.Int4Group);
            scales[start / MatrixFormats.Int4Group] = Bf16.FromFloat(ScaleOf(TensorPrimitives.MaxMagnitude<float>(group) / -8));
            var scale = Bf16.ToFloat(scales[start / MatrixFormats.Int4Group]);
            for (var j = 0; j < group.Length; j += 2) codes[(start + j) / 2] = (byte)(Int4(group[j] / scale) | (Int4(group[j + 1] / scale) << 4));
        }
    }

    private static int Int4(float steps) => (int)Math.Clamp(MathF.Round(steps), -8, 7) + 8;

    private static float Largest(ReadOnlySpan<float> values) => Math.Abs(TensorPrimitives.MaxMagnitude(values));

    /// <summary>All zeros: any scale will do.</summary>
    private static float ScaleOf(float scale) => scale == 0 ? 1 : scale;
}
