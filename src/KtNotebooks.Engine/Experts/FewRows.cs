using System.Runtime.InteropServices;

using KtNotebooks.Formats;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>
/// The forward of a few tokens through experts that lie on a GPU, see FewRows.cu: two kernels (four with low-rank pairs), no sorting, and the host waits for
/// nothing, so it runs ahead of the card layer after layer. Bound by reading the chosen experts' stored bytes once; tokens that share an expert meet it in
/// the card's cache. A token's numbers do not depend on the tokens beside it.
/// </summary>
internal static unsafe class FewRows
{
    /// <summary>Above it, rows an expert are many enough for the tensor cores of <see cref="GpuRows"/>.</summary>
    public const int MaxTokens = 16;

    private const int Warps = 4, DownWarps = 8, DownWarpsEach = 4;

    private static readonly CudaProgram[] Programs = [.. StorageFormat.All.Select(f => f.Kernels("FewRows", ClampedSwiGlu.UnitSource, "Experts.FewRows.cu"))];

    /// <summary>Few tokens, none masked, matrices of one format whose rows are multiples of eight.</summary>
    public static bool Suits(ExpertCall call, BankLayout layout) => call is { ValueUnused: false, Routes: > 0 } && call.X.Rows <= MaxTokens
        && call.Experts.Lora is not { Dropout: > 0 } && layout.Gate.K % 8 == 0 && layout.Down.K % 8 == 0
        && layout.Up.Format == layout.Gate.Format && layout.Down.Format == layout.Gate.Format;

    /// <param name="call">x [T, D] on the card, and its low-rank pairs there too.</param>
    /// <param name="layout">Of the bank.</param>
    /// <param name="bank">Where its first expert lies.</param>
    /// <param name="y">[T, D].</param>
    public static void Forward(ExpertCall call, BankLayout layout, nint bank, Tensor y)
    {
        var (x, lora) = (call.X, call.Experts.Lora);
        var (card, tokens, routes) = (x.Gpu(), x.Rows, call.Routes);
        var (inRank, downRank) = lora is null ? (0, 0) : (lora.GateB.Width + lora.UpB.Width, lora.DownB.Width);
        using var h = Tensor.Empty(x.Type, x.Device, routes, layout.Down.K);
        using var p = lora is null ? null : Tensor.Empty(DType.F32, x.Device, routes, Math.Max(inRank, downRank));
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
            LowGate = Low.Of(lora?.GateA, lora?.GateB),
            LowUp = Low.Of(lora?.UpA, lora?.UpB),
            LowDown = Low.Of(lora?.DownA, lora?.DownB),
            P = p?.Pointer ?? 0,
            Biases = call.Experts.Glu?.BiasesOn(x.Device).Pointer ?? 0,
            H = h.Pointer,
            Y = y.Pointer,
            TopK = call.TopK,
            D = layout.Gate.K,
            I = layout.Down.K,
            Scale = lora?.Scale ?? 0,
            Limit = call.Experts.Glu?.Limit ?? 0,
        };
        var (program, options) = (Programs[layout.Gate.Format.Code], x.Type == DType.BF16 ? "-DTYPE=bf16" : "-DTYPE=float");
        void Launch(string entry, long columns, int rows) =>
            program.Kernel(card, entry, options).Launch((columns, (rows + Warps - 1) / Warps, 1), Warps * 32, 0, arguments);
        if (lora is not null) Launch("few_low_in", routes, inRank);
        Launch("few_gate_up", routes, layout.Down.K);
        if (lora is not null) Launch("few_low_down", routes, downRank);
        program.Kernel(card, "few_down", options)
            .Launch((tokens, (layout.Gate.K + (DownWarps / DownWarpsEach) - 1) / (DownWarps / DownWarpsEach), 1), DownWarps * 32, 0, arguments);
    }

    /// <summary>Offsets of a matrix's codes and scales in an expert, in bytes.</summary>
    private readonly record struct Piece(long Data, long Scales);

    [StructLayout(LayoutKind.Sequential)]
    private readonly record struct Low(nint A, nint B, int Rank)
    {
        public static Low Of(Tensor? a, Tensor? b) => a is null ? default : new Low(a.Pointer, b!.Pointer, b.Width);
    }

    /// <summary>`Few` of FewRows.cu.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct Arguments
    {
        public nint Bank;
        public long ExpertBytes;
        public Piece Gate, Up, Down;
        public nint X, Indices, Weights;
        public Low LowGate, LowUp, LowDown;
        public nint P, Biases, H, Y;
        public int TopK, D, I;
        public float Scale, Limit;
    }
}
