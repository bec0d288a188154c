using System.Runtime.InteropServices;

using static KtNotebooks.Interop.Cuda.Driver;

namespace KtNotebooks.Interop.Cuda;

/// <summary>
/// Page-locked host memory: the card copies from and to it without the driver's staging, at full PCIe speed. A large stretch is memory of the system's own
/// huge pages, which several threads bring in (or whoever fills it, which is the same work) before the driver is asked to lock it: the driver's own
/// allocation does all that on one thread.
/// </summary>
public sealed unsafe class PinnedMemory : SafeHandle
{
    private const uint Portable = 1; // pinned for the contexts of all cards
    private static int _refused; // 1: so the driver did once, and is not asked again
    private readonly CudaDevice _device;
    private bool _isOurs;

    /// <param name="fill">
    /// Writes all of the memory at an address, by several threads, before it is locked; null: it stays uninitialised.
    /// </param>
    public PinnedMemory(CudaDevice device, long byteLength, Action<nint>? fill = null)
        : base(0, ownsHandle: true)
    {
        ArgumentNullException.ThrowIfNull(device);
        (_device, ByteLength) = (device, byteLength);
        device.Use();
        if (byteLength >= HostPages.Large && AllowRegistering && _refused == 0 && HostPages.Map(byteLength) is not 0 and var mapped) Lock(mapped, fill);
        else
        {
            SetHandle(Allocate(byteLength));
            fill?.Invoke(handle);
        }
    }

    /// <summary>False: the driver allocates all of it, for measurements that compare.</summary>
    public static bool AllowRegistering { get; set; } = true;

    /// <summary>Asks the driver again, which refused before.</summary>
    internal static void AskAgain() => _refused = 0;

    public long ByteLength { get; }

    public override bool IsInvalid => handle == 0;

    internal nint Pointer => handle;

    protected override bool ReleaseHandle()
    {
        if (!_isOurs) return cuMemFreeHost(handle) == CuResult.Success;
        CudaDevice.SettleAll(); // what the driver does for memory of its own: no copy may still be under way
        var status = cuMemHostUnregister(handle);
        HostPages.Unmap(handle, ByteLength);
        return status == CuResult.Success;
    }

    private void Lock(nint mapped, Action<nint>? fill)
    {
        try
        {
            if (fill is null) HostPages.Touch(mapped, ByteLength, Environment.ProcessorCount);
            else fill(mapped);
            var status = cuMemHostRegister_v2((void*)mapped, (nuint)ByteLength, Portable);
            if (status == CuResult.Success)
            {
                SetHandle(mapped);
                _isOurs = true;
                return;
            }
            if (Interlocked.Exchange(ref _refused, 1) == 0)
                Console.Error.WriteLine($"note: {_device} does not lock memory of ours ({CuResults.NameOf(status)}): the driver allocates it, "
                    + "which takes longer");
            SetHandle(Allocate(ByteLength));
            if (fill is not null) System.Buffer.MemoryCopy((void*)mapped, (void*)handle, ByteLength, ByteLength);
        }
        finally
        {
            if (!_isOurs) HostPages.Unmap(mapped, ByteLength);
        }
    }

    private static nint Allocate(long bytes)
    {
        nint pointer;
        cuMemHostAlloc(&pointer, checked((nuint)bytes), Portable).Ok();
        return pointer;
    }
}
