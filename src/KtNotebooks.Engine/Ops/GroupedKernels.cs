using System.Collections.Concurrent;
using System.Runtime.InteropServices;

using KtNotebooks.Formats;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>
/// A stretch of sorted rows on a card as a matrix: row i at Pointer + i · Stride elements, or row Tokens[i] / Divide where they are fetched through a list
/// of routes.
/// </summary>
internal readonly record struct RowSource(nint Pointer, int Stride, nint Tokens = 0, int Divide = 1)
{
    public static RowSource Of(Tensor rows) => new(rows.Pointer, rows.Width);

    /// <summary>Columns from <paramref name="column"/> on.</summary>
    public RowSource From(int column, DType type) => this with { Pointer = Pointer + (column * type.Size()) };
}

/// <summary>
/// Matrices of consecutive experts on a card: the first at Pointer, the next Stride elements on, rows Lead elements apart. Of matrices that lie as the
/// codes of a format Stride is in bytes, of the codes and of the scales alike.
/// </summary>
internal readonly record struct ExpertSide(nint Pointer, long Stride, int Lead, StorageFormat? Coded = null, nint Scales = 0);

/// <summary>A · B of one term of a product; K is what they are summed over.</summary>
internal readonly record struct GroupedTerm(RowSource A, ExpertSide B, int K);

/// <summary>
/// <see cref="GroupedMatmul"/> on a card: see GroupedKernels.cu. BF16 with sizes that are multiples of 8 runs on tensor cores, anything else one thread an
/// element. On an H200 tiles of 128 × 128 by four warps won over wider ones, which leave one block a multiprocessor; Hopper's warpgroup products
/// (GroupedKernelsHopper.cu) are half as fast again. `kt bench experts` measures them. BF16 rows meet matrices in low-bit formats as they are stored
/// (<see cref="ReadsCodes"/>): codes are decoded on their way into the products (GroupedCodesHopper.cu), which mostly hides behind them, where a decoded copy
/// of a bank costs 4 bytes of memory traffic an element every time.
/// </summary>
internal static unsafe class GroupedKernels
{
    public const int TileRows = 128;

    private const string Wide = "-DBM=128 -DBN=128 -DWM=64 -DWN=64 -DBK=32 -DSTAGES=4";
    private const string Narrow = "-DBM=128 -DBN=32 -DWM=32 -DWN=32 -DBK=64 -DSTAGES=3";
    private const int WideShared = 4 * (128 + 128) * 32 * 2, NarrowShared = 3 * (128 + 32) * 64 * 2;
    private const string Hopper = "-arch=sm_90a";
    private const int HopperShared = 4 * (128 + 256) * 64 * 2, HopperColumns = 256, HopperArchitecture = 90;

    private const int CodedRows = 512; // an expert's on average; more meet a decoded copy
    private const int NarrowColumns = 32, WideColumns = 128, OuterColumns = 128, OuterRows = 32, OuterStages = 3;

    private static readonly CudaProgram Program = new("GroupedKernels", CudaProgram.Resource("Ops.GroupedKernels.cu"));
    private static readonly CudaProgram HopperProgram = new("GroupedKernelsHopper",
        CudaProgram.Resource("Ops.Warpgroup.cu") + CudaProgram.Resource("Ops.GroupedKernelsHopper.cu"));

    private static readonly CudaProgram[] HopperCoded = [.. StorageFormat.All.Select(f => f.Kernels("GroupedCodesHopper",
        CudaProgram.Resource("Ops.Warpgroup.cu"), "Ops.GroupedCodesHopper.cu"))];

    private static readonly ConcurrentDictionary<(int Gpu, string Entry, string Options, DType Type, bool ByColumns, StorageFormat? Coded), CudaKernel> Kernels
        = new();

    /// <summary>
    /// Whether rows of a type, so many an expert on average, meet matrices [n, k] of a format as they are stored, on this card. On an H200 such products run
    /// at about 0.7 of the BF16 rate, so with many rows a decoded copy wins. With the portable kernels' synchronous products decoding hides behind nothing,
    /// and the copy wins always.
    /// </summary>
    public static bool ReadsCodes(Device card, DType type, StorageFormat format, int n, int k, long rows) => type == DType.BF16 && format.IsLowBit
        && n % 8 == 0 && k % 16 == 0 && rows <= CodedRows && CudaDevice.Missing is null && card.Index < CudaDevice.Count
        && CudaDevice.Get(card.Index).Architecture == HopperArchitecture;

    /// <summary>
    /// c [rows, N] (row i at c + i · ldc) = alpha · Σ terms; B matrices are [N, K], or [K, N] when <paramref name="byColumns"/>. tiles:
    /// <see cref="Tiles"/>.
    /// </summary>
    public static void Product(CudaDevice card, DType type, Tensor tiles, bool byColumns, nint c, int ldc, int N, float alpha,
        params ReadOnlySpan<GroupedTerm> terms)
    {
        var count = (int)tiles.Dim(0);
        if (count == 0) return;
        var p = new ProductArguments { Tiles = tiles.Pointer, C = c, Ldc = ldc, Count = terms.Length, N = N, Alpha = alpha };
        var fast = type == DType.BF16 && N % 8 == 0 && Aligned(c, ldc);
        StorageFormat? coded = null;
        for (var t = 0; t < terms.Length; t++)
        {
            var (a, b, k) = terms[t];
            fast &= k % 8 == 0 && Aligned(a.Pointer, a.Stride) && Aligned(b.Pointer, b.Lead) && b.Stride % 8 == 0;
            coded ??= b.Coded;
            if (b.Coded is not null && b.Coded != coded) throw new ArgumentException($"a product of matrices in {coded} and in {b.Coded}");
            p[t] = new TermArguments
            {
                A = a.Pointer,
                Tokens = a.Tokens,
                B = b.Pointer,
                Scales = b.Scales,
                StrideB = b.Stride,
                Lda = a.Stride,
                Divide = a.Divide,
                Ldb = b.Lead,
                K = k,
            };
        }
        if (!fast)
        {
            if (coded is not null) throw new ArgumentException($"rows of {type} and {N} columns do not meet {coded} as it is stored: see ReadsCodes");
            Kernel(card, "grouped_product", type, "-DPLAIN", byColumns, 0).Launch(((N + 127) / 128, count, 1), 128, 0, p);
            return;
        }
        if (coded is not null || (card.Architecture == HopperArchitecture && N > NarrowColumns))
        {
            var most = coded is null ? HopperShared : CodedShared(coded);
            Kernel(card, "grouped_product", type, Hopper, byColumns, most, coded)
                .Launch(((N + HopperColumns - 1) / HopperColumns, count, 1), 256, most, p);
            return;
        }
        var narrow = N <= NarrowColumns;
        var (options, columns, shared) = narrow ? (Narrow, NarrowColumns, NarrowShared) : (Wide, WideColumns, WideShared);
        Kernel(card, "grouped_product", type, options, byColumns, shared).Launch(((N + columns - 1) / columns, count, 1), 128, shared, p);
    }

    /// <summary>
    /// out_e[m, n] = alpha · Σ_i small[i, m] · wide[i, n] F32 over the rows i of each expert; small [rows, M], wide [rows, N]. Row m below
    /// <paramref name="split"/> belongs to the first target, the others, from split on, to the second; a target is [E, limit, N] per expert, or its
    /// transpose [E, N, limit] when <paramref name="transposed"/>; rows of a part beyond limit are padding.
    /// </summary>
    public static void Outer(CudaDevice card, DType type, nint offsets, int experts, int firstRow, RowSource small, int M, RowSource wide, int N, int split,
        int limit, nint first, nint second, bool transposed, float alpha)
    {
        var p = new OuterArguments
        {
            Small = small.Pointer,
            Wide = wide.Pointer,
            Tokens = wide.Tokens,
            Offsets = offsets,
            Out0 = first,
            Out1 = second,
            Stride = (long)limit * N,
            Lds = small.Stride,
            Ldw = wide.Stride,
            Divide = wide.Divide,
            First = firstRow,
            M = M,
            N = N,
            Split = split,
            Limit = limit,
            StepM = transposed ? 1 : N,
            StepN = transposed ? limit : 1,
            Alpha = alpha,
        };
        if (type != DType.BF16 || M % 8 != 0 || N % 8 != 0 || !Aligned(small.Pointer, small.Stride) || !Aligned(wide.Pointer, wide.Stride))
        {
            Kernel(card, "grouped_outer", type, "-DPLAIN", false, 0).Launch(((N + 127) / 128, experts, 1), 128, 0, p);
            return;
        }
        var (tiles, options) = M switch { <= 16 => (1, "-DMT=1"), <= 32 => (2, "-DMT=2"), <= 64 => (4, "-DMT=4"), _ => (8, "-DMT=8") };
        var shared = OuterStages * OuterRows * ((tiles * 32) + (OuterColumns * 2));
        Kernel(card, "grouped_outer", type, options, false, shared)
            .Launch(((N + OuterColumns - 1) / OuterColumns, experts, (M + (tiles * 16) - 1) / (tiles * 16)), 128, shared, p);
    }

    /// <summary>
    /// The row tiles of experts [first, first + count), numbered from 0, over rows counted from offsets[first]: I32 [tiles, 4] of (expert, first row, rows,
    /// 0).
    /// </summary>
    public static Tensor Tiles(Device device, ReadOnlySpan<int> offsets, int first, int count)
    {
        var total = 0;
        for (var e = first; e < first + count; e++) total += (offsets[e + 1] - offsets[e] + TileRows - 1) / TileRows;
        var tiles = new int[total * 4];
        var next = 0;
        for (var e = first; e < first + count; e++)
            for (var row = offsets[e]; row < offsets[e + 1]; row += TileRows)
            {
                (tiles[next], tiles[next + 1], tiles[next + 2]) = (e - first, row - offsets[first], Math.Min(TileRows, offsets[e + 1] - row));
                next += 4;
            }
        using var host = Tensor.From(tiles, total, 4);
        return host.To(device);
    }

    private static CudaKernel Kernel(CudaDevice card, string entry, DType type, string options, bool byColumns, int shared,
        StorageFormat? coded = null)
    {
        var key = (card.Index, entry, options, type, byColumns, coded);
        if (Kernels.TryGetValue(key, out var known)) return known;
        var program = coded is not null ? HopperCoded[coded.Code] : options == Hopper ? HopperProgram : Program;
        var kernel = program.Kernel(card, entry,
            $"-DTYPE={(type == DType.F32 ? "float" : "bf16")} {options}{(byColumns ? " -DNN=1" : "")}");
        return Kernels.GetOrAdd(key, shared > 48 << 10 ? kernel.AllowShared(shared) : kernel);
    }

    /// <summary>Four stages of A and of codes, three of decoded B.</summary>
    private static int CodedShared(StorageFormat coded) => (4 * 128 * 64 * 2) + (3 * 256 * 64 * 2) + (4 * (int)coded.Bytes(256, 64, withScales: false));

    private static bool Aligned(nint pointer, int lead) => pointer % 16 == 0 && lead % 8 == 0;

    [StructLayout(LayoutKind.Sequential)]
    private struct TermArguments
    {
        public nint A, Tokens, B, Scales;
        public long StrideB;
        public int Lda, Divide, Ldb, K;
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct ProductArguments
    {
        public TermArguments Term0, Term1, Term2;
        public nint Tiles, C;
        public int Ldc, Count, N;
        public float Alpha;

        public TermArguments this[int t]
        {
            set
            {
                switch (t)
                {
                    case 0: Term0 = value; break;
                    case 1: Term1 = value; break;
                    default: Term2 = value; break;
                }
            }
        }
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct OuterArguments
    {
        public nint Small, Wide, Tokens, Offsets, Out0, Out1;
        public long Stride;
        public int Lds, Ldw, Divide, First, M, N, Split, Limit, StepM, StepN;
        public float Alpha;
    }
}
