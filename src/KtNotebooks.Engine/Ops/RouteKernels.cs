using System.Numerics;

using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>
/// Rows on their way to the experts and back on a card, and the row work around the experts' products: for the executors, on raw tensors of one card. T
/// tokens, k experts each; route t·k + j is token t's j-th expert; sorted row i carries route routes[i]. Nothing here waits for the card, allocates more
/// than two small scratch tensors or depends on the order in which blocks run.
/// </summary>
internal static class RouteKernels
{
    /// <summary>Experts that the sort has shared memory for.</summary>
    public const int MaxExperts = 1024;

    /// <summary>Routes of one warp in the sort.</summary>
    private const int Chunk = 512;

    /// <summary>Routes that one block sorts.</summary>
    private const int MostFew = 1024;

    // The macros stand here and not in the options, which are constants made elsewhere.
    private static readonly CudaProgram Program = new(nameof(RouteKernels),
        $"#define MAX_EXPERTS {MaxExperts}\n#define MOST_FEW {MostFew}\n{CudaProgram.Resource("Ops.RouteKernels.cu")}");

    /// <summary>
    /// Stable counting sort by expert, the result of the CPU's Routes.Sort. indices I32 [T, k], each in 0 … experts − 1 as a router gives them; fills
    /// offsets I32 [experts + 1], routes I32 [T·k] and its inverse rowOf I32 [T·k]; and tiles I32 [experts, 4], where they are asked for: one an expert for
    /// <see cref="GroupedKernels.Product"/>, empty ones too, where no expert has more rows than a tile, so that the host needs not know how many each has.
    /// </summary>
    public static void Sort(Tensor indices, int experts, Tensor offsets, Tensor routes, Tensor rowOf, Tensor? tiles = null)
    {
        if (experts is < 1 or > MaxExperts) throw new NotSupportedException($"[RouteKernels] up to {MaxExperts} experts are sorted on a card, not {experts}");
        var (card, count) = (indices.Gpu(), checked((int)indices.Count));
        if (count == 0)
        {
            Memory.Clear(offsets);
            if (tiles is not null) Memory.Clear(tiles);
            return;
        }
        var options = Packs.Of(1, indices, indices).Options;
        if (count <= MostFew)
        {
            Program.Kernel(card, "sort_few_routes", options)
                .Launch(1, 1024, indices.Pointer, offsets.Pointer, routes.Pointer, rowOf.Pointer, tiles?.Pointer ?? 0, count, experts);
            return;
        }
        var chunks = (count + Chunk - 1) / Chunk;
        var bits = BitOperations.Log2((uint)(experts - 1) | 1) + 1;
        using var counts = Tensor.Empty(DType.I32, indices.Device, experts, chunks);
        using var totals = Tensor.Empty(DType.I32, indices.Device, experts);
        Program.Kernel(card, "count_routes", options).Launch(chunks, 32, indices.Pointer, counts.Pointer, count, experts, bits, Chunk);
        Program.Kernel(card, "scan_routes", options).Launch(experts, 32, counts.Pointer, totals.Pointer, chunks);
        Program.Kernel(card, "place_routes", options)
            .Launch(chunks, 32, indices.Pointer, counts.Pointer, totals.Pointer, offsets.Pointer, routes.Pointer, rowOf.Pointer, count, experts, bits, Chunk);
        if (tiles is not null)
            Program.Kernel(card, "expert_tiles", options).Launch((experts + 127) / 128, 128, offsets.Pointer, tiles.Pointer, experts);
    }

    /// <summary>
    /// xs[i] = x[routes[first + i] / k] for i in [0, count). x [T, D], xs [≥ count, D], one float type. With k = 1 routes are any row numbers.
    /// </summary>
    public static void Gather(Tensor x, Tensor routes, int first, int count, int k, Tensor xs)
    {
        var packs = Packs.Of(x.Width, x, x, xs);
        Program.Kernel(x.Gpu(), "gather_rows", packs.Options)
            .Launch(count, packs.Threads(x.Width), x.Pointer, At(routes, first), xs.Pointer, k, (int)packs.In(x.Width));
    }

    /// <summary>target[rows[i]] = source[i]. source [n, …], target [m, …] with rows of one width and float type; rows I32 [n], distinct.</summary>
    public static void Scatter(Tensor source, Tensor rows, Tensor target)
    {
        var width = checked((int)(source.Count / Math.Max(1, source.Dim(0))));
        var packs = Packs.Of(width, source, target);
        Program.Kernel(source.Gpu(), "scatter_rows", packs.Options)
            .Launch(source.Dim(0), packs.Threads(width), source.Pointer, rows.Pointer, target.Pointer, (int)packs.In(width));
    }

    /// <summary>
    /// y[t] (+)= Σ_j weights[t, j] · rows[rowOf[t·k + j] − first] over the routes whose sorted row is in [first, first + count): the others add nothing, so
    /// that groups of experts may come one after another. rows [≥ count, D]; weights F32 [T, k] or null (all 1); y [T, D] of either float type; summed in
    /// F32 in the order of j, y rounded once.
    /// </summary>
    public static void Combine(Tensor rows, Tensor rowOf, int first, int count, int k, Tensor? weights, Tensor y, bool add)
    {
        var packs = Packs.Of(y.Width, rows, y);
        Program.Kernel(y.Gpu(), "combine_rows", packs.Options)
            .Launch(y.Rows, packs.Threads(y.Width), rows.Pointer, rowOf.Pointer, weights?.Pointer ?? 0, y.Pointer, first, count, k, (int)packs.In(y.Width), add
            ? 1 : 0);
    }

    /// <summary>h = silu(g) · u, all [R, I] of one float type; h may be g or u.</summary>
    public static void SwiGlu(Tensor g, Tensor u, Tensor h) => Ops.SwiGlu.ForwardOnGpu(g, u, h);

    /// <summary>
    /// Backward of w · silu(g) · u for the sorted rows [first, first + R), w = weights[route]. dh [R, I] is the gradient of the unweighted, down-projected
    /// row, that is dy Wdown; gives dWeights[route] = dh · h, dg and du (times w), and h itself where wanted. weights, dWeights F32 [T, k]; the rest [R, I]
    /// of one float type. dg, du and h may be any of dh, g and u.
    /// </summary>
    public static void SwiGluGrad(Tensor dh, Tensor g, Tensor u, Tensor weights, Tensor routes, int first, Tensor dg, Tensor du, Tensor? h, Tensor dWeights)
    {
        var packs = Packs.Of(g.Width, g, dh, u, dg, du, h);
        Program.Kernel(g.Gpu(), "swiglu_grad_rows", packs.Options)
            .Launch(g.Rows, packs.Threads(g.Width), dh.Pointer, g.Pointer, u.Pointer, weights.Pointer, At(routes, first), dg.Pointer, du.Pointer, h?.Pointer
            ?? 0, dWeights.Pointer, (int)packs.In(g.Width));
    }

    /// <summary>x[i] *= weights[routes[first + i]], or weights[first + i] without routes; x [R, D] in place, weights F32.</summary>
    public static void ScaleRows(Tensor x, Tensor weights, Tensor? routes, int first)
    {
        var packs = Packs.Of(x.Width, x, x);
        var (w, r) = routes is null ? (At(weights, first), 0) : (weights.Pointer, At(routes, first));
        Program.Kernel(x.Gpu(), "scale_rows", packs.Options).Launch(x.Rows, packs.Threads(x.Width), x.Pointer, w, r, (int)packs.In(x.Width));
    }

    /// <summary>Address of element <paramref name="first"/> of four-byte elements.</summary>
    private static nint At(Tensor tensor, int first) => (nint)(tensor.Pointer + (4L * first));
}
