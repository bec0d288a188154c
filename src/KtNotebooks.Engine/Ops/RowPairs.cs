using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>A row's low-rank pair as RowPairs.cu reads it.</summary>
[StructLayout(LayoutKind.Sequential)]
internal readonly record struct LowPair(nint A, nint B, int Rank, float Scale);

/// <summary>A module's <see cref="LowPair"/>s, the largest rank among them, and what its weight gave for all rows.</summary>
internal readonly record struct RowPairsOf(Tensor Table, int Rank, Tensor Y);

/// <summary>
/// Adds the low-rank terms of several adapters, each row its own, to what a weight gave for all rows: for few rows on a card, in inference. A row without an
/// adapter stays as it is, bit for bit. Tables hold <see cref="LowPair"/>s; places I32 [T] say which is a row's, −1 none.
/// </summary>
internal static class RowPairs
{
    private const int Warps = 8, Threads = 32 * Warps;

    private static readonly CudaProgram Program = new(nameof(RowPairs), CudaProgram.Resource("Ops.RowPairs.cu"));

    private static readonly string[] Known = [.. Enumerable.Range(0, 8)
        .Select(i => $"-DTYPE={((i & 1) != 0 ? "bf16" : "float")} -DOTHER={((i & 2) != 0 ? "bf16" : "float")} -DSPLIT={((i & 4) != 0 ? Warps : 1)}")];

    /// <summary>
    /// y[row, n] += scale · B[(row mod divide) · each + first + n] · (A x[row]) with the pair of token row / divide, for up to three modules that read x:
    /// divide 1 for linear layers, H where a token's heads are rows and B has `each` rows a head.
    /// </summary>
    /// <param name="x">[T · divide, K].</param>
    /// <param name="places">Of the T tokens.</param>
    /// <param name="of">Y [T · divide, N], of one type.</param>
    /// <param name="divide">Rows a token.</param>
    /// <param name="each">Rows of B between a token's rows.</param>
    /// <param name="first">Row of B that is the first output.</param>
    public static void Add(Tensor x, Tensor places, ReadOnlySpan<RowPairsOf> of, int divide = 1, int each = 0, int first = 0)
    {
        var rows = (int)(places.Dim(0) * divide);
        var arguments = new Arguments { X = x.Pointer, Places = places.Pointer, K = (int)(x.Count / rows), Divide = divide, Each = each, First = first };
        var blocks = 0;
        for (var i = 0; i < of.Length; i++)
        {
            var n = (int)(of[i].Y.Count / rows);
            arguments.Outputs[i] = new Output(of[i].Table.Pointer, of[i].Y.Pointer, n, (n + Threads - 1) / Threads);
            (blocks, arguments.Stride) = (blocks + arguments.Outputs[i].Blocks, Math.Max(arguments.Stride, of[i].Rank));
        }
        using var p = Tensor.Empty(DType.F32, x.Device, of.Length, rows, arguments.Stride);
        arguments.P = p.Pointer;
        var split = arguments.K >= 1024 && arguments.K % (4 * Warps) == 0; // a block a number where one warp would have many rounds of it
        var options = Options(x, of[0].Y, split);
        Program.Kernel(x.Gpu(), "row_pairs_in", options)
            .Launch((rows, split ? arguments.Stride : (arguments.Stride + Warps - 1) / Warps, of.Length), Threads, 0, arguments);
        Program.Kernel(x.Gpu(), "row_pairs_add", options).Launch((rows, blocks, 1), Threads, 0, arguments);
    }

    /// <summary>The same of <see cref="AbsorbedQueries"/>.</summary>
    /// <param name="q">[T, H·(n+r)].</param>
    /// <param name="y">Its result, [T, H, R+r].</param>
    public static void AddToQueries(Tensor q, Tensor table, int rank, Tensor places, Tensor y, MlaShape shape) =>
        Program.Kernel(q.Gpu(), "row_pairs_queries", Options(q, y)).Launch((places.Dim(0), shape.H, 1), Threads, rank * sizeof(float), q.Pointer, table.Pointer,
            places.Pointer, y.Pointer, shape.H, shape.Nope, shape.Rope, shape.Value, y.Width - shape.Rope);

    private static string Options(Tensor x, Tensor y, bool split = false) => Known[(IsNarrow(x) ? 1 : 0) | (IsNarrow(y) ? 2 : 0) | (split ? 4 : 0)];

    private static bool IsNarrow(Tensor of) => of.Type == DType.BF16;

    /// <summary>`Output` of RowPairs.cu.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private readonly record struct Output(nint Pairs, nint Y, int N, int Blocks);

    [InlineArray(3)]
    private struct Three
    {
        private Output _first;
    }

    /// <summary>`Rows` of RowPairs.cu.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct Arguments
    {
        public nint X, Places, P;
        public Three Outputs;
        public int K, Divide, Each, First, Stride;
    }
}
