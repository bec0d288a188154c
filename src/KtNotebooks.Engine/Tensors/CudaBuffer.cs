using KtNotebooks.Interop.Cuda;

namespace KtNotebooks.Tensors;

/// <summary>Memory of a card, from its pool. Freeing gives it back to the pool, in the order of the compute stream.</summary>
public sealed class CudaBuffer : Buffer
{
    private readonly CudaPool _pool;

    private CudaBuffer(CudaPool pool, nint pointer, long byteLength, Device device)
        : base(pointer, byteLength, device) => _pool = pool;

    /// <exception cref="NotSupportedException">There is no such card here.</exception>
    /// <exception cref="InsufficientMemoryException">It does not fit.</exception>
    public static CudaBuffer Allocate(Device device, long byteLength)
    {
        var pool = CudaDevice.Get(device.Index).Pool;
        return new CudaBuffer(pool, pool.Allocate(byteLength), byteLength, device);
    }

    protected override void Free(nint pointer) => _pool.Free(pointer);
}
