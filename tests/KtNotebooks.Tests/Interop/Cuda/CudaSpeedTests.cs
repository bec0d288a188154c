using KtNotebooks.Autograd;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Ops;
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
        var forward = Report("RmsNorm", Median(() => Drop(() => RmsNorm.Apply(x, w, 1e-6f))), 2 * bytes);
        x.RequiresGrad = true;
        var both = Report("RmsNorm and its dx", Median(() => Back(() => RmsNorm.Apply(x, w, 1e-6f), y, x)), 5 * bytes);
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
        var forward = Report("Linear", Median(() => Drop(() => Linear.Apply(x, w))), Flops);
        Report("Linear with low rank 8", Median(() => Drop(() => Linear.Apply(x, w, a, b, 1))), Flops);
        (x.RequiresGrad, a.RequiresGrad, b.RequiresGrad) = (true, true, true);
        Report("Linear with low rank 8, forward and backward", Median(() => Back(() => Linear.Apply(x, w, a, b, 1), dy, x, a, b)), 2 * Flops);
        Assert.True(forward > 0.8 * product, $"Linear reaches {forward:0} GFLOP/s, the product alone {product:0}");
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
