using KtNotebooks.Autograd;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Nn;
using KtNotebooks.Ops;
using KtNotebooks.Optim;
using KtNotebooks.Tensors;

using Xunit;

namespace KtNotebooks.Tests.Interop.Cuda;

/// <summary>
/// The ops at sizes that fill a card, against what the card itself gave in the same run: memory-bound ops against a device-to-device copy, products against cuBLASLt alone. The figures are in
/// the test's output.
/// </summary>
[Collection(Alone.Name)]
public class CudaSpeedTests(ITestOutputHelper output)
{
    private const int T = 16384, D = 4096, N = 4096, R = 8;

    [Fact]
    public void Norm_moves_bytes_nearly_as_fast_as_a_copy()
    {
        Require.RealCard();
        using var x = RandomBF16(T, D);
        using var y = RandomBF16(T, D);
        using var w = Tensor.Zeros(DType.F32, Device.Cuda(), D);
        var bytes = (double)x.ByteLength;
        var copy = Report("copy", Median(() => Memory.Copy(x, y)), 2 * bytes);
        var forward = Report("RmsNorm", Median(() => Drop(() => KtNotebooks.Ops.RmsNorm.Apply(x, w, 1e-6f))), 2 * bytes);
        x.RequiresGrad = true;
        var both = Report("RmsNorm and its dx", Median(() => Back(() => KtNotebooks.Ops.RmsNorm.Apply(x, w, 1e-6f), y, x)), 5 * bytes);
        Assert.True(forward > 0.6 * copy, $"forward moves {forward:0} GB/s, a copy {copy:0}");
        Assert.True(both > 0.5 * copy, $"forward and backward move {both:0} GB/s, a copy {copy:0}");
    }

    [Fact]
    public void Linear_costs_little_more_than_its_product()
    {
        Require.RealCard();
        using var x = RandomBF16(T, D);
        using var w = RandomBF16(N, D);
        using var dy = RandomBF16(T, N);
        using var y = Tensor.Empty(DType.BF16, Device.Cuda(), T, N);
        using var a = Tensor.Zeros(DType.F32, Device.Cuda(), R, D);
        using var b = Tensor.Zeros(DType.F32, Device.Cuda(), N, R);
        const double Flops = 2.0 * T * D * N;
        var product = Report("product", Median(() => DeviceMatmul.Run(x, false, w, true, y)), Flops);
        var forward = Report("Linear", Median(() => Drop(() => KtNotebooks.Ops.Linear.Apply(x, w))), Flops);
        Report("Linear with low rank 8", Median(() => Drop(() => KtNotebooks.Ops.Linear.Apply(x, w, a, b, 1))), Flops);
        (x.RequiresGrad, a.RequiresGrad, b.RequiresGrad) = (true, true, true);
        Report("Linear with low rank 8, forward and backward", Median(() => Back(() => KtNotebooks.Ops.Linear.Apply(x, w, a, b, 1), dy, x, a, b)), 2 * Flops);
        Assert.True(forward > 0.8 * product, $"Linear reaches {forward:0} GFLOP/s, the product alone {product:0}");
    }

    /// <summary>What is neither a product nor attention, at V2-Lite's sizes; bytes are those that must cross the card's memory once.</summary>
    [Fact]
    public void Ops_that_only_move_bytes_do_it_nearly_as_fast_as_a_copy()
    {
        Require.RealCard();
        using var a = RandomBF16(T, D);
        using var b = RandomBF16(T, D);
        using var c = RandomBF16(T, D);
        using var d = RandomBF16(T, D);
        var bytes = (double)a.ByteLength;
        var copy = Report("copy", Median(() => Memory.Copy(a, b)), 2 * bytes);
        List<string> slow = [];
        void Expect(string what, Action call, double moved, double share = 0.6)
        {
            var rate = Report(what, Median(call), moved);
            if (rate < share * copy) slow.Add($"{what}: {rate:0} GB/s, a copy {copy:0}");
        }
        Expect("Add", () => Drop(() => Add.Apply(a, b)), 3 * bytes);
        Expect("SwiGlu", () => Drop(() => SwiGlu.Apply(a, b)), 3 * bytes);
        (a.RequiresGrad, b.RequiresGrad) = (true, true);
        Expect("SwiGlu, forward and backward", () => Back(() => SwiGlu.Apply(a, b), c, a, b), 8 * bytes);
        (a.RequiresGrad, b.RequiresGrad) = (false, false);

        using var indices = Memory.Place([.. Enumerable.Range(0, T).Select(i => i * 7919 % 64)], Device.Cuda());
        using var offsets = Tensor.Empty(DType.I32, Device.Cuda(), 65);
        using var routes = Tensor.Empty(DType.I32, Device.Cuda(), T);
        using var rowOf = Tensor.Empty(DType.I32, Device.Cuda(), T);
        using var ones = Memory.Place([.. Enumerable.Repeat(1f, T)], Device.Cuda());
        using var dOnes = Tensor.Empty(DType.F32, Device.Cuda(), T);
        Report("sort of 16,384 routes (G routes/s)", Median(() => RouteKernels.Sort(indices, 64, offsets, routes, rowOf)), T);
        Expect("gather of routes", () => RouteKernels.Gather(a, routes, 0, T, 1, c), 2 * bytes);
        using (var eighth = Tensor.Empty(DType.BF16, Device.Cuda(), T / 8, D)) Expect("combine of 8 rows a token", () => RouteKernels.Combine(a, rowOf, 0, T, 8, ones, eighth, add: false), 9 * bytes / 8);
        Expect("weighted SwiGLU backward, h again", () => RouteKernels.SwiGluGrad(a, b, c, ones, routes, 0, c, d, a, dOnes), 6 * bytes);

        var shape = new MlaShape(16, 128, 64, 128);
        var table = new RotaryTable(64, 10000);
        int[] positions = [.. Enumerable.Range(0, T / 2)];
        using var q = RandomBF16(T / 2, 16 * 192);
        using var kv = RandomBF16(T / 2, 16 * 256);
        using var kr = RandomBF16(T / 2, 64);
        Expect("MlaHeads", () => Drop(() => MlaHeads.Apply(q, kv, kr, shape, table, positions).Q), (double)T / 2 * 2 * ((3 * 16 * 192) + (16 * 256) + (16 * 128) + 64));

        using var logits = RandomBF16(2048, 102400);
        int[] targets = [.. Enumerable.Range(0, 2048).Select(i => i * 37)];
        float[] weights = [.. Enumerable.Repeat(1f / 2048, 2048)];
        using var one = ones.Slice(0, 1);
        logits.RequiresGrad = true;
        Expect("CrossEntropy with its gradient", () => Back(() => CrossEntropy.Apply(logits, targets, weights), one, logits), 2.0 * logits.ByteLength, share: 0.4); // exponentials cost as much as bytes
        Assert.Empty(slow);
    }

    [Fact]
    public void The_optimizer_moves_bytes_nearly_as_fast_as_a_copy()
    {
        Require.RealCard();
        const int Tensors = 40, Each = 5_000_000; // large, or the clearing of new gradients, a launch each, would be what is measured
        using var a = RandomBF16(T, D);
        using var b = RandomBF16(T, D);
        var copy = Report("copy", Median(() => Memory.Copy(a, b)), 2.0 * a.ByteLength);
        Parameter[] parameters = [.. Enumerable.Range(0, Tensors).Select(i => new Parameter($"p{i}", Tensor.Zeros(DType.F32, Device.Cuda(), Each)))];
        using var optimizer = new AdamW(parameters, new AdamWSettings());
        void Gradients()
        {
            foreach (var p in parameters) p.Tensor.Grad ??= Tensor.Zeros(DType.F32, Device.Cuda(), Each);
        }
        Gradients();
        var norm = Report("gradient norm of 200 million values", Median(() => KtNotebooks.Optim.Gradients.Norm(parameters)), 4.0 * Tensors * Each);
        var step = Report("AdamW of 200 million values", Median(() =>
        {
            optimizer.Step(1e-3, 1);
            Gradients(); // step frees them
        }), (28.0 + 4) * Tensors * Each); // clearing new ones included
        foreach (var p in parameters) p.Tensor.Dispose();
        Assert.True(norm > 0.4 * copy && step > 0.5 * copy, $"norm {norm:0}, step {step:0}, copy {copy:0} GB/s");
    }

    /// <summary>Random, because zeros multiply faster.</summary>
    private static Tensor RandomBF16(int rows, int width)
    {
        using var host = Tensor.Empty(DType.BF16, rows, width);
        var random = new Random(rows + width);
        foreach (ref var v in host.Span<ushort>()) v = Bf16.FromFloat(random.NextSingle() - 0.5f);
        return host.To(Device.Cuda());
    }

    private static void Drop(Func<Tensor> apply)
    {
        using var scratch = Tape.Scratch();
        apply();
    }

    private static void Back(Func<Tensor> apply, Tensor dOut, params Tensor[] leaves)
    {
        using var tape = Tape.Record();
        tape.Backward(apply(), dOut);
        foreach (var leaf in leaves)
        {
            leaf.Grad!.Dispose();
            leaf.Grad = null;
        }
    }

    /// <summary>Milliseconds of one call: median of seven groups of five, by events around a group.</summary>
    private static double Median(Action call)
    {
        var card = CudaDevice.Get(0);
        using var start = new CudaEvent(card, timing: true);
        using var end = new CudaEvent(card, timing: true);
        var times = new double[7];
        for (var i = -1; i < times.Length; i++)
        {
            start.Record(card.Compute);
            for (var j = 0; j < 5; j++) call();
            end.Record(card.Compute);
            var ms = end.Since(start) / 5;
            if (i >= 0) times[i] = ms; // the first group warms up
        }
        Array.Sort(times);
        return times[times.Length / 2];
    }

    /// <summary>Giga-units (bytes, operations) a second.</summary>
    private double Report(string what, double ms, double units)
    {
        output.WriteLine($"{what}: {ms:0.000} ms, {units / ms / 1e6:0} G/s");
        return units / ms / 1e6;
    }
}
