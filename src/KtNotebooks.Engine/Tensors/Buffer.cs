using System.Runtime.InteropServices;

namespace KtNotebooks.Tensors;

/// <summary>
/// Native memory under one or more tensor views. The last view to go frees it; a forgotten one is freed by the finalizer of
/// <see cref="SafeHandle"/>. The counts of alive buffers are what the leak tests look at.
/// </summary>
public abstract class Buffer : SafeHandle
{
    private static long _aliveCount;
    private static long _aliveBytes;
    private static long _peakBytes;
    private int _views;

    protected Buffer(nint pointer, long byteLength, Device device)
        : base(0, ownsHandle: true)
    {
        SetHandle(pointer);
        ByteLength = byteLength;
        Device = device;
        Interlocked.Increment(ref _aliveCount);
        Count(byteLength);
    }

    /// <summary>Buffers not yet freed in this process.</summary>
    public static long AliveCount => Volatile.Read(ref _aliveCount);

    public static long AliveBytes => Volatile.Read(ref _aliveBytes);

    /// <summary>
    /// The most bytes alive at once since the process began or <see cref="ResetPeak"/>; mapped files and cards count, shapes without memory do not.
    /// </summary>
    public static long PeakBytes => Volatile.Read(ref _peakBytes);

    public long ByteLength { get; }

    public Device Device { get; }

    public override bool IsInvalid => handle == 0;

    /// <summary>Address on <see cref="Device"/>.</summary>
    internal nint Pointer => IsClosed || Device.Kind == DeviceKind.Meta ? throw NoAddress() : handle;

    /// <summary>True while exactly one tensor looks at this memory: only then may it be added to in place.</summary>
    internal bool IsUnique => Volatile.Read(ref _views) == 1;

    /// <summary>Counts the peak anew, from what is alive now.</summary>
    public static void ResetPeak() => Volatile.Write(ref _peakBytes, AliveBytes);

    internal void Retain() => Interlocked.Increment(ref _views);

    internal void Release()
    {
        if (Interlocked.Decrement(ref _views) == 0) Dispose();
    }

    protected sealed override bool ReleaseHandle()
    {
        Free(handle);
        Interlocked.Decrement(ref _aliveCount);
        Count(-ByteLength);
        return true;
    }

    private void Count(long bytes)
    {
        if (Device.Kind == DeviceKind.Meta) return;
        var alive = Interlocked.Add(ref _aliveBytes, bytes);
        for (var peak = PeakBytes; alive > peak; peak = PeakBytes)
            if (Interlocked.CompareExchange(ref _peakBytes, alive, peak) == peak) return;
    }

    private Exception NoAddress() => IsClosed
        ? new ObjectDisposedException(nameof(Tensor), "the tensor's memory has been freed")
        : new InvalidOperationException("[Tensor] a shape without memory has no values");

    protected abstract void Free(nint pointer);
}

/// <summary>
/// Host memory of our own, aligned to a cache line so that vector loads of a row start aligned; large buffers to a huge page, of which the system is asked to
/// make them: every expert's matrix spans a thousand ordinary pages, more than a core keeps addresses of.
/// </summary>
public sealed unsafe partial class HostBuffer : Buffer
{
    private const int Alignment = 64;
    private const long HugePage = 2L << 20;
    private const int AdviseHugePages = 14; // MADV_HUGEPAGE

    private HostBuffer(nint pointer, long byteLength)
        : base(pointer, byteLength, Device.Cpu)
    {
    }

    /// <summary>Uninitialised memory; at least one byte, so that empty tensors have an address.</summary>
    public static HostBuffer Allocate(long byteLength)
    {
        var large = byteLength >= 2 * HugePage;
        var pointer = (nint)NativeMemory.AlignedAlloc((nuint)Math.Max(byteLength, 1), large ? (nuint)HugePage : Alignment);
        // Whole pages alone: what follows the buffer is somebody else's. Where the system has no such pages it stays as it was.
        if (large && OperatingSystem.IsLinux()) _ = madvise((void*)pointer, (nuint)(byteLength / HugePage * HugePage), AdviseHugePages);
        return new HostBuffer(pointer, byteLength);
    }

    [LibraryImport("libc", SetLastError = false)]
    private static partial int madvise(void* address, nuint length, int advice);

    protected override void Free(nint pointer) => NativeMemory.AlignedFree((void*)pointer);
}

/// <summary>Memory that belongs to someone else (a memory-mapped file), who is told once when nobody looks at it any more.</summary>
public sealed class BorrowedBuffer(nint pointer, long byteLength, Action returned) : Buffer(pointer, byteLength, Device.Cpu)
{
    protected override void Free(nint pointer) => returned();
}

/// <summary>No memory at all, for shapes that nobody computes with. What it would take is counted on the thread that asks.</summary>
public sealed class MetaBuffer : Buffer
{
    private const nint NoAddressAtAll = 1; // 0 would be an invalid handle

    [ThreadStatic] private static long _alive;
    [ThreadStatic] private static long _peak;

    public MetaBuffer(long byteLength)
        : base(NoAddressAtAll, byteLength, Device.Meta) => Touch(0, _alive += byteLength);

    /// <summary>Bytes that shapes made and not freed by this thread would hold.</summary>
    public static long AliveHere => _alive;

    /// <summary>The most of them at once since <see cref="ResetPeakHere"/>.</summary>
    public static long PeakHere => _peak;

    public static void ResetPeakHere() => _peak = _alive;

    /// <summary>Counts bytes that are taken and given back at once.</summary>
    public static void Touch(long bytes) => Touch(bytes, _alive);

    protected override void Free(nint pointer) => _alive -= ByteLength;

    private static void Touch(long bytes, long alive) => _peak = Math.Max(_peak, alive + bytes);
}
