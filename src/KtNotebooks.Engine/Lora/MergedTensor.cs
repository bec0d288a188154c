using System.Numerics.Tensors;

using KtNotebooks.Formats;
using KtNotebooks.Tensors;

namespace KtNotebooks.Lora;

/// <summary>W + Σ scale · B·A of one matrix, in the type that it is stored in: F32, BF16, F16, or FP8 with scales of 128×128 blocks.</summary>
internal static class MergedTensor
{
    private const int Block = Fp8Format.Block;

    /// <summary>A pair to be merged: A [r, K], B [N, r].</summary>
    public sealed record Pair(float[] A, float[] B, int Rank, float Scale)
    {
        /// <summary>DoRA: the lengths that the rows of the sum get; null: those that they have.</summary>
        public float[]? Magnitudes { get; init; }
    }

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
                {
                    for (var j = 0; j < pair.Rank; j++)
                        TensorPrimitives.MultiplyAdd(pair.A.AsSpan(j * K, K), pair.Scale * pair.B[(n * pair.Rank) + j], row, row);
                    if (pair.Magnitudes is { } m) TensorPrimitives.Multiply(row, (float)(m[n] / Length(row)), row);
                }
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

    private static double Length(ReadOnlySpan<float> row)
    {
        double square = 0;
        foreach (var value in row) square += (double)value * value;
        return Math.Sqrt(square);
    }

    private static void Decode(Tensor weight, Tensor? scales, int n, Span<float> row)
    {
        switch (weight.Type)
        {
            case DType.F32: weight.Row<float>(n).CopyTo(row); break;
            case DType.BF16: Bf16.Widen(weight.Row<ushort>(n), row); break;
            case DType.F16: TensorPrimitives.ConvertToSingle(weight.Row<Half>(n), row); break;
            case DType.F8E4M3: StorageFormat.Fp8.DequantizeRow(weight, scales!, n, row); break;
            default: throw new NotSupportedException($"{weight} cannot be merged into");
        }
    }
}
