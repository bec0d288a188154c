using System.Diagnostics;

using KtNotebooks.Nn;
using KtNotebooks.Optim;
using KtNotebooks.Tensors;

using Xunit;

namespace KtNotebooks.Tests.Optim;

/// <summary>The optimizer on the CPU against a copy by the same threads in the same run; the figures are in the test's output.</summary>
[Collection(Alone.Name)]
public class OptimizerSpeedTests(ITestOutputHelper output)
{
    private const int Tensors = 64, Each = 1 << 18; // low-rank pairs of an expert layer or two: 64 MB of each operand

    [Fact]
    public void A_step_is_bound_by_memory()
    {
        Parameter[] parameters = [.. Enumerable.Range(0, Tensors).Select(i => new Parameter($"p{i}", Tensor.Zeros(DType.F32, Each / 8, 8)))]; // narrow rows, as B has them
        using var optimizer = new AdamW(parameters, new AdamWSettings());
        using var a = Tensor.Zeros(DType.F32, Tensors, Each);
        using var b = Tensor.Zeros(DType.F32, Tensors, Each);
        using var gradient = Tensor.Zeros(DType.F32, Each / 8, 8);
        double copy = 0, step = 0, norm = 0;
        for (var round = 0; round < 5; round++) // the best of five: others may be using the machine
        {
            foreach (var p in parameters) p.Tensor.Grad = gradient.Alias();
            copy = Math.Max(copy, Rate(2 * a.ByteLength, () => RowParallel.For(Tensors, Each, (first, last) =>
            {
                for (var row = first; row < last; row++) a.Row<float>(row).CopyTo(b.Row<float>(row));
            })));
            norm = Math.Max(norm, Rate(a.ByteLength, () => KtNotebooks.Optim.Gradients.Norm(parameters)));
            step = Math.Max(step, Rate(6 * a.ByteLength, () => optimizer.Step(1e-3, 1))); // one gradient for all stays in the cache: w, m and v are read and written
        }
        foreach (var p in parameters) p.Tensor.Dispose();
        output.WriteLine($"{RowParallel.Threads} threads: copy {copy:0.0} GB/s, AdamW {step:0.0} GB/s, norm {norm:0.0} GB/s");
        Assert.True(step > 0.4 * copy, $"AdamW moves {step:0.0} GB/s, a copy {copy:0.0}");
    }

    private static double Rate(long bytes, Action call)
    {
        var watch = Stopwatch.StartNew();
        call();
        return bytes / watch.Elapsed.TotalSeconds / 1e9;
    }
}
