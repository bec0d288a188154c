using KtNotebooks.Interop;

namespace KtNotebooks.Tensors;

/// <summary>Host memory of which a disk is the home (<see cref="DiskMemory"/>): adapters of experts, for machines that have no room for them.</summary>
public sealed class DiskBuffer : Buffer
{
    private readonly DiskMemory _home;
    private readonly DiskMemory.Stretch _stretch;

    internal DiskBuffer(DiskMemory home, DiskMemory.Stretch stretch, nint pointer, long byteLength)
        : base(pointer, byteLength, Device.Cpu) => (_home, _stretch) = (home, stretch);

    public DiskMemory Memory => _home;

    /// <summary>Its bytes are wanted soon. Waits for no work on them: that work may be what asks.</summary>
    internal void Ahead() => HostPages.Ahead(handle, ByteLength);

    /// <summary>Its bytes are not wanted for a while.</summary>
    internal void LetGo() => HostPages.LetGo(handle, ByteLength);

    protected override void Free(nint pointer) => _home.Give(_stretch, pointer, Math.Max(1, ByteLength));
}
