using System.Numerics.Tensors;

using KtNotebooks.Ops;
using KtNotebooks.Tensors;

namespace KtNotebooks.Lora;

/// <summary>W + Σ scale · B·A of one matrix, in the type that it is stored in: F32, BF16, F16, or FP8 with scales of 128×128 blocks.</summary>
internal static class MergedTensor
{
    private const int Block = MatrixFormats.Fp8Block;

    /// <summary>A pair to be merged: A [r, K], B [N, r].</summary>
    public sealed record Pair(float[] A, float[] B, int Rank, float Scale);

    /// <summary>The sum in F32, [N, K] as a flat array. Scales: of an FP8 matrix, else null.</summary>
    public static float[] Sum(Tensor weight, Tensor? scales, IReadOnlyList<Pair> pairs)
    {
        var (N, K) = (checked((int)weight.Dim(0)), weight.Width);
        var sum = new float[checked((long)N * K)];
        RowParallel.For(N, (long)K * (1 + pairs.Sum(p => p.Rank)), (first, last) =>
        {
            for (var n = (int)first; n < last; n++)
            {
                var row = sum.AsSpan(n * K, K);
                Decode(weight, scales, n, row);
                foreach (var pair in pairs)
                    for (var j = 0; j < pair.Rank; j++)
                        TensorPrimitives.MultiplyAdd(pair.A.AsSpan(j * K, K), pair.Scale * pair.B[(n * pair.Rank) + j], row, row);
            }
        });
        return sum;
    }

    /// <summary>Rounds to a type without scales.</summary>
    public static Tensor Round(float[] values, DType type, ReadOnlySpan<long> shape)
    {
        if (type != DType.F16) return Tensor.From(values, type, shape);
        var tensor = Tensor.Empty(type, shape);
        var target = tensor.Span<Half>();
        for (var i = 0; i < values.Length; i++) target[i] = (Half)values[i];
        return tensor;
    }

    /// <summary>
    /// FP8 codes [N, K] and scales F32 [⌈N/128⌉, ⌈K/128⌉]: the largest value of a block becomes 448, DeepSeek's rule. A block of zeros has the scale 1.
    /// </summary>
    public static (Tensor Codes, Tensor Scales) ToFp8(float[] values, int N, int K)
    {
        var (codes, scales) = (Tensor.Empty(DType.F8E4M3, N, K), Tensor.Empty(DType.F32, MatrixFormat.Fp8.ScaleShape(N, K)));
        RowParallel.For(scales.Dim(0), (long)Block * K, (first, last) =>
        {
            for (var b = (int)first; b < last; b++)
                for (var c = 0; c < scales.Width; c++)
                {
                    var (width, rows) = (Math.Min(Block, K - (c * Block)), Math.Min(Block, N - (b * Block)));
                    float largest = 0;
                    for (var n = 0; n < rows; n++)
                        largest = Math.Max(largest, Math.Abs(TensorPrimitives.MaxMagnitude<float>(values.AsSpan((((b * Block) + n) * K) + (c * Block),
                            width))));
                    var scale = largest == 0 ? 1 : largest / Fp8.Max;
                    scales.Row<float>(b)[c] = scale;
                    for (var n = 0; n < rows; n++)
                    {
                        var target = codes.Row<byte>((b * Block) + n).Slice(c * Block, width);
                        var source = values.AsSpan((((b * Block) + n) * K) + (c * Block), width);
                        for (var k = 0; k < width; k++) target[k] = Fp8.FromFloat(source[k] / scale);
                    }
                }
        });
        return (codes, scales);
    }

    private static void Decode(Tensor weight, Tensor? scales, int n, Span<float> row)
    {
        switch (weight.Type)
        {
            case DType.F32: weight.Row<float>(n).CopyTo(row); break;
            case DType.BF16: Bf16.Widen(weight.Row<ushort>(n), row); break;
            case DType.F16: TensorPrimitives.ConvertToSingle(weight.Row<Half>(n), row); break;
            case DType.F8E4M3: LowBit.PlainRow(MatrixFormat.Fp8, weight, scales!, n, row); break;
            default: throw new NotSupportedException($"{weight} cannot be merged into");
        }
    }
}
