using KtNotebooks.Interop.Cuda;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>Pairs row by row: each token of a pass has an adapter of its own, or none.</summary>
/// <param name="All">Of the bank's named adapters.</param>
/// <param name="Places">Which of them acts on a token, I32 [T]; −1: none.</param>
internal sealed record SeveralPairs(AdapterTable All, Tensor Places)
{
    private const int Warps = 4, Threads = 256;

    private static readonly CudaProgram Program = new(nameof(SeveralPairs), CudaProgram.Resource("Experts.SeveralPairs.cu"));

    /// <summary>Adds their terms to gate and up [R, I] of sorted rows.</summary>
    /// <param name="call">x [T, D] and the routes.</param>
    /// <param name="rowOf">The sorted row of each route.</param>
    public void AddIn(ExpertCall call, Tensor rowOf, Tensor gate, Tensor up)
    {
        using var p = In(call, call.X, rowOf, All.Rank, down: false);
        Add(call, p, rowOf, gate, up);
    }

    /// <summary>The same of the down projection: h [R, I], y [R, D], sorted.</summary>
    public void AddDown(ExpertCall call, Tensor rowOf, Tensor h, Tensor y)
    {
        using var p = In(call, h, rowOf, All.DownRank, down: true);
        Add(call, p, rowOf, y, null);
    }

    private Tensor In(ExpertCall call, Tensor rows, Tensor rowOf, int rank, bool down)
    {
        var p = Tensor.Empty(DType.F32, rows.Device, call.Routes, Math.Max(1, rank));
        Program.Kernel(rows.Gpu(), "several_in", Options(rows)).Launch((call.Routes, (p.Width + Warps - 1) / Warps, 1), Warps * 32, 0, rows.Pointer,
            rowOf.Pointer, All.Table.Pointer, Places.Pointer, call.Indices.Pointer, p.Pointer, rows.Width, call.TopK, p.Width, down ? 1 : 0);
        return p;
    }

    /// <summary>To gate and up, or (second null) to what came down.</summary>
    private void Add(ExpertCall call, Tensor p, Tensor rowOf, Tensor first, Tensor? second) =>
        Program.Kernel(first.Gpu(), "several_add", Options(first)).Launch((call.Routes, (first.Width + Threads - 1) / Threads, second is null ? 1 : 2), Threads,
            0, p.Pointer, rowOf.Pointer, All.Table.Pointer, Places.Pointer, call.Indices.Pointer, first.Pointer, second?.Pointer ?? 0, first.Width, call.TopK,
            p.Width, second is null ? 1 : 0);

    private static string Options(Tensor rows) => rows.Type == DType.BF16 ? "-DTYPE=bf16" : "-DTYPE=float";
}
