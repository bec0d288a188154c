using System.Diagnostics;

using KtNotebooks.Formats;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>
/// What it costs to compute routed experts on either side of the bus, measured once when experts are split: the card must bring an expert over before it
/// computes, the CPU reads it where it lies. Rates in bytes and floating point operations a second.
/// </summary>
/// <param name="BusBytes">Pinned host memory to the card.</param>
/// <param name="HostBytes">Expert weights through the CPU's kernels with a row each, while the bus reads the same memory: what that gives.</param>
/// <param name="HostFlops">What more rows of an expert add to that.</param>
/// <param name="GpuFlops">BF16 products on the card.</param>
public sealed record ExpertCosts(double BusBytes, double HostBytes, double HostFlops, double GpuFlops)
{
    /// <summary>Products of a forward, and of a backward that computes gate and up again.</summary>
    private const int ForwardProducts = 3, BackwardProducts = 5;

    /// <summary>
    /// Seconds that a visit of both sides takes beside their work: rows to the host and back, a thread to wake, a dozen launches. On an H100, generating
    /// with V2-Lite, such a visit took 0.6 ms more than its slower side.
    /// </summary>
    private const double BothSides = 800e-6;

    /// <summary>
    /// Of the card alone, what both sides may take to be worth it: what is measured knows neither uneven experts nor the thread that feeds the card. A prompt
    /// of 512 tokens in INT4 was to take 7 % less and took 8 % more.
    /// </summary>
    private const double Worth = 0.85;

    /// <summary>A present machine's, for plans that are made before anything is measured: PCIe 4 × 16, eight channels of DDR5, AMX, a card of 24 GB.</summary>
    public static ExpertCosts Nominal { get; } = new(25e9, 200e9, 5e12, 100e12);

    public override string ToString() => $"bus {BusBytes / 1e9:F1} GB/s, CPU {HostBytes / 1e9:F1} GB/s and {HostFlops / 1e12:F2} TFLOP/s";

    /// <summary>
    /// How many of the first groups the CPU should take when <paramref name="routes"/> rows spread evenly over the experts: the number for which the slower
    /// of the two sides ends first. An expert costs the CPU its bytes and its rows' work, a group costs the card max(its bytes over the bus, its rows'
    /// work); what no row asks for is skipped by both.
    /// </summary>
    /// <param name="groups">Of the bank.</param>
    /// <param name="expertBytes">An expert as stored.</param>
    /// <param name="elements">Of the expert's three matrices, 3·D·I.</param>
    /// <param name="routes">T·k.</param>
    /// <param name="backward">Gradients instead of values.</param>
    internal int HostGroups(IReadOnlyList<ExpertGroup> groups, long expertBytes, double elements, long routes, bool backward)
    {
        if (routes == 0) return 0;
        var experts = groups[^1].First + groups[^1].Count;
        var rows = routes / (double)experts;
        var used = 1 - Math.Pow(1 - (1.0 / experts), routes); // the chance that an expert has a row
        var work = 2 * elements / 3 * (backward ? BackwardProducts : ForwardProducts) * rows;
        var host = (used * expertBytes / HostBytes) + (work / HostFlops); // codes are dequantized first, then their rows are multiplied
        double Gpu(ExpertGroup group) =>
            Math.Max((1 - Math.Pow(1 - used, group.Count)) * group.Count * expertBytes / BusBytes, group.Count * work / GpuFlops);
        var card = groups.Sum(Gpu);
        var (best, least, worth, hostTime) = (0, card, Worth * card, 0.0);
        for (var n = 1; n <= groups.Count; n++)
        {
            hostTime += groups[n - 1].Count * host;
            card -= Gpu(groups[n - 1]);
            var time = n == groups.Count ? hostTime : Math.Max(hostTime, card) + BothSides;
            if (time < least && (n == groups.Count || time < worth)) (best, least) = (n, time);
        }
        return best;
    }

    /// <summary>Takes a few hundred milliseconds at most on a machine that can hold the model.</summary>
    internal static ExpertCosts Measure(ExpertSet experts, ExpertSlab slab, CudaDevice card)
    {
        const long Copied = 256L << 20, Read = 1L << 30; // more than caches hold
        const int ManyRows = 64;
        var one = slab.Layout.ExpertBytes;
        var some = (int)Math.Clamp(Read / one, 1, experts.Count);
        var bytes = Math.Min(Copied, slab.Layout.Bytes);
        using var there = Tensor.Empty(DType.U8, Device.Cuda(card.Index), bytes);
        var copy = Best(() =>
        {
            card.Fetch(there.Pointer, slab.Address, bytes);
            card.Copies.Synchronize();
        });
        // The bus works meanwhile, as it does in a split: both read one memory.
        void Beside(double seconds)
        {
            for (var done = 0.0; done < seconds; done += copy) card.Fetch(there.Pointer, slab.Address, bytes);
        }
        var (narrow, wide) = (Rows(experts, some, 1, Beside, card) / some, Rows(experts, some, ManyRows, Beside, card) / some);
        var row = Math.Max((wide - narrow) / (ManyRows - 1), wide / (4 * ManyRows)); // seconds that one more row takes
        return new ExpertCosts(bytes / copy, one / narrow, 2.0 * 3 * experts.Inner * experts.Gate.K / row, GpuRate(card));
    }

    /// <summary>Seconds of the CPU for a number of experts with so many rows each.</summary>
    /// <param name="beside">Queues copies over the bus that last so many seconds at least.</param>
    private static double Rows(ExpertSet experts, int count, int rowsEach, Action<double> beside, CudaDevice card)
    {
        var set = (experts with { Lora = null }).First(count);
        int[] offsets = [.. Enumerable.Range(0, count + 1).Select(e => e * rowsEach)];
        int[] routes = [.. Enumerable.Range(0, count * rowsEach)];
        var type = set.Gate.Format == StorageFormat.F32 ? DType.F32 : DType.BF16;
        using var x = Tensor.Empty(type, routes.Length, set.Gate.K);
        if (type == DType.F32) x.Span<float>().Fill(0.75f); // zeros are multiplied faster than numbers
        else x.Span<ushort>().Fill(0x3F40);
        using var weights = Tensor.Zeros(DType.F32, routes.Length, 1);
        using var y = Tensor.Empty(type, x.Shape);
        using var g = Tensor.Empty(type, routes.Length, set.Inner);
        using var u = Tensor.Empty(type, routes.Length, set.Inner);
        void Run() => new ExpertRows(set, default, offsets, routes).Forward(x, weights, new ExpertActivations(g, u, []), y, valueUnused: false);
        var alone = Best(Run);
        var best = double.MaxValue;
        for (var i = 0; i < 3; i++)
        {
            beside(2 * alone);
            best = Math.Min(best, Timed(Run));
            card.Copies.Synchronize();
        }
        return best;
    }

    private static double GpuRate(CudaDevice card)
    {
        const int N = 512, Queued = 8;
        var device = Device.Cuda(card.Index);
        using var a = Tensor.Zeros(DType.BF16, device, N, N);
        using var b = Tensor.Zeros(DType.BF16, device, N, N);
        using var c = Tensor.Empty(DType.BF16, device, N, N);
        return Queued * 2.0 * N * N * N / Best(() =>
        {
            for (var i = 0; i < Queued; i++) DeviceMatmul.Run(a, false, b, true, c);
            card.Compute.Synchronize();
        });
    }

    /// <summary>Seconds of the fastest of three runs, after one to warm up.</summary>
    private static double Best(Action run)
    {
        run();
        var best = double.MaxValue;
        for (var i = 0; i < 3; i++) best = Math.Min(best, Timed(run));
        return best;
    }

    private static double Timed(Action run)
    {
        var start = Stopwatch.GetTimestamp();
        run();
        return Stopwatch.GetElapsedTime(start).TotalSeconds;
    }
}
