using KtNotebooks.Nn;
using KtNotebooks.Optim;
using KtNotebooks.Tensors;

using Xunit;

namespace KtNotebooks.Tests.Optim;

public class AdamWTests
{
    /// <summary>Five steps of two parameters against the paper's formulas in double; one of them has no gradient in step three.</summary>
    [Theory]
    [InlineData(0, 1)]
    [InlineData(0.1, 0.25)]
    public void Steps_follow_the_definition(double decay, double scale)
    {
        var settings = new AdamWSettings(0.9, 0.95, 1e-8, decay);
        var random = new Random(1);
        using var a = Values(random, 3, 7);
        using var b = Values(random, 1, 19);
        Parameter[] parameters = [new("a", a), new("b", b)];
        var expected = parameters.Select(p => p.Tensor.ToFloats().Select(w => (W: (double)w, M: 0.0, V: 0.0)).ToArray()).ToArray();
        using var optimizer = new AdamW(parameters, settings);
        for (var step = 1; step <= 5; step++)
        {
            var rate = 0.01 * step;
            for (var p = 0; p < parameters.Length; p++)
            {
                var gradient = step == 3 && p == 1 ? null : Values(random, parameters[p].Tensor.Shape.ToArray());
                parameters[p].Tensor.Grad = gradient;
                var g = gradient?.ToFloats() ?? new float[expected[p].Length];
                for (var i = 0; i < g.Length; i++) expected[p][i] = Update(expected[p][i], g[i] * scale, step, rate, settings);
            }
            optimizer.Step(rate, scale);
            Assert.All(parameters, p => Assert.Null(p.Tensor.Grad));
        }
        // Some twenty F32 roundings a step of numbers of order one.
        const double Limit = 5 * 20 * 6e-8;
        for (var p = 0; p < parameters.Length; p++)
            foreach (var (actual, (w, _, _)) in parameters[p].Tensor.ToFloats().Zip(expected[p])) Assert.InRange(actual, w - Limit, w + Limit);
        Assert.Equal(5, optimizer.Steps);
    }

    [Fact]
    public void Saved_moments_go_on_with_the_same_bits()
    {
        using var straight = Values(new Random(2), 4, 5);
        using var stopped = straight.Clone();
        using var first = new AdamW([new("w", straight)], new AdamWSettings());
        using var second = new AdamW([new("w", stopped)], new AdamWSettings());
        for (var step = 0; step < 3; step++) Step(step, (first, straight), (second, stopped));
        using var third = new AdamW([new("w", stopped)], new AdamWSettings());
        third.Restore(second.Steps, name => second.State.Single(s => s.Name == name).Tensor.Alias());
        for (var step = 3; step < 6; step++) Step(step, (first, straight), (third, stopped));
        Assert.Equal(straight.ToFloats(), stopped.ToFloats());
    }

    [Fact]
    public void Moments_of_another_shape_are_refused_by_name()
    {
        using var w = Tensor.Zeros(DType.F32, 2, 3);
        using var optimizer = new AdamW([new("layer.w", w)], new AdamWSettings());
        var error = Assert.Throws<InvalidDataException>(() => optimizer.Restore(1, _ => Tensor.Zeros(DType.F32, 3, 2)));
        Assert.Equal("optimizer state 'm.layer.w' must be [2, 3], but is F32[3, 2]: it belongs to another run", error.Message);
    }

    [Fact]
    public void Only_floats_are_trained()
    {
        using var w = Tensor.Zeros(DType.I32, 2);
        Assert.Equal("[AdamW] w must be F32 or BF16, but is I32[2]",
            Assert.Throws<ArgumentException>(() => new AdamW([new("w", w)], new AdamWSettings())).Message);
    }

    [Theory]
    [InlineData(10, 1, 1 / (10 + 1e-6))]
    [InlineData(0.5, 1, 1)]
    [InlineData(10, 0, 1)]
    public void Clipping_scales_to_the_wanted_norm(double norm, double max, double scale) => Assert.Equal(scale, Gradients.ClipScale(norm, max), 12);

    [Fact]
    public void The_norm_is_that_of_all_gradients_as_one_vector()
    {
        using var a = Tensor.Zeros(DType.F32, 2);
        using var b = Tensor.Zeros(DType.F32, 2, 2);
        using var none = Tensor.Zeros(DType.F32, 2);
        a.Grad = Tensor.From([3f, 0], 2);
        b.Grad = Tensor.From([0, 4f, 0, 12], 2, 2);
        Assert.Equal(13, Gradients.Norm([new("a", a), new("none", none), new("b", b)]), 12);
    }

    private static void Step(int step, params (AdamW Optimizer, Tensor W)[] all)
    {
        foreach (var (optimizer, w) in all)
        {
            w.Grad = Values(new Random(100 + step), 4, 5);
            optimizer.Step(0.01, 1);
        }
    }

    private static (double W, double M, double V) Update((double W, double M, double V) s, double g, int step, double rate, AdamWSettings a)
    {
        var m = (a.Beta1 * s.M) + ((1 - a.Beta1) * g);
        var v = (a.Beta2 * s.V) + ((1 - a.Beta2) * g * g);
        var (mHat, vHat) = (m / (1 - Math.Pow(a.Beta1, step)), v / (1 - Math.Pow(a.Beta2, step)));
        return (s.W - (rate * ((mHat / (Math.Sqrt(vHat) + a.Eps)) + (a.WeightDecay * s.W))), m, v);
    }

    private static Tensor Values(Random random, params long[] shape) =>
        Tensor.From([.. Enumerable.Range(0, (int)shape.Aggregate(1L, (n, d) => n * d)).Select(_ => (random.NextSingle() * 2) - 1)], shape);
}
