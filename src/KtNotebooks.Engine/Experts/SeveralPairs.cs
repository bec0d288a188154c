using KtNotebooks.Interop.Cuda;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>Pairs row by row: each token of a pass has an adapter of its own, or none.</summary>
/// <param name="All">Of the bank's named adapters.</param>
/// <param name="Places">Which of them acts on a token, I32 [T]; −1: none.</param>
internal sealed record SeveralPairs(AdapterTable All, Tensor Places)
{
    private const int Threads = 512, Split = 2;

    private static readonly CudaProgram Program = new(nameof(SeveralPairs), CudaProgram.Resource("Experts.SeveralPairs.cu"));

    /// <summary>Adds their terms to gate and up [R, I] of sorted rows.</summary>
    /// <param name="call">x [T, D] and the routes.</param>
    /// <param name="rowOf">The sorted row of each route.</param>
    /// <param name="from">The first of the rows at hand among all sorted ones.</param>
    public void AddIn(ExpertCall call, Tensor rowOf, int from, Tensor gate, Tensor up) => Add(call, call.X, rowOf, from, All.Rank, gate, up);

    /// <summary>The same of the down projection: h [R, I], y [R, D], sorted.</summary>
    public void AddDown(ExpertCall call, Tensor rowOf, int from, Tensor h, Tensor y) => Add(call, h, rowOf, from, All.DownRank, y, null);

    /// <summary>To gate and up, or (second null) to what came down.</summary>
    private void Add(ExpertCall call, Tensor rows, Tensor rowOf, int from, int rank, Tensor first, Tensor? second)
    {
        var split = rows.Width % (4 * Split) == 0 ? Split : 1;
        var kernel = Program.Kernel(rows.Gpu(), "several_pairs", $"-DTYPE={(rows.Type == DType.BF16 ? "bf16" : "float")} -DSPLIT={split}");
        kernel.Launch((call.Routes, 1, 1), Threads, rank * (Split + 1) * sizeof(float), rows.Pointer, rowOf.Pointer, All.Table.Pointer, Places.Pointer,
            call.Indices.Pointer, first.Pointer, second?.Pointer ?? 0, first.Width, rows.Width, call.TopK, from, first.Rows,
            second is null ? 1 : 0);
    }
}
