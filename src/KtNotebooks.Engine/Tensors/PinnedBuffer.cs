using KtNotebooks.Interop.Cuda;

namespace KtNotebooks.Tensors;

/// <summary>Page-locked host memory as a tensor's buffer: ops on the CPU use it like any other, and cards copy from and to it at the full speed of the bus.</summary>
public sealed class PinnedBuffer : Buffer
{
    private readonly PinnedMemory _memory;

    private PinnedBuffer(PinnedMemory memory, long byteLength)
        : base(memory.Pointer, byteLength, Device.Cpu) => _memory = memory;

    /// <exception cref="NotSupportedException">There is no such card here.</exception>
    /// <exception cref="InsufficientMemoryException">The system does not lock that much.</exception>
    public static PinnedBuffer Allocate(Device card, long byteLength) => new(new PinnedMemory(CudaDevice.Get(card.Index), Math.Max(byteLength, 1)), byteLength);

    protected override void Free(nint pointer) => _memory.Dispose();
}
