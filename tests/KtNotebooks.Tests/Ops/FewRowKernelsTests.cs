using KtNotebooks.Autograd;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;

using Xunit;

namespace KtNotebooks.Tests.Ops;

/// <summary>
/// What a card does of few rows, against the definitions, in sizes that fit its tiles and in others; a row's bits beside others are its bits alone.
/// </summary>
[Trait("card", "cuda")]
public class FewRowKernelsTests
{
    /// <summary>Rows, heads, n, r, v, latent width, rank of the low-rank pair.</summary>
    public static TheoryData<DType, int, MlaShape, int, int> Absorbed
    {
        get
        {
            var data = new TheoryData<DType, int, MlaShape, int, int>();
            foreach (var type in (DType[])[DType.BF16, DType.F32])
                foreach (var rows in (int[])[1, 3, 40])
                    foreach (var rank in (int[])[0, 5])
                    {
                        data.Add(type, rows, new MlaShape(3, 32, 16, 16), 64, rank);
                        data.Add(type, rows, new MlaShape(2, 128, 64, 128), 512, rank);
                        data.Add(type, rows, new MlaShape(2, 12, 6, 10), 40, rank);
                        data.Add(type, rows, new MlaShape(2, 16, 2, 9), 33, rank);
                    }
            return data;
        }
    }

    [Theory]
    [MemberData(nameof(Absorbed))]
    public void Queries_and_values_are_absorbed(DType type, int rows, MlaShape shape, int latent, int rank)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        var random = new Random(rows + rank);
        using var tape = Tape.Scratch();
        using var q = Make(random, type, rows, shape.H * shape.Head);
        using var angles = Make(random, DType.F32, rows, shape.Rope / 2, 2);
        using var context = Make(random, type, rows, shape.H, latent);
        using var w = Make(random, type, shape.H * (shape.Nope + shape.Value), latent);
        using var a = Make(random, DType.F32, Math.Max(1, rank), latent);
        using var b = Make(random, DType.F32, w.Dim(0), Math.Max(1, rank));
        Tensor[] All(Device on, int first, int count)
        {
            Tensor There(Tensor t) => Tape.Own(t.To(on));
            (Tensor, Tensor, float)? low = rank > 0 ? (There(a), There(b), 0.5f) : null;
            Tensor Part(Tensor t) => There(Tape.Own(t.Slice(first, count)));
            return [AbsorbedQueries.Apply(Part(q), Part(angles), There(w), low, shape), AbsorbedValues.Apply(Part(context), There(w), low, shape)];
        }
        Tensor[] expected;
        using (Op.UsePlain()) expected = All(Device.Cpu, 0, rows);
        var together = All(Device.Cuda(), 0, rows);
        for (var i = 0; i < 2; i++) Near(expected[i], together[i], type == DType.F32 ? 1e-5 : 0.02);
        if (rows != 3 || type != DType.BF16 || latent % 64 != 0) return;
        for (var t = 0; t < rows; t++)
        {
            var alone = All(Device.Cuda(), t, 1);
            for (var i = 0; i < 2; i++)
                Assert.Equal(together[i].ToFloats().Skip((int)(t * alone[i].Count)).Take((int)alone[i].Count), alone[i].ToFloats());
        }
    }

    [Theory]
    [InlineData(DType.BF16, 1, 64, 256)]
    [InlineData(DType.BF16, 21, 7, 2056)]
    [InlineData(DType.F32, 9, 5, 40)]
    [InlineData(DType.BF16, 64, 3, 8)]
    [InlineData(DType.BF16, 6, 5, 12)] // no multiple of eight
    public void A_narrow_product_is_the_product(DType type, int rows, int outputs, int width)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        var random = new Random(width);
        using var tape = Tape.Scratch();
        using var x = Make(random, type, rows, width);
        using var w = Make(random, DType.F32, outputs, width);
        Tensor Run(Device on, int first, int count) =>
            Linear.Apply(Tape.Own(Tape.Own(x.Slice(first, count)).To(on)), Tape.Own(w.To(on)), DType.F32);
        Tensor expected;
        using (Op.UsePlain()) expected = Run(Device.Cpu, 0, rows);
        var together = Run(Device.Cuda(), 0, rows);
        Near(expected, together, 1e-5);
        if (width % 8 != 0) return;
        Assert.Equal(together.ToFloats().Skip((rows - 1) * outputs), Run(Device.Cuda(), rows - 1, 1).ToFloats());
    }

    /// <summary>
    /// Ranks and widths of the vector loads, and others; one module and three that read the same rows, narrow and wide; rows without an adapter stay as
    /// they are, bit for bit.
    /// </summary>
    [Theory]
    [InlineData(8, 64, 43)]
    [InlineData(5, 64, 43)]
    [InlineData(4, 1056, 600, 43)]
    [InlineData(3, 37, 43, 7, 300)]
    [InlineData(40, 2048, 9, 1300, 600)]
    public void Each_row_has_its_own_pair(int rank, int width, params int[] outputs)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        const int Rows = 5;
        int[] places = [1, -1, 0, 1, 0];
        var random = new Random(rank);
        using var tape = Tape.Scratch();
        using var x = Make(random, DType.BF16, Rows, width);
        var rows = Tape.Own(x.To(Device.Cuda()));
        var X = x.ToFloats();
        List<(float[] Before, float[] Expected, RowPairsOf Pairs)> modules = [];
        foreach (var N in outputs)
        {
            using var y = Make(random, DType.F32, Rows, N);
            var (a, b) = (Tape.Own(Make(random, DType.F32, 2, rank, width).To(Device.Cuda())), Tape.Own(Make(random, DType.F32, 2, N, rank).To(Device.Cuda())));
            var (A, B, expected) = (a.ToFloats(), b.ToFloats(), y.ToFloats());
            for (var t = 0; t < Rows; t++)
                for (var i = 0; i < rank && places[t] >= 0; i++)
                {
                    double sum = 0;
                    for (var k = 0; k < width; k++) sum += A[(((places[t] * rank) + i) * width) + k] * X[(t * width) + k];
                    for (var n = 0; n < N; n++) expected[(t * N) + n] += (float)(0.25 * B[(((places[t] * N) + n) * rank) + i] * sum);
                }
            LowPair[] pairs = [.. Enumerable.Range(0, 2).Select(i => new LowPair((nint)a.Pointer + (i * rank * width * 4), (nint)b.Pointer + (i * N * rank * 4),
                rank, 0.25f))];
            var table = Tape.Own(Memory.Place(System.Runtime.InteropServices.MemoryMarshal.Cast<LowPair, int>(pairs), Device.Cuda()));
            modules.Add((y.ToFloats(), expected, new RowPairsOf(table, rank, Tape.Own(y.To(Device.Cuda())))));
        }
        RowPairs.Add(rows, Tape.Own(Memory.Place(places, Device.Cuda())), [.. modules.Select(m => m.Pairs)]);
        foreach (var (before, expected, pairs) in modules)
        {
            var (actual, N) = (pairs.Y.ToFloats(), expected.Length / Rows);
            var largest = expected.Max(Math.Abs);
            for (var i = 0; i < actual.Length; i++) Assert.Equal(expected[i], actual[i], 1e-4f * largest);
            Assert.Equal(before[N..(2 * N)], actual[N..(2 * N)]);
        }
    }

    [Theory]
    [InlineData(DType.BF16, 3, 512, 64)]
    [InlineData(DType.F32, 2, 40, 6)]
    public void What_a_token_leaves_in_the_cache_is_its_normed_latent_and_its_turned_key(DType type, int rows, int latent, int rotary)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        const float Eps = 1e-5f;
        var random = new Random(latent);
        using var tape = Tape.Scratch();
        var x = Tape.Own(Make(random, type, rows, latent + rotary));
        var w = Tape.Own(Make(random, DType.F32, latent));
        var angles = Tape.Own(Make(random, DType.F32, rows, rotary / 2, 2));
        var (left, key) = SplitColumns.Apply(x, latent);
        var (normed, keys, turns) = (RmsNorm.Apply(left, w, Eps).ToFloats(), key.ToFloats(), angles.ToFloats());
        var here = LatentRows.Apply(x, w, angles, Eps);
        var there = LatentRows.Apply(Tape.Own(x.To(Device.Cuda())), Tape.Own(w.To(Device.Cuda())), Tape.Own(angles.To(Device.Cuda())), Eps);
        Near(here, there, type == DType.F32 ? 1e-6 : 0.005);
        for (var t = 0; t < rows; t++)
        {
            var row = here.ToFloats().AsSpan(t * (latent + rotary), latent + rotary);
            Assert.Equal(normed.AsSpan(t * latent, latent), row[..latent]); // as the norm alone leaves it, bit for bit
            for (var i = t * rotary; i < (t + 1) * rotary; i += 2)
                Assert.Equal((keys[i] * turns[i]) - (keys[i + 1] * turns[i + 1]), row[latent + i - (t * rotary)], type == DType.F32 ? 1e-6f : 0.02f);
        }
    }

    private static void Near(Tensor expected, Tensor actual, double share)
    {
        var (e, a) = (expected.ToFloats(), actual.ToFloats());
        var largest = e.Max(Math.Abs);
        Assert.True(largest > 0);
        for (var i = 0; i < e.Length; i++) Assert.True(Math.Abs(e[i] - a[i]) <= share * largest, $"{i}: {e[i]} expected, {a[i]} found");
    }

    private static Tensor Make(Random random, DType type, params long[] shape) => new Input(type, shape).Make(random);
}
