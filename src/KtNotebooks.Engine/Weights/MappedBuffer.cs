using KtNotebooks.Tensors;

namespace KtNotebooks.Weights;

/// <summary>
/// A stored tensor's bytes as a mapped view on its file. What is brought elsewhere is read past the mapping; when the last view goes, the pages that were
/// touched go back to the system, where they would count as memory of this process for as long as the file is mapped.
/// </summary>
internal sealed class MappedBuffer(SafetensorsFile file, TensorEntry entry, nint pointer) : Tensors.Buffer(pointer, entry.End - entry.Begin, Device.Cpu)
{
    /// <summary>Read at a time.</summary>
    private const long Piece = 16 << 20;

    public SafetensorsFile File => file;

    public TensorEntry Entry => entry;

    internal override unsafe void Bring(long offset, nint target, long bytes)
    {
        for (long at = 0; at < bytes; at += Piece)
            file.ReadAt(new Span<byte>((byte*)target + at, (int)Math.Min(Piece, bytes - at)), entry.Begin + offset + at);
    }

    protected override void Free(nint pointer)
    {
        file.Drop(entry);
        file.Release();
    }
}
