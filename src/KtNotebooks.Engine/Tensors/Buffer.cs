using System.Runtime.InteropServices;

using KtNotebooks.Interop;

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
    private readonly bool _counts;
    private bool _holds;
    private int _views;
    private volatile PendingWork? _pending;

    /// <param name="holds">There is memory at the address.</param>
    protected Buffer(nint pointer, long byteLength, Device device, bool holds = true)
        : base(0, ownsHandle: true)
    {
        SetHandle(pointer);
        _holds = _counts = holds;
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

    /// <summary>Address on <see cref="Device"/>; waits for <see cref="Pending"/>.</summary>
    internal nint Pointer
    {
        get
        {
            _pending?.Wait();
            return IsClosed || !_holds ? throw NoAddress() : handle;
        }
    }

    /// <summary>Work under way on this memory; null: none.</summary>
    internal PendingWork? Pending { set => _pending = value; }

    /// <summary>The work is over, unless other work has taken its place.</summary>
    internal void Settle(PendingWork work)
    {
        if (_pending == work) _pending = null;
    }

    /// <summary>True while exactly one tensor looks at this memory: only then may it be added to in place.</summary>
    internal bool IsUnique => Volatile.Read(ref _views) == 1;

    /// <summary>Counts the peak anew, from what is alive now.</summary>
    public static void ResetPeak() => Volatile.Write(ref _peakBytes, AliveBytes);

    /// <summary>
    /// Writes bytes of it to host memory: from a file, by calculation or by copying, whichever is the shortest way of this kind of buffer to them. For those
    /// in host memory; several threads may.
    /// </summary>
    internal virtual unsafe void Bring(long offset, nint target, long bytes) =>
        NativeMemory.Copy((void*)(Pointer + (nint)offset), (void*)target, (nuint)bytes);

    internal void Retain() => Interlocked.Increment(ref _views);

    internal void Release()
    {
        if (Interlocked.Decrement(ref _views) == 0) Dispose();
    }

    protected sealed override bool ReleaseHandle()
    {
        _pending?.WaitForEnd();
        Free(handle);
        Interlocked.Decrement(ref _aliveCount);
        Count(-ByteLength);
        return true;
    }

    private void Count(long bytes)
    {
        if (!_counts) return;
        var alive = Interlocked.Add(ref _aliveBytes, bytes);
        for (var peak = PeakBytes; alive > peak; peak = PeakBytes)
            if (Interlocked.CompareExchange(ref _peakBytes, alive, peak) == peak) return;
    }

    /// <summary>Gives it another address on its device; 0: none for now.</summary>
    protected void MoveTo(nint address)
    {
        _holds = address != 0;
        if (_holds) SetHandle(address);
    }

    /// <summary>Why there is no memory at the address.</summary>
    protected virtual string Absence => "a shape without memory has no values";

    private Exception NoAddress() => IsClosed
        ? new ObjectDisposedException(nameof(Tensor), "the tensor's memory has been freed")
        : new InvalidOperationException($"[Tensor] {Absence}");

    protected abstract void Free(nint pointer);
}

/// <summary>
/// Host memory of our own, aligned to a cache line so that vector loads of a row start aligned. A large buffer is memory of the system's own, in huge pages
/// where there are (<see cref="HostPages"/>): every expert's matrix spans a thousand ordinary pages, more than a core keeps addresses of.
/// </summary>
public sealed unsafe class HostBuffer : Buffer
{
    private const int Alignment = 64;
    private readonly bool _isMapped;

    private HostBuffer(nint pointer, long byteLength, bool isMapped)
        : base(pointer, byteLength, Device.Cpu) => _isMapped = isMapped;

    /// <summary>Uninitialised memory; at least one byte, so that empty tensors have an address.</summary>
    public static HostBuffer Allocate(long byteLength)
    {
        if (byteLength >= HostPages.Large && HostPages.Map(byteLength, reuse: true) is not 0 and var mapped) return new HostBuffer(mapped, byteLength, true);
        return new HostBuffer((nint)NativeMemory.AlignedAlloc((nuint)Math.Max(byteLength, 1), Alignment), byteLength, false);
    }

    protected override void Free(nint pointer)
    {
        if (_isMapped) HostPages.Unmap(pointer, ByteLength, reuse: true);
        else NativeMemory.AlignedFree((void*)pointer);
    }
}

/// <summary>Memory that somebody else frees.</summary>
internal sealed class LentBuffer(nint pointer, long byteLength) : Buffer(pointer, byteLength, Device.Cpu)
{
    protected override void Free(nint pointer)
    {
    }
}

/// <summary>
/// Bytes that are made where they are wanted (<see cref="Buffer.Bring"/>), without memory of their own: a model's made-up weights go to their home at once.
/// </summary>
/// <param name="make">Writes all of them to an address.</param>
internal sealed class UnmadeBuffer(long byteLength, Action<nint> make) : Buffer(1, byteLength, Device.Cpu, holds: false)
{
    internal override void Bring(long offset, nint target, long bytes)
    {
        if (offset != 0 || bytes != ByteLength)
            throw new NotSupportedException($"[UnmadeBuffer] bytes are made {ByteLength} at a time, not {bytes} from {offset} on");
        make(target);
    }

    protected override void Free(nint pointer)
    {
    }
}

/// <summary>No memory at all, for shapes that nobody computes with. What it would take is counted on the thread that asks.</summary>
public sealed class MetaBuffer : Buffer
{
    private const nint NoAddressAtAll = 1; // 0 would be an invalid handle

    [ThreadStatic] private static long _alive;
    [ThreadStatic] private static long _peak;

    public MetaBuffer(long byteLength)
        : base(NoAddressAtAll, byteLength, Device.Meta, holds: false) => Touch(0, _alive += byteLength);

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
