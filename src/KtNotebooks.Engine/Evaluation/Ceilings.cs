using System.Diagnostics;

using KtNotebooks.Interop;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;

namespace KtNotebooks.Evaluation;

/// <summary>One rate of the machine: the median of several runs, in GB/s or TFLOP/s.</summary>
public sealed record Ceiling(string What, double Rate, string Unit, double Slowest, double Fastest);

/// <summary>What the machine can do at most, measured as the engine uses it: the denominators of every share that a benchmark names.</summary>
public static class Ceilings
{
    private const int Runs = 7;

    /// <summary>Copies of <paramref name="bytes"/>: host to host, pinned memory to the card, back, both ways at once, and on the card (read and written bytes counted).</summary>
    public static IEnumerable<Ceiling> Copies(int cardIndex, long bytes)
    {
        yield return HostCopy(bytes);
        var card = CudaDevice.Get(cardIndex);
        using var there = Tensor.Empty(DType.U8, Device.Cuda(cardIndex), bytes);
        using var other = Tensor.Empty(DType.U8, Device.Cuda(cardIndex), bytes);
        using var source = new PinnedMemory(card, bytes);
        using var target = new PinnedMemory(card, bytes);
        yield return Timed("pinned host memory to the card", bytes / 1e9, "GB/s", card, card.Copies, () => card.Fetch(there.Pointer, source.Pointer, bytes));
        yield return Timed("card to pinned host memory", bytes / 1e9, "GB/s", card, card.Saves, () => card.Save(target.Pointer, other.Pointer, bytes));
        yield return Timed("to the card, while as much comes back", bytes / 1e9, "GB/s", card, card.Copies, () =>
        {
            card.Save(target.Pointer, other.Pointer, bytes);
            card.Fetch(there.Pointer, source.Pointer, bytes);
        });
        card.Saves.Synchronize();
        yield return Timed("on the card, read and written", 2 * bytes / 1e9, "GB/s", card, card.Compute, () => Memory.Copy(there, other));
    }

    /// <summary>Square products of size n in BF16: cuBLASLt on a card, checked against the CPU on one row first.</summary>
    public static Ceiling CardProduct(int cardIndex, int n)
    {
        var device = Device.Cuda(cardIndex);
        var card = CudaDevice.Get(cardIndex);
        using var a = Random("a", n).To(device);
        using var b = Random("b", n).To(device);
        using var c = Tensor.Empty(DType.BF16, device, n, n);
        DeviceMatmul.Run(a, false, b, true, c);
        Check(a, b, c);
        return Timed($"BF16 product {n}³ on the card (cuBLASLt)", 2.0 * n * n * n / 1e12, "TFLOP/s", card, card.Compute, () => DeviceMatmul.Run(a, false, b, true, c));
    }

    /// <summary>The same by the engine's CPU kernels, all threads.</summary>
    public static Ceiling HostProduct(int n)
    {
        using var a = Random("a", n);
        using var b = Random("b", n);
        using var c = Tensor.Empty(DType.BF16, n, n);
        void Multiply() => GroupedMatmul.Forward([0, n], a, null, Matrices.One(b), null, null, 0, null, c);
        Multiply();
        Check(a, b, c);
        return Clocked($"BF16 product {n}³ on the CPU ({Cpu.Variant}, {Cpu.Threads} threads)", 2.0 * n * n * n / 1e12, "TFLOP/s", Multiply);
    }

    private static unsafe Ceiling HostCopy(long bytes)
    {
        using var a = Tensor.Zeros(DType.U8, bytes);
        using var b = Tensor.Zeros(DType.U8, bytes);
        return Clocked($"host to host, {RowParallel.Threads} threads, read and written", 2 * bytes / 1e9, "GB/s", () => RowParallel.For(256, bytes / 256, (first, last) =>
        {
            var (from, to) = (bytes / 256 * first, bytes / 256 * last);
            System.Buffer.MemoryCopy((byte*)a.Pointer + from, (byte*)b.Pointer + from, to - from, to - from);
        }));
    }

    private static Tensor Random(string name, int n)
    {
        var tensor = Tensor.Empty(DType.BF16, n, n);
        RowParallel.For(n, n * 16L, (first, last) =>
        {
            var row = new float[n];
            for (var r = first; r < last; r++)
            {
                new NormalRandom((ulong)r, name).Fill(row, 1);
                FloatRows.Store(tensor, r, row);
            }
        });
        return tensor;
    }

    /// <summary>The first row of c = a bᵀ in double.</summary>
    private static void Check(Tensor a, Tensor b, Tensor c)
    {
        using var aHost = a.ToHost();
        using var bHost = b.ToHost();
        using var cHost = c.ToHost();
        var n = a.Width;
        var (x, y, z) = (new float[n], new float[n], new float[n]);
        var first = FloatRows.Load(aHost, 0, x);
        var result = FloatRows.Load(cHost, 0, z);
        double error = 0, norm = 0;
        for (var j = 0; j < n; j++)
        {
            var row = FloatRows.Load(bHost, j, y);
            double sum = 0;
            for (var k = 0; k < n; k++) sum += (double)first[k] * row[k];
            error += Math.Pow(result[j] - sum, 2);
            norm += sum * sum;
        }
        if (!(Math.Sqrt(error / norm) < 0.01)) throw new InvalidOperationException($"the product is wrong by {Math.Sqrt(error / norm):P2}: its speed means nothing");
    }

    private static Ceiling Timed(string what, double work, string unit, CudaDevice card, CudaStream stream, Action queue)
    {
        var times = new List<double>();
        queue();
        for (var run = 0; run < Runs; run++)
        {
            using var from = new CudaEvent(card, timing: true);
            using var to = new CudaEvent(card, timing: true);
            from.Record(stream);
            queue();
            to.Record(stream);
            times.Add(to.Since(from) / 1000.0);
        }
        return Rate(what, work, unit, times);
    }

    private static Ceiling Clocked(string what, double work, string unit, Action run)
    {
        var times = new List<double>();
        run();
        for (var i = 0; i < Runs; i++)
        {
            var start = Stopwatch.GetTimestamp();
            run();
            times.Add(Stopwatch.GetElapsedTime(start).TotalSeconds);
        }
        return Rate(what, work, unit, times);
    }

    private static Ceiling Rate(string what, double work, string unit, List<double> times)
    {
        times.Sort();
        return new Ceiling(what, work / times[times.Count / 2], unit, work / times[^1], work / times[0]);
    }
}
