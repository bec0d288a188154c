using KtNotebooks.Interop.Cuda;

namespace KtNotebooks.Tensors;

/// <summary>
/// Memory of a card that is there for a time only: what is in it waits in pinned host memory, and it has an address on the card while it visits. Whoever
/// brings it says where.
/// </summary>
internal sealed class VisitingBuffer : Buffer
{
    /// <summary>Bytes that matrices take up in a row of them: the next one is aligned for every kernel.</summary>
    private const long Alignment = 256;

    private const nint Nowhere = 1; // 0 would be an invalid handle
    private readonly PinnedMemory _home;

    private VisitingBuffer(PinnedMemory home, Device card, long byteLength)
        : base(Nowhere, byteLength, card, holds: false) => _home = home;

    /// <summary>Its home in host memory; of <see cref="PaddedBytes"/>.</summary>
    public nint Home => _home.Pointer;

    /// <summary>Its bytes, rounded up so that another one may follow.</summary>
    public long PaddedBytes => Padded(ByteLength);

    public static long Padded(long bytes) => (bytes + Alignment - 1) / Alignment * Alignment;

    /// <summary>A copy of a tensor in host memory, or of a mapped file, that belongs to a card.</summary>
    /// <exception cref="InsufficientMemoryException">The system does not lock that much.</exception>
    public static Tensor Of(Tensor tensor, Device card)
    {
        var bytes = tensor.ByteLength;
        HostMemory.Require(bytes);
        var home = new PinnedMemory(CudaDevice.Get(card.Index), Padded(Math.Max(bytes, 1)), tensor.Bring);
        return new Tensor(new VisitingBuffer(home, card, bytes), 0, tensor.Type, tensor.Shape);
    }

    /// <summary>From now on it is at this address of its card.</summary>
    public void Arrive(nint address) => MoveTo(address);

    /// <summary>It is on no card.</summary>
    public void Leave() => MoveTo(0);

    protected override string Absence => "a matrix that waits in host memory is on its card while its layer is at work, and this is not then";

    protected override void Free(nint pointer) => _home.Dispose();
}
