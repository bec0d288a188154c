using KtNotebooks.Formats;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>
/// How the experts of a bank lie in one stretch of memory, in pinned host memory and on a card alike: one expert after the other, each its gate, up and
/// down as stored, data then scales, every piece aligned to 256 bytes. So any run of experts is one copy.
/// </summary>
public sealed class BankLayout
{
    private const int Alignment = 256;

    internal BankLayout(ExpertSet experts)
        : this(experts.Count, experts.Gate.K, experts.Inner, experts.Gate.Format, experts.Up.Format, experts.Down.Format)
    {
    }

    /// <summary>Of experts with gate and up [inner, width] and down [width, inner] in one format.</summary>
    public BankLayout(int count, int width, int inner, StorageFormat format)
        : this(count, width, inner, format, format, format)
    {
    }

    private BankLayout(int count, int width, int inner, StorageFormat gate, StorageFormat up, StorageFormat down)
    {
        Count = count;
        long at = 0;
        Gate = Place(gate, inner, width, ref at);
        Up = Place(up, inner, width, ref at);
        Down = Place(down, width, inner, ref at);
        ExpertBytes = at;
    }

    /// <summary>E.</summary>
    public int Count { get; }

    public long ExpertBytes { get; }

    public long Bytes => ExpertBytes * Count;

    /// <summary>Elements of an expert's three matrices, 3·D·I.</summary>
    public double Elements => (2.0 * Gate.N * Gate.K) + ((double)Down.N * Down.K);

    public Piece Gate { get; }

    public Piece Up { get; }

    public Piece Down { get; }

    /// <summary>
    /// Whether products on a card read the stored bytes as they are, for so many rows an expert on average; if not, matrices are dequantized when a group is
    /// opened.
    /// </summary>
    public bool IsDirect(Device card, DType type, long rows)
    {
        bool Is(Piece p) => p.Format == StorageFormat.Of(type) || GroupedKernels.ReadsCodes(card, type, p.Format, p.N, p.K, rows);
        return Up.Format == Gate.Format && Down.Format == Gate.Format && Is(Gate) && Is(Up) && Is(Down);
    }

    /// <summary>Bytes of an expert's matrices after dequantizing to <paramref name="type"/>.</summary>
    public long DequantizedBytes(DType type) => ((long)Gate.N * Gate.K * 2 + (long)Down.N * Down.K) * type.Size();

    /// <summary>Experts cut into groups of at most <paramref name="bytes"/> stored bytes, at least one a group, nearly equal in size.</summary>
    public IReadOnlyList<ExpertGroup> Groups(long bytes)
    {
        var most = (int)Math.Clamp(bytes / ExpertBytes, 1, Count);
        var groups = (Count + most - 1) / most;
        return [.. Enumerable.Range(0, groups).Select(g => new ExpertGroup(Count * g / groups, (Count * (g + 1) / groups) - (Count * g / groups)))];
    }

    /// <summary>
    /// The matrices of a group whose experts lie at <paramref name="address"/> on a card, for so many rows an expert of the bank: where and as they are, or
    /// dequantized into scratch that is added to <paramref name="scratch"/>.
    /// </summary>
    internal GroupMatrices Matrices(nint address, int count, DType type, long rows, Device device, List<Tensor> scratch)
    {
        var direct = IsDirect(device, type, rows);
        ExpertSide Of(Piece piece)
        {
            var data = address + (nint)piece.Data;
            if (piece.Format == StorageFormat.Of(type)) return new ExpertSide(data, ExpertBytes / type.Size(), piece.K);
            if (direct) return new ExpertSide(data, ExpertBytes, piece.K, piece.Format, address + (nint)piece.Scales);
            var dequantized = Tensor.Empty(type, device, count, piece.N, piece.K);
            scratch.Add(dequantized);
            piece.Format.DequantizeOnGpu(data, address + (nint)piece.Scales, ExpertBytes, dequantized);
            return new ExpertSide(dequantized.Pointer, (long)piece.N * piece.K, piece.K);
        }
        return new GroupMatrices(Of(Gate), Of(Up), Of(Down));
    }

    private static Piece Place(StorageFormat format, int n, int k, ref long at)
    {
        var data = format.DataShape(n, k).Aggregate((long)format.DataType.Size(), (product, dim) => product * dim);
        var scales = format.Bytes(n, k) - data;
        var piece = new Piece(format, n, k, at, data, at + Aligned(data), scales);
        at += Aligned(data) + Aligned(scales);
        return piece;
    }

    private static long Aligned(long bytes) => (bytes + Alignment - 1) / Alignment * Alignment;

    /// <summary>One matrix inside an expert: offsets and lengths in bytes.</summary>
    public readonly record struct Piece(StorageFormat Format, int N, int K, long Data, long DataBytes, long Scales, long ScaleBytes);
}
