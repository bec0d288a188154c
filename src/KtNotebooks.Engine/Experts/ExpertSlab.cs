using KtNotebooks.Formats;
using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>
/// A bank's experts as stored, in one stretch of memory laid out for copies (<see cref="BankLayout"/>). In pinned host memory the CPU computes with them in
/// place, through <see cref="Set"/>, and a card fetches them.
/// </summary>
internal sealed unsafe class ExpertSlab : IDisposable
{
    private readonly Tensor _bytes;

    /// <summary>Copies the matrices of a set (the set is left alone) into pinned host memory of a card.</summary>
    public ExpertSlab(ExpertSet experts, Device card)
    {
        Layout = new BankLayout(experts);
        HostMemory.Require(Layout.Bytes);
        _bytes = new Tensor(PinnedBuffer.Allocate(card, Layout.Bytes), 0, DType.U8, [Layout.Bytes]);
        // From a mapped checkpoint this is where its pages are read; several readers keep a disk busy.
        RowParallel.For(Layout.Count, Layout.ExpertBytes, (first, last) =>
        {
            for (var e = (int)first; e < last; e++)
            {
                Put(experts.Gate, Layout.Gate, e);
                Put(experts.Up, Layout.Up, e);
                Put(experts.Down, Layout.Down, e);
            }
        });
    }

    public BankLayout Layout { get; }

    public nint Address => _bytes.Pointer;

    /// <summary>The same experts as matrices: views on the slab, which they keep alive.</summary>
    public ExpertSet Set => new(Views(Layout.Gate), Views(Layout.Up), Views(Layout.Down));

    public void Dispose() => _bytes.Dispose();

    private void Put(Matrices from, BankLayout.Piece piece, int e)
    {
        var to = (byte*)Address + (e * Layout.ExpertBytes);
        System.Buffer.MemoryCopy((void*)from.Pointer(e), to + piece.Data, piece.DataBytes, piece.DataBytes);
        if (piece.ScaleBytes > 0) System.Buffer.MemoryCopy((void*)from.ScalesPointer(e), to + piece.Scales, piece.ScaleBytes, piece.ScaleBytes);
    }

    private Matrices Views(BankLayout.Piece piece)
    {
        Tensor[] Each(long offset, DType type, long[] shape) =>
            [.. Enumerable.Range(0, Layout.Count).Select(e => _bytes.Reinterpret((e * Layout.ExpertBytes) + offset, type, shape))];
        var data = Each(piece.Data, piece.Format.DataType, piece.Format.DataShape(piece.N, piece.K));
        return piece.Format.IsLowBit
            ? Matrices.Each(piece.Format, data, Each(piece.Scales, piece.Format.ScaleType, piece.Format.ScaleShape(piece.N, piece.K)), piece.N, piece.K)
            : Matrices.Each(data);
    }
}
