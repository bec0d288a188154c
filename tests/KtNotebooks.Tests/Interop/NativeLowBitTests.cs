using KtNotebooks.Formats;
using KtNotebooks.Interop;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;

using Xunit;

namespace KtNotebooks.Tests.Interop;

/// <summary>
/// Low-bit weights in the native kernels: decoding has the definition's bits, and a product has the bits of the same product with decoded weights, in both
/// orientations.
/// </summary>
[Collection("cpu variant")]
public sealed unsafe class NativeLowBitTests
{
    // Rows of each expert: empty ones, few rows (dot products), tiles, more than one range of 512.
    private static readonly int[][] Groups = [[1], [0, 3, 0], [4, 0, 5, 1], [2, 33, 100], [0, 520]];

    public static TheoryData<string, StorageFormat> Everywhere =>
        [.. from variant in OnVariant.All from format in StorageFormat.All.Where(f => f.IsLowBit)
            select (variant.Data, format)];

    [Theory, MemberData(nameof(Everywhere))]
    public void Decoding_has_the_bits_of_the_definition(string variant, StorageFormat format)
    {
        using var on = new OnVariant(variant);
        foreach (var k in format.Refusal(1) is not null ? [32, 96, 1024] : new[] { 1, 7, 16, 31, 128, 129, 300 })
        {
            using var w = new Weights(format, new Random(k), 1, 260, k, everyCode: true);
            foreach (var type in (DType[])[DType.F32, DType.BF16])
            {
                using var data = w.All.Data(0);
                using var scales = w.All.Scales(0)!;
                using var all = format.Dequantize(data, scales, 260, k, type);
                Assert.Equal(Bits(w.All.ToFloats(0, type)), Bits(all.ToFloats()));
                // Any run of rows, as conversion takes them.
                using var some = Tensor.Empty(type, 5, k);
                format.DequantizeRows(data, scales, k, 126, 5, (void*)some.Pointer, type);
                Assert.Equal(Bits(all.ToFloats().AsSpan(126 * k, 5 * k)), Bits(some.ToFloats()));
            }
        }
    }

    [Theory, MemberData(nameof(Everywhere))]
    public void A_product_has_the_bits_of_the_product_with_decoded_weights(string variant, StorageFormat format)
    {
        using var on = new OnVariant(variant);
        var random = new Random(5);
        foreach (var group in Groups)
            foreach (var (n, k) in ((int, int)[])[(20, 64), (70, 32), (401, 1056), (130, format.Refusal(1) is not null ? 288 : 301)])
                foreach (var type in (DType[])[DType.F32, DType.BF16])
                {
                    var rank = random.Next(2) * 5;
                    using var low = new Weights(format, random, group.Length, n, k);
                    Tensor[] decoded = [.. Enumerable.Range(0, group.Length).Select(e => Tensor.From(low.All.ToFloats(e, type), type, n, k))];
                    using var rows = Layer.Random(random, type, group, n, k, rank);
                    var what = $"{variant} {format} {type} rows [{string.Join(' ', group)}] N{n} K{k} r{rank}";
                    var (y, dx) = rows.Run(low.All);
                    var (expectedY, expectedDx) = rows.Run(Matrices.Each(decoded));
                    // A few BF16 rows meet codes, not weights that were rounded to BF16: see below.
                    if (type == DType.F32 || !group.Any(count => count is > 0 and <= 4)) Assert.True(Bits(expectedY).SequenceEqual(Bits(y)), "y, " + what);
                    Assert.True(Bits(expectedDx).SequenceEqual(Bits(dx)), "dx, " + what);
                    foreach (var matrix in decoded) matrix.Dispose();
                }
    }

    /// <summary>Nearer to code · scale than weights rounded to BF16 are: nothing but F32 sums is lost. Codes and scales that are no numbers included.</summary>
    [Theory, MemberData(nameof(Everywhere))]
    public void A_few_BF16_rows_meet_the_stored_values_themselves(string variant, StorageFormat format)
    {
        using var on = new OnVariant(variant);
        var random = new Random(6);
        foreach (var (n, k) in ((int, int)[])[(20, 64), (70, 32), (135, 1056), (130, format.Refusal(1) is not null ? 288 : 301), (3, 640)])
            foreach (var everyCode in (bool[])[false, true])
                foreach (var rows in (int[])[1, 2, 3, 4])
                {
                    using var low = new Weights(format, random, 1, n, k, everyCode);
                    using var x = Tensor.From([.. Enumerable.Range(0, rows * k).Select(_ => random.NextSingle() - 0.5f)], DType.BF16, rows, k);
                    using var y = Tensor.Empty(DType.F32, rows, n);
                    GroupedMatmul.Forward([0, rows], x, null, low.All, null, null, 0, null, y);
                    var (a, w) = (x.ToFloats(), low.All.ToFloats(0, DType.F32));
                    for (var i = 0; i < rows; i++)
                        for (var j = 0; j < n; j++)
                        {
                            var (sum, size) = (0.0, 0.0);
                            for (var l = 0; l < k; l++)
                            {
                                var term = (double)a[(i * k) + l] * w[(j * k) + l];
                                (sum, size) = (sum + term, size + Math.Abs(term));
                            }
                            if (size > 1e37) continue; // a product or a sum of it may be beyond F32
                            var actual = y.Span<float>()[(i * n) + j];
                            Assert.True(double.IsNaN(sum) ? float.IsNaN(actual) : Math.Abs(actual - sum) <= size * (k + 8) * Math.Pow(2, -24),
                                $"{variant} {format} row {i} of {rows}, column {j}, N{n} K{k}: {actual} for {sum}");
                        }
                }
    }

    [Fact]
    public void Wrong_formats_are_refused()
    {
        using var on = new OnVariant("avx2");
        var data = stackalloc byte[64];
        Assert.Contains("K must be a multiple of 32",
            Assert.Throws<KtNativeException>(() => Native.Ok(Native.kt_dequantize(4, data, data, 33, 0, 1, data, 0))).Message, StringComparison.Ordinal);
        Assert.Contains("type must be a low-bit format, 2 to",
            Assert.Throws<KtNativeException>(() => Native.Ok(Native.kt_dequantize(1, data, data, 32, 0, 1, data, 0))).Message,
            StringComparison.Ordinal);
        Assert.Contains("typeW must be a format of formats.h, 0 to",
            Assert.Throws<KtNativeException>(() => Native.Ok(Native.kt_dequantize(StorageFormat.All.Count, data, data, 32, 0, 1, data, 0))).Message,
            StringComparison.Ordinal);
        Assert.Contains("scales is null", Assert.Throws<KtNativeException>(() => Native.Ok(Native.kt_dequantize(2, data, null, 32, 0, 1, data, 0))).Message,
            StringComparison.Ordinal);
    }

    private static uint[] Bits(ReadOnlySpan<float> values)
    {
        var bits = new uint[values.Length];
        for (var i = 0; i < bits.Length; i++) bits[i] = BitConverter.SingleToUInt32Bits(values[i]);
        return bits;
    }

    /// <summary>Random codes and scales of some experts.</summary>
    private sealed class Weights : IDisposable
    {
        public Weights(StorageFormat format, Random random, int experts, int n, int k, bool everyCode = false)
        {
            Tensor Codes()
            {
                var tensor = Tensor.Empty(format.DataType, format.DataShape(n, k));
                var bytes = tensor.Span<byte>();
                random.NextBytes(bytes);
                if (format == StorageFormat.Fp8 && !everyCode)
                    foreach (ref var code in bytes) code &= 0xBF; // |values| < 2: no NaN
                return tensor;
            }
            Tensor Scales()
            {
                var shape = format.ScaleShape(n, k);
                if (format.ScaleType == DType.U8)
                {
                    var exponents = Tensor.Empty(DType.U8, shape);
                    foreach (ref var e in exponents.Span<byte>()) e = (byte)(everyCode ? random.Next(256) : random.Next(118, 124));
                    return exponents;
                }
                return Tensor.From([.. Enumerable.Range(0, (int)shape.Aggregate((a, b) => a * b)).Select(_ => (0.5f + random.NextSingle()) / 64)],
                    format.ScaleType, shape);
            }
            All = Matrices.Each(format, [.. Enumerable.Range(0, experts).Select(_ => Codes())], [.. Enumerable.Range(0, experts).Select(_ => Scales())], n, k);
        }

        public Matrices All { get; }

        public void Dispose() => All.DisposeEach();
    }

    /// <summary>Rows and low-rank pairs of a layer, to be met with weights of any format.</summary>
    private sealed record Layer(int[] Offsets, Tensor X, Tensor Dy, Tensor? A, Tensor? B, int Rank) : IDisposable
    {
        public static Layer Random(Random random, DType type, int[] group, int n, int k, int rank)
        {
            Tensor Of(DType t, params long[] shape) =>
                Tensor.From([.. Enumerable.Range(0, (int)shape.Aggregate(1L, (a, b) => a * b)).Select(_ => random.NextSingle() - 0.5f)], t, shape);
            int[] offsets = [0, .. group.Select((_, e) => group.Take(e + 1).Sum())];
            return new Layer(offsets, Of(type, offsets[^1], k), Of(type, offsets[^1], n), rank > 0 ? Of(DType.F32, group.Length, rank, k) : null, rank > 0
                ? Of(DType.F32, group.Length, n, rank) : null, rank);
        }

        public (float[] Y, float[] Dx) Run(Matrices w)
        {
            using var y = Tensor.Empty(X.Type, X.Rows, w.N);
            using var dx = Tensor.Empty(X.Type, X.Shape);
            using var low = Rank > 0 ? Tensor.Empty(DType.F32, X.Rows, Rank) : null;
            Matrices? a = A is null ? null : Matrices.Stack(A), b = B is null ? null : Matrices.Stack(B);
            GroupedMatmul.Forward(Offsets, X, null, w, a, b, 0.5f, low, y);
            GroupedMatmul.InputGrad(Offsets, Dy, w, a, b, 0.5f, low, dx, null);
            return (y.ToFloats(), dx.ToFloats());
        }

        public void Dispose()
        {
            foreach (var tensor in (Tensor?[])[X, Dy, A, B]) tensor?.Dispose();
        }
    }
}
