namespace KtNotebooks.Interop.Cuda;

/// <summary>A stretch of pinned memory in use.</summary>
internal sealed class PinnedBlock(CudaDevice card, PinnedMemory memory)
{
    /// <summary>The card whose streams copy from and to it.</summary>
    public CudaDevice Gpu => card;

    public nint Pointer => memory.Pointer;

    public long Bytes => memory.ByteLength;
}

/// <summary>
/// Pinned memory kept for reuse, by card and size: locking pages costs the system far more than the copies that they speed up, and a thread that drives one
/// card must not wait for the copies of another.
/// </summary>
internal static class PinnedPool
{
    private static readonly Lock Gate = new();
    private static readonly Dictionary<(int Gpu, long Bytes), Queue<(PinnedBlock Block, CudaEvent LastCopy)>> Free = [];

    /// <summary>Bytes locked so far, in use and kept.</summary>
    public static long HeldBytes { get; private set; }

    /// <summary>A block whose last copy is over: the one returned first is waited for, if it must be.</summary>
    /// <param name="require">Asked before more memory is locked, and throws where so much is not left.</param>
    public static PinnedBlock Take(CudaDevice card, long bytes, Action<long>? require = null)
    {
        (PinnedBlock? Block, CudaEvent LastCopy) known = (null, null!);
        lock (Gate)
        {
            if (Free.TryGetValue((card.Index, bytes), out var blocks) && blocks.TryDequeue(out var first)) known = first;
        }
        if (known.Block is not null)
        {
            using (known.LastCopy) known.LastCopy.Synchronize();
            return known.Block;
        }
        require?.Invoke(bytes);
        var made = new PinnedBlock(card, new PinnedMemory(card, bytes));
        lock (Gate) HeldBytes += bytes;
        return made;
    }

    /// <summary>Takes a block back, and the event behind its last copy, without waiting for it.</summary>
    public static void Return(PinnedBlock block, CudaEvent lastCopy)
    {
        lock (Gate)
        {
            var key = (block.Gpu.Index, block.Bytes);
            if (!Free.TryGetValue(key, out var blocks)) Free[key] = blocks = new();
            blocks.Enqueue((block, lastCopy));
        }
    }
}
