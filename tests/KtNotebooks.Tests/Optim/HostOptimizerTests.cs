using KtNotebooks.Nn;
using KtNotebooks.Optim;
using KtNotebooks.Tensors;

using Xunit;

namespace KtNotebooks.Tests.Optim;

/// <summary>SGD, Lion, Adafactor and Muon against their papers' formulas, in double and in plain loops.</summary>
public class HostOptimizerTests
{
    private static readonly AdamWSettings Settings = new(0.9, 0.99, 1e-8, 0.1);

    [Fact]
    public void Sgd_follows_the_definition_and_remembers_nothing()
    {
        Follow(p => new Sgd(p, Settings), [3, 4], (w, g, _, _, rate) =>
        {
            for (var i = 0; i < w.Length; i++) w[i] -= rate * (g[i] + (0.1 * w[i]));
        });
        using var w = Tensor.From([1f, 2f], 2);
        using var sgd = new Sgd([new Parameter("w", w)], Settings);
        Assert.Empty(sgd.State);
    }

    [Fact]
    public void Lion_follows_the_definition() => Follow(p => new Lion(p, Settings), [3, 4], (w, g, memory, _, rate) =>
    {
        var m = memory.TryGetValue("m", out var known) ? known : memory["m"] = new double[w.Length];
        for (var i = 0; i < w.Length; i++)
        {
            w[i] = (w[i] * (1 - (rate * 0.1))) - (rate * Math.Sign((0.9 * m[i]) + (0.1 * g[i])));
            m[i] = (0.99 * m[i]) + (0.01 * g[i]);
        }
    });

    [Theory]
    [InlineData(2, 3, 5)]
    [InlineData(1, 4, 2)]
    public void Adafactor_follows_the_definition(int matrices, int rows, int columns) =>
        Follow(p => new Adafactor(p, Settings), [matrices, rows, columns], (w, g, memory, step, rate) =>
        {
            var beta = 1 - Math.Pow(step, -0.8);
            var (R, C) = (Memory(memory, "r", matrices * rows), Memory(memory, "c", matrices * columns));
            var update = new double[w.Length];
            double U(int m, int r, int c) => Math.Pow(g[(((m * rows) + r) * columns) + c], 2) + 1e-30;
            for (var m = 0; m < matrices; m++)
            {
                for (var r = 0; r < rows; r++)
                    R[(m * rows) + r] = (beta * R[(m * rows) + r]) + ((1 - beta) * Enumerable.Range(0, columns).Average(c => U(m, r, c)));
                for (var c = 0; c < columns; c++)
                    C[(m * columns) + c] = (beta * C[(m * columns) + c]) + ((1 - beta) * Enumerable.Range(0, rows).Average(r => U(m, r, c)));
                var mean = Enumerable.Range(0, rows).Average(r => R[(m * rows) + r]);
                for (var r = 0; r < rows; r++)
                    for (var c = 0; c < columns; c++)
                    {
                        var i = (((m * rows) + r) * columns) + c;
                        update[i] = g[i] / Math.Sqrt(R[(m * rows) + r] * C[(m * columns) + c] / mean);
                    }
            }
            var size = Math.Max(1, Math.Sqrt(update.Average(u => u * u)));
            for (var i = 0; i < w.Length; i++) w[i] -= (rate * 0.1 * w[i]) + (rate * update[i] / size);
        });

    [Theory]
    [InlineData(3, 5)]
    [InlineData(5, 3)]
    public void Muon_follows_the_definition_for_each_of_a_stack(int rows, int columns) =>
        Follow(p => new Muon(p, Settings), [2, rows, columns], (w, g, memory, _, rate) =>
        {
            var (m, size) = (Memory(memory, "m", w.Length), rows * columns);
            for (var at = 0; at < w.Length; at += size)
            {
                var u = new double[size];
                for (var i = 0; i < size; i++)
                {
                    m[at + i] = (0.95 * m[at + i]) + g[at + i];
                    u[i] = g[at + i] + (0.95 * m[at + i]);
                }
                var norm = Math.Sqrt(u.Sum(x => x * x)) + 1e-7;
                var X = u.Select(x => x / norm).ToArray();
                for (var round = 0; round < 5; round++)
                {
                    var S = Times(X, X, rows, rows, columns);
                    var P = Times(S, S, rows, rows, rows).Select((p, i) => (-4.775 * S[i]) + (2.0315 * p)).ToArray();
                    X = [.. X.Select((x, i) => (3.4445 * x)
                        + Enumerable.Range(0, rows).Sum(k => P[(i / columns * rows) + k] * X[(k * columns) + (i % columns)]))];
                }
                for (var i = 0; i < size; i++)
                    w[at + i] = (w[at + i] * (1 - (rate * 0.1))) - (rate * 0.2 * Math.Sqrt(Math.Max(rows, columns)) * X[i]);
            }
        });

    [Theory]
    [InlineData(3, 7)]
    [InlineData(7, 3)]
    public void Muon_makes_rows_or_columns_nearly_orthonormal(int rows, int columns)
    {
        var random = new Random(4);
        using var x = Tensor.From([.. Enumerable.Range(0, 21).Select(_ => (float)(random.NextDouble() - 0.5))], 1, rows, columns);
        Muon.Orthogonalize(x);
        // The singular values lie in about [0.7, 1.2]: so does what a unit row or column becomes.
        var total = x.ToFloats().Sum(v => (double)v * v);
        Assert.InRange(total, 3 * 0.45, 3 * 1.5);
    }

    [Fact]
    public void Lora_plus_gives_the_second_half_its_own_rate()
    {
        using var a = Tensor.From([1f, 1f], 1, 2);
        using var b = Tensor.From([1f, 1f], 1, 2);
        using var optimizer = new AdamW([new("x.lora_A.weight", a), new("x.lora_B.weight", b)], new AdamWSettings(), null,
            name => name.EndsWith("B.weight", StringComparison.Ordinal) ? 16 : 1);
        (a.Grad, b.Grad) = (Tensor.From([1f, 1f], 1, 2), Tensor.From([1f, 1f], 1, 2));
        optimizer.Step(1e-3, 1);
        Assert.Equal(1 - 1e-3, a.ToFloats()[0], 1e-6);
        Assert.Equal(1 - 16e-3, b.ToFloats()[0], 1e-6);
    }

    private static double[] Memory(Dictionary<string, double[]> all, string name, int size) =>
        all.TryGetValue(name, out var known) ? known : all[name] = new double[size];

    private static double[] Times(double[] a, double[] b, int n, int m, int k) =>
        [.. Enumerable.Range(0, n * m).Select(i => Enumerable.Range(0, k).Sum(j => a[(i / m * k) + j] * b[(i % m * k) + j]))];

    private static void Follow(Func<IReadOnlyList<Parameter>, IOptimizer> make, long[] shape,
        Action<double[], double[], Dictionary<string, double[]>, int, double> definition)
    {
        var random = new Random(5);
        float[] Values() => [.. Enumerable.Range(0, (int)shape.Aggregate(1L, (x, y) => x * y)).Select(_ => (float)(random.NextDouble() - 0.5))];
        var start = Values();
        using var w = Tensor.From(start, shape);
        using var again = Tensor.From(start, shape);
        double[] expected = [.. start.Select(v => (double)v)];
        var memory = new Dictionary<string, double[]>();
        using var optimizer = make([new("x.weight", w)]);
        using var stopped = make([new("x.weight", again)]);
        for (var step = 1; step <= 4; step++)
        {
            var g = Values();
            definition(expected, [.. g.Select(v => v * 0.5)], memory, step, 0.01 * step);
            w.Grad = Tensor.From(g, shape);
            optimizer.Step(0.01 * step, 0.5);
            again.Grad = Tensor.From(g, shape);
            if (step < 3) stopped.Step(0.01 * step, 0.5);
            else if (step == 3)
            {
                using var resumed = make([new("x.weight", again)]); // moments saved and restored go on with the same bits
                resumed.Restore(stopped.Steps, name => stopped.State.Single(s => s.Name == name).Tensor.Alias());
                resumed.Step(0.01 * step, 0.5);
                Assert.Equal(w.ToFloats(), again.ToFloats());
            }
        }
        again.Grad?.Dispose();
        foreach (var (actual, wanted) in w.ToFloats().Zip(expected)) Assert.Equal(wanted, actual, 2e-5);
    }
}
