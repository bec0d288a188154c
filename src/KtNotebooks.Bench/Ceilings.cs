using System.Diagnostics;

using KtNotebooks.Formats;
using KtNotebooks.Interop;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;

namespace KtNotebooks.Bench;

/// <summary>One rate of the machine: the median of several runs, in GB/s or TFLOP/s.</summary>
public sealed record Ceiling(string What, double Rate, string Unit, double Slowest, double Fastest);

/// <summary>What the machine can do at most, measured as the engine uses it: the denominators of every share that a benchmark names.</summary>
public static class Ceilings
{
    private const int Runs = 7;

    /// <summary>
    /// Copies of <paramref name="bytes"/>: host to host, pinned memory to the card, back, both ways at once, and on the card (read and written bytes
    /// counted).
    /// </summary>
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

    /// <summary>Square products of size n in BF16: cuBLASLt on a card, checked on one row first.</summary>
    public static Ceiling GpuProduct(int cardIndex, int n) => Product($"BF16 product {n}³ on the card (cuBLASLt)", Device.Cuda(cardIndex), n, n, n);

    /// <summary>The same by the engine's CPU kernels, all threads.</summary>
    public static Ceiling HostProduct(int n) => Product($"BF16 product {n}³ on the CPU ({Cpu.Variant}, {Cpu.Threads} threads)", Device.Cpu, n, n, n);

    /// <summary>Registers alone multiplied in BF16 by the CPU variant in use, all threads: no product is faster. Null: there is no native library.</summary>
    public static Ceiling? RegisterPeak()
    {
        if (RegisterLoop() is not { } loop) return null;
        var flop = loop();
        var runs = Measured($"registers alone, BF16 ({Cpu.Variant}, {Cpu.Threads} threads)", flop / 1e12, "TFLOP/s", Device.Cpu, () => loop());
        return runs with { Rate = runs.Fastest }; // on a shared machine the median of so short a loop can be below what a product reaches
    }

    /// <summary>The loop of <see cref="RegisterPeak"/>, some 20 ms long, for who measures it between other things; it returns its operations.</summary>
    internal static unsafe Func<double>? RegisterLoop()
    {
        if (!Cpu.IsNative) return null;
        static double Spin(long rounds)
        {
            double flop;
            Native.Ok(Native.kt_spin(Native.BF16, rounds, &flop));
            return flop;
        }
        Spin(100);
        var start = Stopwatch.GetTimestamp();
        Spin(1000);
        var rounds = (long)Math.Max(1000, 1000 * 0.02 / Stopwatch.GetElapsedTime(start).TotalSeconds);
        return () => Spin(rounds);
    }

    /// <summary>
    /// Host memory read once, all threads; more than the caches hold. Null: there is no native library. The better of two ways: of a thread that reads row
    /// after row, and at four places in turn, as kernels of several weights do, which some processors' memory gives sooner; and of each the fastest run, as
    /// other users of a shared machine read too.
    /// </summary>
    public static unsafe Ceiling? HostRead(long bytes)
    {
        if (!Cpu.IsNative) return null;
        using var memory = Tensor.Empty(DType.U8, bytes);
        Memory.Clear(memory);
        Ceiling Read(int places) =>
            Measured("host memory, read", bytes / 1e9, "GB/s", Device.Cpu, () => Native.Ok(Native.kt_read((void*)memory.Pointer, bytes, places)));
        var best = ((Ceiling[])[Read(1), Read(4)]).MaxBy(c => c.Fastest)!;
        return best with { Rate = best.Fastest };
    }

    /// <summary>One copy within a device that reads and writes <paramref name="bytes"/> together.</summary>
    public static Ceiling Copy(Device device, long bytes)
    {
        if (device.Kind == DeviceKind.Cpu) return HostCopy(bytes / 2);
        using var from = Tensor.Empty(DType.U8, device, bytes / 2);
        using var to = Tensor.Empty(DType.U8, device, bytes / 2);
        return Measured("on the card, read and written", bytes / 2 * 2 / 1e9, "GB/s", device, () => Memory.Copy(from, to));
    }

    /// <summary>[m, k] [n, k]ᵀ in BF16 by nothing but the device's product, checked on one row first.</summary>
    public static Ceiling Product(string what, Device device, int m, int n, int k)
    {
        using var aHost = Random(DType.BF16, "a", m, k);
        using var bHost = Random(DType.BF16, "b", n, k);
        using var a = aHost.To(device);
        using var b = bHost.To(device);
        using var c = Tensor.Empty(DType.BF16, device, m, n);
        void Multiply()
        {
            if (device.Kind == DeviceKind.Cuda) DeviceMatmul.Run(a, false, b, true, c);
            else GroupedMatmul.Forward([0, m], a, null, Matrices.One(b), null, null, 0, null, c);
        }
        Multiply();
        Check(aHost, bHost, c);
        return Measured(what, 2.0 * m * n * k / 1e12, "TFLOP/s", device, Multiply);
    }

    /// <summary>
    /// The rate of a call: by events around groups of five on a card, which then never waits for the host that queues them; by the clock on the CPU, in
    /// groups that it can resolve.
    /// </summary>
    internal static Ceiling Measured(string what, double work, string unit, Device device, Action call)
    {
        call();
        var start = Stopwatch.GetTimestamp();
        if (device.Kind == DeviceKind.Cpu) call();
        var group = device.Kind == DeviceKind.Cpu ? (int)Math.Clamp(1e-4 / Math.Max(Stopwatch.GetElapsedTime(start).TotalSeconds, 1e-7), 1, 1000) : 5;
        void Calls()
        {
            for (var i = 0; i < group; i++) call();
        }
        if (device.Kind == DeviceKind.Cpu) return Clocked(what, group * work, unit, Calls);
        var card = CudaDevice.Get(device.Index);
        return Timed(what, group * work, unit, card, card.Compute, Calls);
    }

    /// <summary>Rows of unit variance in host memory, always the same for a name: zeros would multiply faster.</summary>
    internal static Tensor Random(DType type, string name, long rows, int width)
    {
        var tensor = Tensor.Empty(type, rows, width);
        RowParallel.For(rows, width * 16L, (first, last) =>
        {
            var row = new float[width];
            for (var r = first; r < last; r++)
            {
                new NormalRandom((ulong)r, name).Fill(row, 1);
                FloatRows.Store(tensor, r, row);
            }
        });
        return tensor;
    }

    private static unsafe Ceiling HostCopy(long bytes)
    {
        using var a = Tensor.Zeros(DType.U8, bytes);
        using var b = Tensor.Zeros(DType.U8, bytes);
        return Measured($"host to host, {Cpu.Threads} threads, read and written", 2 * bytes / 1e9, "GB/s", Device.Cpu,
            () => RowParallel.For(256, bytes / 256, (first, last) =>
        {
            var (from, to) = (bytes * first / 256, bytes * last / 256);
            System.Buffer.MemoryCopy((byte*)a.Pointer + from, (byte*)b.Pointer + from, to - from, to - from);
        }));
    }

    /// <summary>The first row of c = a bᵀ in double; a and b in host memory.</summary>
    private static void Check(Tensor a, Tensor b, Tensor c)
    {
        using var cHost = c.ToHost();
        var (x, y, z) = (new float[a.Width], new float[a.Width], new float[c.Width]);
        var first = FloatRows.Load(a, 0, x);
        var result = FloatRows.Load(cHost, 0, z);
        double error = 0, norm = 0;
        for (var j = 0; j < c.Width; j++)
        {
            var row = FloatRows.Load(b, j, y);
            double sum = 0;
            for (var k = 0; k < a.Width; k++) sum += (double)first[k] * row[k];
            error += Math.Pow(result[j] - sum, 2);
            norm += sum * sum;
        }
        if (!(Math.Sqrt(error / norm) < 0.01))
            throw new InvalidOperationException($"the product is wrong by {Math.Sqrt(error / norm):P2}: its speed means nothing");
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
