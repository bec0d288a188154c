using KtNotebooks.Experts;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;

using Xunit;

namespace KtNotebooks.Tests.Ops;

/// <summary>The row work around the experts on a card, against <see cref="Routes"/> and the formulas in double.</summary>
[Trait("card", "cuda")]
public class RouteKernelsTests
{
    public static TheoryData<int, int, int> Sorts => new()
    {
        { 1, 1, 1 },
        { 5, 2, 3 },
        { 3, 1, 384 },
        { 700, 6, 64 },
        { 300, 8, 257 },
        { 1000, 8, 384 },
        { 0, 2, 4 },
    };

    public static TheoryData<DType, int> Rows => new() { { DType.F32, 5 }, { DType.F32, 64 }, { DType.BF16, 7 }, { DType.BF16, 40 }, { DType.BF16, 2056 } };

    [Theory]
    [MemberData(nameof(Sorts))]
    public void Routes_are_sorted_as_on_the_cpu(int T, int k, int experts)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        // Neighbours often choose alike, expert 0 most, some nobody.
        var random = new Random(T + experts);
        using var indices = Tensor.From([.. Enumerable.Range(0, T * k).Select(i => random.Next(3) == 0 ? 0 : random.Next(1 + (random.Next(experts) / 2)))], T,
            k);
        using var offsets = Tensor.Empty(DType.I32, experts + 1);
        using var routes = Tensor.Empty(DType.I32, T * k);
        Routes.Sort(indices, experts, offsets, routes);
        var (there, row) = Sorted(indices, experts);
        Assert.Equal(offsets.ToInts(), there.Offsets);
        Assert.Equal(routes.ToInts(), there.Routes);
        for (var i = 0; i < row.Length; i++) Assert.Equal(i, there.Routes[row[i]]);
    }

    [Theory]
    [MemberData(nameof(Rows))]
    public void Rows_go_to_the_experts_and_back(DType type, int D)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        const int T = 37, K = 3, E = 5;
        var random = new Random(D);
        using var x = Random(random, type, T, D);
        using var weights = Random(random, DType.F32, T, K);
        using var indices = Tensor.From([.. Enumerable.Range(0, T * K).Select(_ => random.Next(E))], T, K);
        var (sorted, rowOf) = Sorted(indices, E);
        using var xs = Routes.GatherTokens(x, sorted.Routes, K);
        using var y = Tensor.Empty(DType.F32, T, D);
        Routes.Combine(xs, sorted.Routes, K, weights, y);

        using var xThere = x.To(Device.Cuda());
        using var wThere = weights.To(Device.Cuda());
        using var routes = Memory.Place(sorted.Routes, Device.Cuda());
        using var places = Memory.Place(rowOf, Device.Cuda());
        foreach (var target in (DType[])[DType.F32, type])
        {
            using var all = Tensor.Empty(target, Device.Cuda(), T, D);
            // Two groups of experts, one after the other, as the executors do.
            var middle = sorted.Offsets[2];
            foreach (var (first, count) in ((int, int)[])[(0, middle), (middle, (T * K) - middle)])
            {
                using var group = Tensor.Empty(type, Device.Cuda(), count, D);
                RouteKernels.Gather(xThere, routes, first, count, K, group);
                using (var expected = xs.Slice(first, count)) Assert.Equal(expected.ToFloats(), group.ToFloats());
                RouteKernels.Combine(group, places, first, count, K, wThere, all, add: first > 0);
            }
            var limit = target == DType.F32 ? 1e-5f : 0.03f; // three terms of about one; BF16 is rounded twice
            Near(y.ToFloats(), all.ToFloats(), limit);
        }
        using var ones = Tensor.Empty(DType.F32, Device.Cuda(), T, D);
        using var rows = xs.To(Device.Cuda());
        RouteKernels.Combine(rows, places, 0, T * K, K, null, ones, add: false);
        Routes.Combine(xs, sorted.Routes, K, null, y);
        Near(y.ToFloats(), ones.ToFloats(), 1e-5f);

        using var scaled = rows.Clone();
        RouteKernels.ScaleRows(scaled, wThere, routes, 0);
        var (before, w, after) = (rows.ToFloats(), weights.ToFloats(), scaled.ToFloats());
        for (var i = 0; i < after.Length; i++)
            Assert.Equal(type == DType.F32 ? before[i] * w[sorted.Routes[i / D]] : Bf16.Round(before[i] * w[sorted.Routes[i / D]]), after[i]);
    }

    [Theory]
    [MemberData(nameof(Rows))]
    public void The_gradient_of_weighted_swiglu_follows_its_formula(DType type, int I)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        const int T = 6, K = 2, First = 3, R = 8;
        var random = new Random(I);
        using var dh = Random(random, type, R, I);
        using var g = Random(random, type, R, I);
        using var u = Random(random, type, R, I);
        using var weights = Random(random, DType.F32, T, K);
        int[] order = [7, 2, 11, 0, 9, 4, 1, 10, 3, 8, 5, 6];
        using var routes = Memory.Place(order, Device.Cuda());
        var (dhThere, gThere, uThere, wThere) = (dh.To(Device.Cuda()), g.To(Device.Cuda()), u.To(Device.Cuda()), weights.To(Device.Cuda()));
        using var dWeights = Tensor.Zeros(DType.F32, Device.Cuda(), T, K);
        // In place: dg over g, du over u, h over dh.
        RouteKernels.SwiGluGrad(dhThere, gThere, uThere, wThere, routes, First, gThere, uThere, dhThere, dWeights);
        var (d, a, b, w) = (dh.ToFloats(), g.ToFloats(), u.ToFloats(), weights.ToFloats());
        var (h, dg, du, dw) = (new float[d.Length], new float[d.Length], new float[d.Length], new float[T * K]);
        for (var i = 0; i < R; i++)
        {
            var route = order[First + i];
            double dot = 0;
            for (var c = 0; c < I; c++)
            {
                var at = (i * I) + c;
                var sigmoid = 1 / (1 + Math.Exp(-a[at]));
                h[at] = (float)(a[at] * sigmoid * b[at]);
                dot += d[at] * a[at] * sigmoid * b[at];
                dg[at] = (float)(w[route] * d[at] * b[at] * sigmoid * (1 + (a[at] * (1 - sigmoid))));
                du[at] = (float)(w[route] * d[at] * a[at] * sigmoid);
            }
            dw[route] = (float)dot;
        }
        var limit = type == DType.F32 ? 4e-6f : 1f / 128; // values up to about 4; one rounding
        Near(h, dhThere.ToFloats(), limit);
        Near(dg, gThere.ToFloats(), limit);
        Near(du, uThere.ToFloats(), limit);
        Near(dw, dWeights.ToFloats(), 1e-6f * I);
        foreach (var tensor in (Tensor[])[dhThere, gThere, uThere, wThere]) tensor.Dispose();
    }

    private static ((int[] Offsets, int[] Routes) Sorted, int[] RowOf) Sorted(Tensor indices, int experts)
    {
        using var there = indices.To(Device.Cuda());
        using var offsets = Tensor.Empty(DType.I32, Device.Cuda(), experts + 1);
        using var routes = Tensor.Empty(DType.I32, Device.Cuda(), indices.Count);
        using var rowOf = Tensor.Empty(DType.I32, Device.Cuda(), indices.Count);
        using var tiles = Tensor.Empty(DType.I32, Device.Cuda(), experts, 4);
        RouteKernels.Sort(there, experts, offsets, routes, rowOf, tiles);
        var (starts, each) = (offsets.ToInts(), tiles.ToInts());
        for (var e = 0; e < experts && indices.Count > 0; e++) Assert.Equal([e, starts[e], starts[e + 1] - starts[e], 0], each[(4 * e)..((4 * e) + 4)]);
        return ((offsets.ToInts(), routes.ToInts()), rowOf.ToInts());
    }

    private static Tensor Random(Random random, DType type, params long[] shape) => new Input(type, shape).Make(random);

    /// <summary>Within limit · max(1, |expected|).</summary>
    private static void Near(float[] expected, float[] actual, float limit)
    {
        Assert.Equal(expected.Length, actual.Length);
        for (var i = 0; i < expected.Length; i++)
            Assert.True(Math.Abs(expected[i] - actual[i]) <= limit * Math.Max(1, Math.Abs(expected[i])),
                $"[{i}] is {actual[i]}, expected {expected[i]} within {limit}");
    }
}
