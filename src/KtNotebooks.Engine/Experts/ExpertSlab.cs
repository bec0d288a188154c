using KtNotebooks.Formats;
using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>
/// A bank's experts as stored, in one stretch of memory laid out for copies (<see cref="BankLayout"/>). In pinned host memory the CPU computes with them in
/// place, through <see cref="Set"/>, and a card fetches them.
/// </summary>
internal sealed class ExpertSlab : IDisposable
{
    private readonly Tensor? _bytes;

    /// <summary>Experts that stay in the checkpoint's shards: nothing of them is in host memory.</summary>
    public ExpertSlab(DiskBank disk) => (Disk, Layout) = (disk, disk.Layout);

    /// <summary>
    /// Brings the matrices of a set (the set is left alone) into pinned host memory of a card: from a checkpoint's file they are read there, by several
    /// readers at once, and nothing is held twice.
    /// </summary>
    public ExpertSlab(ExpertSet experts, Device card)
    {
        Layout = new BankLayout(experts);
        HostMemory.Require(Layout.Bytes);
        _bytes = new Tensor(PinnedBuffer.Allocate(card, Layout.Bytes, address => Bring(experts, address)), 0, DType.U8, [Layout.Bytes]);
    }

    /// <summary>
    /// The same into ordinary memory, for the CPU alone: one stretch is memory in huge pages, which the single matrices of small experts are not.
    /// </summary>
    public ExpertSlab(ExpertSet experts)
    {
        Layout = new BankLayout(experts);
        HostMemory.Require(Layout.Bytes);
        var buffer = HostBuffer.Allocate(Layout.Bytes);
        _bytes = new Tensor(buffer, 0, DType.U8, [Layout.Bytes]);
        Bring(experts, _bytes.Pointer);
    }

    public BankLayout Layout { get; }

    /// <summary>What reads them from the disk; null: they are in memory.</summary>
    public DiskBank? Disk { get; }

    public nint Address => _bytes?.Pointer ?? throw new InvalidOperationException("[ExpertSlab] experts on the disk have no address");

    /// <summary>The same experts as matrices: views on the slab, which they keep alive.</summary>
    public ExpertSet Set => new(Views(Layout.Gate), Views(Layout.Up), Views(Layout.Down));

    public void Dispose() => _bytes?.Dispose();

    private void Bring(ExpertSet experts, nint address) => RowParallel.For(Layout.Count, Layout.ExpertBytes, (first, last) =>
    {
        for (var e = first; e < last; e++)
        {
            var to = address + (nint)(e * Layout.ExpertBytes);
            foreach (var (from, piece) in (ReadOnlySpan<(Matrices, BankLayout.Piece)>)
                [(experts.Gate, Layout.Gate), (experts.Up, Layout.Up), (experts.Down, Layout.Down)])
                from.Bring((int)e, to + (nint)piece.Data, to + (nint)piece.Scales);
        }
    });

    private Matrices Views(BankLayout.Piece piece)
    {
        Tensor[] Each(long offset, DType type, long[] shape) =>
            [.. Enumerable.Range(0, Layout.Count).Select(e => _bytes!.Reinterpret((e * Layout.ExpertBytes) + offset, type, shape))];
        var data = Each(piece.Data, piece.Format.DataType, piece.Format.DataShape(piece.N, piece.K));
        return piece.Format.IsLowBit
            ? Matrices.Each(piece.Format, data, Each(piece.Scales, piece.Format.ScaleType, piece.Format.ScaleShape(piece.N, piece.K)), piece.N, piece.K)
            : Matrices.Each(data);
    }
}
