namespace KtNotebooks.Interop.Cuda;

/// <summary>A stretch of pinned memory in use.</summary>
internal sealed class PinnedBlock(PinnedMemory memory)
{
    public nint Pointer => memory.Pointer;

    public long Bytes => memory.ByteLength;
}

/// <summary>Pinned memory kept for reuse by size: locking pages costs the system far more than the copies that they speed up.</summary>
internal static class PinnedPool
{
    private static readonly Lock Gate = new();
    private static readonly Dictionary<long, Stack<PinnedBlock>> Free = [];

    /// <summary>Bytes locked so far, in use and kept.</summary>
    public static long HeldBytes { get; private set; }

    public static PinnedBlock Take(CudaDevice card, long bytes)
    {
        lock (Gate)
        {
            if (Free.TryGetValue(bytes, out var blocks) && blocks.TryPop(out var block)) return block;
            HeldBytes += bytes;
        }
        return new PinnedBlock(new PinnedMemory(card, bytes));
    }

    /// <summary>Takes a block back once the copies before <paramref name="lastCopy"/> are over.</summary>
    public static void Return(PinnedBlock block, CudaEvent lastCopy)
    {
        lastCopy.Synchronize();
        lock (Gate)
        {
            if (!Free.TryGetValue(block.Bytes, out var blocks)) Free[block.Bytes] = blocks = new Stack<PinnedBlock>();
            blocks.Push(block);
        }
    }
}
