using System.Runtime.InteropServices;

using KtNotebooks.Formats;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>
/// The forward of a few tokens through experts that lie on a GPU, see FewRows.cu: two kernels (four with low-rank pairs), and the host waits for nothing, so
/// it runs ahead of the card layer after layer. Bound by reading the chosen experts' stored bytes once: where routes are as many as experts they are sorted on
/// the card, and tokens that share an expert meet its weights together. A token's numbers do not depend on the tokens beside it, and each may have an
/// adapter of its own (<see cref="ExpertCall.Several"/>).
/// </summary>
internal static unsafe class FewRows
{
    /// <summary>Above it, rows an expert are many enough for the tensor cores of <see cref="GpuRows"/>.</summary>
    public const int MaxTokens = 64;

    private const int Warps = 4, DownWarps = 8, DownWarpsEach = 4 /* two outputs */, CombineThreads = 256;

    private static readonly CudaProgram[] Programs = [.. StorageFormat.All.Select(f => f.Kernels("FewRows", ClampedSwiGlu.UnitSource, "Experts.FewRows.cu"))];

    /// <summary>Few tokens, none masked, matrices of one format whose rows are multiples of eight.</summary>
    public static bool Suits(ExpertCall call, BankLayout layout) => call is { ValueUnused: false, Routes: > 0 } && call.X.Rows <= MaxTokens
        && call.Experts.Lora is not { Dropout: > 0 } && Suits(layout);

    /// <summary>The same of the bank alone.</summary>
    public static bool Suits(BankLayout layout) => layout.Gate.K % 8 == 0 && layout.Down.K % 8 == 0 && layout.Up.Format == layout.Gate.Format
        && layout.Down.Format == layout.Gate.Format;

    /// <param name="call">x [T, D] on the card, and its low-rank pairs there too.</param>
    /// <param name="layout">Of the bank.</param>
    /// <param name="bank">Where its first expert lies.</param>
    /// <param name="state">Room for the sorted routes.</param>
    /// <param name="y">[T, D].</param>
    public static void Forward(ExpertCall call, BankLayout layout, nint bank, GpuState state, Tensor y)
    {
        var (x, lora, several) = (call.X, call.Experts.Lora, call.Several);
        var (card, tokens, routes, experts) = (x.Gpu(), x.Rows, call.Routes, call.Experts.Count);
        var one = PairsOf(lora);
        var (inRank, downRank) = several is null ? (one.Gate.Rank + one.Up.Rank, one.Down.Rank) : (several.All.Rank, several.All.DownRank);
        var sorted = routes >= experts;
        if (sorted) RouteKernels.Sort(call.Indices, experts, state.Offsets, state.Routes, state.RowOf);
        using var h = Tensor.Empty(x.Type, x.Device, routes, layout.Down.K);
        using var p = inRank == 0 ? null : Tensor.Empty(DType.F32, x.Device, routes, Math.Max(inRank, downRank));
        using var products = sorted ? Tensor.Empty(DType.F32, x.Device, routes, layout.Gate.K) : null;
        var arguments = new Arguments
        {
            Bank = bank,
            ExpertBytes = layout.ExpertBytes,
            Gate = new(layout.Gate.Data, layout.Gate.Scales),
            Up = new(layout.Up.Data, layout.Up.Scales),
            Down = new(layout.Down.Data, layout.Down.Scales),
            X = x.Pointer,
            Indices = call.Indices.Pointer,
            Weights = call.Weights.Pointer,
            Offsets = state.Offsets.Pointer,
            Order = state.Routes.Pointer,
            One = one,
            Several = several?.All.Table.Pointer ?? 0,
            PairsOfTokens = several?.Places.Pointer ?? 0,
            P = p?.Pointer ?? 0,
            Biases = call.Experts.Glu?.BiasesOn(x.Device).Pointer ?? 0,
            H = h.Pointer,
            Products = products?.Pointer ?? 0,
            Y = y.Pointer,
            TopK = call.TopK,
            D = layout.Gate.K,
            I = layout.Down.K,
            LowStride = p?.Width ?? 0,
            Limit = call.Experts.Glu?.Limit ?? 0,
        };
        var (program, options) = (Programs[layout.Gate.Format.Code], $"{(x.Type == DType.BF16 ? "-DTYPE=bf16" : "-DTYPE=float")} -DROWS={(sorted ? 8 : 1)}");
        void Launch(string entry, long columns, int rows, int warps = Warps, int each = 1) =>
            program.Kernel(card, entry, options).Launch((columns, ((rows * each) + warps - 1) / warps, 1), warps * 32, 0, arguments);
        if (p is not null) Launch("few_low_in", routes, inRank);
        Launch("few_gate_up", sorted ? experts : routes, layout.Down.K);
        if (p is not null) Launch("few_low_down", routes, downRank);
        if (!sorted)
        {
            Launch("few_down", tokens, layout.Gate.K / 2, DownWarps, DownWarpsEach);
            return;
        }
        Launch("few_down", experts, layout.Gate.K / 2);
        program.Kernel(card, "few_combine", options)
            .Launch((tokens, (layout.Gate.K + CombineThreads - 1) / CombineThreads, 1), CombineThreads, 0, arguments);
    }

    /// <summary>The pairs of an adapter as the kernels read them; null: none.</summary>
    public static Pairs PairsOf(ExpertLora? lora) => lora is null ? default
        : new Pairs(Low.Of(lora.GateA, lora.GateB), Low.Of(lora.UpA, lora.UpB), Low.Of(lora.DownA, lora.DownB), lora.Scale);

    /// <summary>Offsets of a matrix's codes and scales in an expert, in bytes.</summary>
    private readonly record struct Piece(long Data, long Scales);

    /// <summary>One projection's halves.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal readonly record struct Low(nint A, nint B, int Rank)
    {
        public static Low Of(Tensor a, Tensor b) => new(a.Pointer, b.Pointer, b.Width);
    }

    /// <summary>`Pairs` of FewRows.cu.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal readonly record struct Pairs(Low Gate, Low Up, Low Down, float Scale);

    /// <summary>`Few` of FewRows.cu.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct Arguments
    {
        public nint Bank;
        public long ExpertBytes;
        public Piece Gate, Up, Down;
        public nint X, Indices, Weights, Offsets, Order;
        public Pairs One;
        public nint Several, PairsOfTokens, P, Biases, H, Products, Y;
        public int TopK, D, I, LowStride;
        public float Limit;
    }
}
