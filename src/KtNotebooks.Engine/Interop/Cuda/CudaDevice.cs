using System.Collections.Concurrent;
using System.Runtime.InteropServices;

using static KtNotebooks.Interop.Cuda.Driver;

namespace KtNotebooks.Interop.Cuda;

/// <summary>
/// One card: its primary context, a compute stream on which all ops run in order, a copy stream beside it, and the memory pool. Cards are numbered as the
/// driver numbers them (CUDA_VISIBLE_DEVICES applies); several may be used in one process and from any thread.
/// </summary>
public sealed unsafe class CudaDevice
{
    private const int ComputeCapabilityMajor = 75, ComputeCapabilityMinor = 76, MultiprocessorCount = 16;

    /// <summary>Oldest card with BF16 matrix instructions (Ampere).</summary>
    private const int MinArchitecture = 80;

    private const int StagingBytes = 1 << 16;

    /// <summary>A pinned block of a large copy from pageable memory; several are under way.</summary>
    private const long StagedBytes = 8 << 20;

    private static readonly Lock Gate = new();
    private static readonly Lazy<(int Count, int DriverVersion, string? Missing)> Start = new(Probe);
    private static CudaDevice?[] _devices = [];

    [ThreadStatic] private static nint _current;

    /// <summary>What this thread records instead of queueing it; null: nothing.</summary>
    [ThreadStatic] private static CudaRecording? _recording;

    private readonly nint _context;
    private readonly Lock _stagingGate = new();
    private long _bytesAhead;
    private readonly ConcurrentDictionary<int, bool> _reached = new();

    private CudaDevice(int index)
    {
        Index = index;
        int device, major, minor, multiprocessors;
        nint context;
        nuint bytes;
        cuDeviceGet(&device, index).Ok();
        cuDeviceGetAttribute(&major, ComputeCapabilityMajor, device).Ok();
        cuDeviceGetAttribute(&minor, ComputeCapabilityMinor, device).Ok();
        cuDeviceGetAttribute(&multiprocessors, MultiprocessorCount, device).Ok();
        cuDeviceTotalMem_v2(&bytes, device).Ok();
        var name = stackalloc byte[256];
        cuDeviceGetName(name, 256, device).Ok();
        (Name, Architecture, Multiprocessors, TotalBytes) = (Marshal.PtrToStringUTF8((nint)name) ?? "", (major * 10) + minor, multiprocessors, (long)bytes);
        if (Architecture < MinArchitecture)
            throw new NotSupportedException($"cuda:{index} ({Name}) has compute capability {major}.{minor}; needed is {MinArchitecture / 10}."
                + $"{MinArchitecture % 10} or newer");
        CudaLibraries.Load(CudaLibraries.Nvrtc, DriverMajor);
        CudaLibraries.Load(CudaLibraries.CublasLt, DriverMajor);
        // The primary context is shared with other CUDA users of the process and lives until it ends: nothing here outlasts it, so it is never released.
        cuDevicePrimaryCtxRetain(&context, device).Ok();
        _context = context;
        OwnCompute = new CudaStream(this);
        Copies = new CudaStream(this);
        Saves = new CudaStream(this);
        OwnPool = new CudaPool(this);
        Staging = new PinnedMemory(this, StagingBytes);
        Few = new SmallCopies(this);
    }

    /// <summary>Why no card can be used here, or null. Asks the driver once.</summary>
    public static string? Missing => Start.Value.Missing;

    /// <summary>Number of cards; 0 where <see cref="Missing"/> says why.</summary>
    public static int Count => Start.Value.Count;

    /// <summary>The CUDA version that the driver supports, as 1000 · major + 10 · minor.</summary>
    public static int DriverVersion => Start.Value.DriverVersion;

    /// <summary>The CUDA libraries in use and where they were found.</summary>
    public static IReadOnlyDictionary<string, string> LoadedLibraries => NativeLibraries.LoadedPaths;

    internal static int DriverMajor => DriverVersion / 1000;

    public int Index { get; }

    public string Name { get; }

    /// <summary>Compute capability as 10 · major + minor: 90 is Hopper.</summary>
    public int Architecture { get; }

    public int Multiprocessors { get; }

    public long TotalBytes { get; }

    /// <summary>Where kernels run and where copies that they depend on are queued. For a thread that records (<see cref="CudaGraph"/>), its own.</summary>
    public CudaStream Compute => Recording is { } r ? r.Stream : OwnCompute;

    /// <summary>Copies that overlap with kernels; tie the two together with events.</summary>
    public CudaStream Copies { get; }

    /// <summary>Activations on their way to host memory and back: the other direction of the bus than weights, mostly.</summary>
    public CudaStream Saves { get; }

    public CudaPool Pool => Recording is { } r ? r.Pool : OwnPool;

    private CudaStream OwnCompute { get; }

    private CudaPool OwnPool { get; }

    private CudaRecording? Recording => _recording is { } r && r.Device == this ? r : null;

    private PinnedMemory Staging { get; }

    private SmallCopies Few { get; }

    /// <summary>What may still be taken: the pool's limit less what is in use, and no more than the driver has.</summary>
    public long Room => Math.Min(FreeBytes, Pool.Limit - Pool.UsedBytes);

    /// <summary>Bytes free on the card, whoever uses the rest.</summary>
    public long FreeBytes
    {
        get
        {
            Use();
            nuint free, total;
            cuMemGetInfo_v2(&free, &total).Ok();
            return (long)free;
        }
    }

    /// <exception cref="NotSupportedException">There is no such card, or no driver: the text says what is missing.</exception>
    public static CudaDevice Get(int index)
    {
        var devices = Volatile.Read(ref _devices);
        if ((uint)index < (uint)devices.Length && devices[index] is { } known) return known;
        if (Missing is { } missing) throw new NotSupportedException($"cuda:{index} cannot be used: {missing}");
        if ((uint)index >= (uint)Count) throw new NotSupportedException($"cuda:{index} cannot be used: the driver shows {Count} card(s), numbered from 0");
        lock (Gate)
        {
            if (_devices.Length == 0) Volatile.Write(ref _devices, new CudaDevice?[Count]);
            return _devices[index] ??= new CudaDevice(index);
        }
    }

    /// <summary>Found by <see cref="FindLost"/>: there is no work to wait for any more, so that whoever tidies up after it can.</summary>
    public bool IsLost { get; private set; }

    /// <summary>
    /// After a call that failed: a card in use that answers nothing any more, or null. The driver keeps such an error for good, so the card is asked again.
    /// </summary>
    public static CudaDevice? FindLost()
    {
        foreach (var device in Volatile.Read(ref _devices))
        {
            if (device is null) continue;
            nuint free, total;
            device.IsLost |= cuCtxSetCurrent(device._context) != CuResult.Success
                || (cuStreamSynchronize(device.Compute.Pointer) != CuResult.Success && cuMemGetInfo_v2(&free, &total) != CuResult.Success);
            _current = device._context;
            if (device.IsLost) return device;
        }
        return null;
    }

    /// <summary>Waits for all that is queued on cards in use, as far as they answer; this thread's card may be another one afterwards.</summary>
    internal static void SettleAll()
    {
        foreach (var device in Volatile.Read(ref _devices))
        {
            if (device is null || device.IsLost || cuCtxSetCurrent(device._context) != CuResult.Success) continue;
            _current = device._context;
            foreach (var stream in (CudaStream[])[device.Copies, device.OwnCompute, device.Saves]) _ = cuStreamSynchronize(stream.Pointer);
        }
    }

    /// <summary>
    /// Work that this thread queues on this card until the returned object is disposed goes to another stream, and memory comes from another pool.
    /// </summary>
    internal static IDisposable Record(CudaRecording recording)
    {
        if (_recording is not null) throw new InvalidOperationException("[CudaGraph] this thread records already");
        _recording = recording;
        return recording;
    }

    internal static void EndRecording() => _recording = null;

    /// <exception cref="NotRecordableException">This thread records: what is asked for happens once and not at every replay, or would have to wait.</exception>
    internal void RefuseInRecording(string what)
    {
        if (Recording is not null) throw new NotRecordableException(what);
    }

    /// <summary>Whether this thread records work of this card.</summary>
    internal bool IsRecording => Recording is not null;

    /// <summary>
    /// Code on the host as a part of what is being recorded, between what was recorded before and what comes after; the graph disposes what it needs with
    /// itself.
    /// </summary>
    internal void RecordHostWork(Action work, params ReadOnlySpan<IDisposable> needs)
    {
        var recording = Recording ?? throw new InvalidOperationException("[CudaGraph] this thread does not record");
        recording.Kept.AddRange(needs);
        recording.Cut(work);
    }

    /// <summary>Makes this card the calling thread's; a comparison where it is already.</summary>
    internal void Use()
    {
        if (_current == _context) return;
        cuCtxSetCurrent(_context).Ok();
        _current = _context;
    }

    /// <summary>
    /// Host to card, in the compute stream's order. Returns when the source may change, without waiting for the card: what ops send along (positions,
    /// targets, tiles, token ids) is fetched by a kernel (<see cref="SmallCopies"/>), anything larger goes through pinned blocks, filled by several threads.
    /// </summary>
    internal void Write(nint target, void* source, long bytes)
    {
        RefuseInRecording("a copy from host memory");
        if (bytes == 0) return;
        Use();
        if (bytes <= SmallCopies.Most) Few.ToCard(target, source, bytes);
        else
            for (long at = 0; at < bytes; at += StagedBytes) WriteStaged((nint)(target + at), (nint)source + (nint)at, Math.Min(StagedBytes, bytes - at));
    }

    private void WriteStaged(nint target, nint source, long bytes)
    {
        const long Part = 1 << 20;
        var block = PinnedPool.Take(this, StagedBytes);
        CpuLoop.For((bytes + Part - 1) / Part, part =>
            System.Buffer.MemoryCopy((byte*)source + (part * Part), (byte*)block.Pointer + (part * Part), Part, Math.Min(Part, bytes - (part * Part))));
        Use();
        cuMemcpyHtoDAsync_v2(target, (void*)block.Pointer, (nuint)bytes, Compute.Pointer).Ok();
        var copied = new CudaEvent(this);
        copied.Record(Compute);
        PinnedPool.Return(block, copied);
    }

    /// <summary>Card to host; waits for the compute stream, because somebody is about to read the values. Small reads pass through pinned memory.</summary>
    internal void Read(void* target, nint source, long bytes)
    {
        if (bytes == 0) return;
        RefuseInRecording("a copy to host memory");
        Use();
        if (bytes > StagingBytes)
        {
            cuMemcpyDtoHAsync_v2(target, source, (nuint)bytes, Compute.Pointer).Ok();
            cuStreamSynchronize(Compute.Pointer).Ok();
            return;
        }
        lock (_stagingGate)
        {
            Few.Copy(Staging.Pointer, source, bytes);
            cuStreamSynchronize(Compute.Pointer).Ok();
            System.Buffer.MemoryCopy((void*)Staging.Pointer, target, bytes, bytes);
        }
    }

    /// <summary>Several reads, which wait once where all together are small.</summary>
    internal void Read(ReadOnlySpan<(nint Target, nint Source, long Bytes)> pieces)
    {
        const long Line = 64;
        long all = 0;
        foreach (var (_, _, bytes) in pieces) all += (bytes + Line - 1) / Line * Line;
        if (all > StagingBytes)
        {
            foreach (var (target, source, bytes) in pieces) Read((void*)target, source, bytes);
            return;
        }
        RefuseInRecording("a copy to host memory");
        Use();
        lock (_stagingGate)
        {
            var at = (byte*)Staging.Pointer;
            foreach (var (_, source, bytes) in pieces)
            {
                if (bytes > 0) Few.Copy((nint)at, source, bytes);
                at += (bytes + Line - 1) / Line * Line;
            }
            cuStreamSynchronize(Compute.Pointer).Ok();
            at = (byte*)Staging.Pointer;
            foreach (var (target, _, bytes) in pieces)
            {
                System.Buffer.MemoryCopy(at, (void*)target, bytes, bytes);
                at += (bytes + Line - 1) / Line * Line;
            }
        }
    }

    /// <summary>Card to pinned host memory, behind the card's work; who reads there waits for the compute stream first.</summary>
    /// <param name="target">Where to.</param>
    /// <param name="source">On the card.</param>
    /// <param name="bytes">How many.</param>
    internal void QueueRead(nint target, nint source, long bytes)
    {
        RefuseInRecording("a copy to host memory");
        Use();
        cuMemcpyDtoHAsync_v2((void*)target, source, (nuint)bytes, Compute.Pointer).Ok();
    }

    /// <summary>Bytes that streams of experts may have queued on <see cref="Copies"/> at a time: their slots.</summary>
    internal long BytesAhead
    {
        get => Interlocked.Read(ref _bytesAhead);
        set => Interlocked.Exchange(ref _bytesAhead, value);
    }

    /// <summary>
    /// Pinned host memory to card beside the kernels: tie both ends to the compute stream with events. In pieces by a copy engine, which takes commands of all
    /// streams in turn. On another stream than <see cref="Copies"/> by a kernel where more is queued there than a layer should wait for: its low-rank pairs,
    /// its matrices and inputs that come back would stand behind gigabytes of experts. Behind less the engine wins, which takes no multiprocessors
    /// (V2-Lite in INT4 with 1.1 GB of slots 442 ms a step, by a kernel 489; 13 layers of DeepSeek-V3 with 9.4 GB 1,781 and 1,594).
    /// </summary>
    internal void Fetch(nint target, nint source, long bytes, CudaStream? copies = null)
    {
        if (bytes == 0) return;
        RefuseInRecording("a copy over the bus");
        Use();
        if (copies is not null && copies != Copies && BytesAhead > EngineBytes && (target | source) % 16 == 0)
        {
            Few.Fetch(copies, target, source, bytes);
            return;
        }
        for (long at = 0; at < bytes; at += FetchBytes)
            cuMemcpyHtoDAsync_v2(target + (nint)at, (void*)(source + (nint)at), (nuint)Math.Min(FetchBytes, bytes - at), (copies ?? Copies).Pointer).Ok();
    }

    private const long FetchBytes = 32L << 20, EngineBytes = 2L << 30;

    /// <summary>Card to pinned host memory on the stream of saved activations; tie both ends with events.</summary>
    internal void Save(nint target, nint source, long bytes)
    {
        if (bytes == 0) return;
        RefuseInRecording("a copy over the bus");
        Use();
        cuMemcpyDtoHAsync_v2((void*)target, source, (nuint)bytes, Saves.Pointer).Ok();
    }

    /// <summary>The way back, on the same stream.</summary>
    internal void Restore(nint target, nint source, long bytes)
    {
        if (bytes == 0) return;
        Fetch(target, source, bytes, Saves);
    }

    /// <summary>
    /// Between the card and pinned memory, in order, also where that is recorded: few bytes by a kernel, which begins sooner than a copy engine does.
    /// </summary>
    internal void CopyPinned(nint target, nint source, long bytes)
    {
        if (bytes is > 0 and <= SmallCopies.Most) Few.Copy(target, source, bytes);
        else Copy(target, source, bytes);
    }

    /// <summary>On this card, in order.</summary>
    internal void Copy(nint target, nint source, long bytes)
    {
        if (bytes == 0) return;
        Use();
        cuMemcpyAsync(target, source, (nuint)bytes, Compute.Pointer).Ok();
    }

    /// <summary>
    /// From another card: this card's stream waits for what the other has queued, and the other's stream for the copy, before its memory may be used again.
    /// </summary>
    internal void CopyFrom(CudaDevice other, nint target, nint source, long bytes)
    {
        if (bytes == 0) return;
        RefuseInRecording("a copy from another card");
        other.RefuseInRecording("a copy to another card");
        using var written = new CudaEvent(other);
        written.Record(other.Compute);
        using var read = CopyFrom(other, written, target, source, bytes);
        other.Compute.Wait(read);
    }

    /// <summary>The same after a mark of the other's, which goes on meanwhile: the memory there may be used again after the mark that is returned.</summary>
    internal CudaEvent CopyFrom(CudaDevice other, CudaEvent written, nint target, nint source, long bytes)
    {
        Reach(other);
        Compute.Wait(written);
        Copy(target, source, bytes);
        var read = new CudaEvent(this);
        read.Record(Compute);
        return read;
    }

    /// <summary>
    /// Lets this card read the other's memory directly (NVLink, or PCIe where the machine allows it); where it may not, the driver takes copies through
    /// host memory.
    /// </summary>
    private void Reach(CudaDevice other) => _reached.GetOrAdd(other.Index, static (peer, pair) =>
    {
        int can;
        cuDeviceCanAccessPeer(&can, pair.Here.Index, peer).Ok();
        if (can == 0) return false;
        pair.Here.Use();
        var status = cuCtxEnablePeerAccess(pair.There._context, 0);
        if (status != CuResult.PeerAccessAlreadyEnabled) status.Ok(nameof(cuCtxEnablePeerAccess));
        return true;
    }, (Here: this, There: other));

    internal void Clear(nint target, long bytes)
    {
        if (bytes == 0) return;
        Use();
        cuMemsetD8Async(target, 0, (nuint)bytes, Compute.Pointer).Ok();
    }

    public override string ToString() => $"cuda:{Index} ({Name}, {TotalBytes / 1e9:0} GB, sm_{Architecture})";

    private static (int Count, int DriverVersion, string? Missing) Probe()
    {
        try
        {
            CudaLibraries.Load(CudaLibraries.Driver);
            int version, count;
            var status = cuInit(0);
            if (status == CuResult.NoDevice) return (0, 0, "the NVIDIA driver finds no card");
            status.Ok("cuInit");
            cuDriverGetVersion(&version).Ok();
            cuDeviceGetCount(&count).Ok();
            return count == 0 ? (0, version, "the NVIDIA driver finds no card") : (count, version, null);
        }
        catch (Exception e) when (e is FileNotFoundException or KtNativeException)
        {
            return (0, 0, e.Message);
        }
    }
}
