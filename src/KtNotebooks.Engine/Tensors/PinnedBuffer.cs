using KtNotebooks.Interop;
using KtNotebooks.Interop.Cuda;

namespace KtNotebooks.Tensors;

/// <summary>
/// Page-locked host memory as a tensor's buffer: ops on the CPU use it like any other, and cards copy from and to it at the full speed of the bus.
/// </summary>
public sealed class PinnedBuffer : Buffer
{
    private readonly Action _free;

    private PinnedBuffer(nint pointer, long byteLength, Action free)
        : base(pointer, byteLength, Device.Cpu) => _free = free;

    /// <exception cref="NotSupportedException">There is no such card here.</exception>
    /// <exception cref="InsufficientMemoryException">So much is not left, or the system does not lock it.</exception>
    /// <param name="fill">Writes all of it, by several threads, before it is locked; null: it stays uninitialised.</param>
    public static PinnedBuffer Allocate(Device card, long byteLength, Action<nint>? fill = null)
    {
        HostMemory.RequirePinned(byteLength);
        var memory = new PinnedMemory(CudaDevice.Get(card.Index), Math.Max(byteLength, 1), fill);
        return new PinnedBuffer(memory.Pointer, byteLength, memory.Dispose);
    }

    /// <summary>
    /// A tensor in memory that goes back to the pool when it is disposed, and from there to the next user behind the work that was queued on the card's
    /// compute stream by then.
    /// </summary>
    internal static Tensor Rent(CudaDevice card, DType type, ReadOnlySpan<long> shape)
    {
        long bytes = type.Size();
        foreach (var dim in shape) bytes *= dim;
        var block = PinnedPool.Take(card, Math.Max(bytes, 1), HostMemory.RequirePinned);
        return new Tensor(new PinnedBuffer(block.Pointer, bytes, () =>
        {
            try
            {
                var last = new CudaEvent(card);
                last.Record(card.Compute);
                PinnedPool.Return(block, last);
            }
            catch (KtNativeException)
            {
                // A lost card: whoever used it hears of it, and the system takes the memory back.
            }
        }), 0, type, shape);
    }

    protected override void Free(nint pointer) => _free();
}
