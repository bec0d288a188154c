using System.Numerics;

using static KtNotebooks.Interop.Cuda.Driver;

namespace KtNotebooks.Interop.Cuda;

/// <summary>
/// Memory of one card, in the order of its compute stream: a freed block may be given out at once, because whatever uses it next is queued behind what used it last. Work of another
/// stream on a block must be tied to the compute stream by events before the block is freed. Freed blocks are kept by size class, so that a training step asks the driver for nothing.
/// </summary>
public sealed unsafe class CudaPool
{
    private const long Granule = 512;

    private readonly CudaDevice _device;
    private readonly Lock _gate = new();
    private readonly Dictionary<long, Stack<nint>> _free = [];

    internal CudaPool(CudaDevice device) => _device = device;

    /// <summary>`gpu_memory_limit`: bytes that this pool may hold on the card, in use and cached.</summary>
    public long Limit { get; set; } = long.MaxValue;

    /// <summary>Bytes given out, rounded up to their size class.</summary>
    public long UsedBytes { get; private set; }

    /// <summary>Bytes held from the driver: in use and cached.</summary>
    public long HeldBytes { get; private set; }

    /// <summary>The largest <see cref="HeldBytes"/> so far.</summary>
    public long PeakBytes { get; private set; }

    /// <summary>How often the driver was asked for memory; stands still in steady state.</summary>
    public long DriverAllocations { get; private set; }

    /// <summary>Bytes that a request really takes: a multiple of 512, eight classes to each doubling, so at most an eighth is wasted.</summary>
    public static long SizeClass(long bytes)
    {
        if (bytes <= Granule) return Granule;
        var step = Math.Max(Granule, 1L << (BitOperations.Log2((ulong)(bytes - 1)) - 3));
        return (bytes + step - 1) / step * step;
    }

    /// <summary>At least <paramref name="bytes"/> bytes, aligned to 512 and with any content.</summary>
    /// <exception cref="InsufficientMemoryException">The limit or the card is full even after the cached blocks were given back.</exception>
    public nint Allocate(long bytes)
    {
        var size = SizeClass(bytes);
        lock (_gate)
        {
            if (!_free.TryGetValue(size, out var blocks) || !blocks.TryPop(out var pointer)) pointer = FromDriver(size);
            UsedBytes += size;
            return pointer;
        }
    }

    /// <summary>Takes back a block of <see cref="Allocate"/>, with the same number of bytes. Never touches the driver: finalizers call this too.</summary>
    public void Free(nint pointer, long bytes)
    {
        var size = SizeClass(bytes);
        lock (_gate)
        {
            if (!_free.TryGetValue(size, out var blocks)) _free[size] = blocks = new Stack<nint>();
            blocks.Push(pointer);
            UsedBytes -= size;
        }
    }

    /// <summary>Gives all cached blocks back to the driver, which waits for the card's work.</summary>
    public void Trim()
    {
        _device.Use();
        lock (_gate)
            foreach (var (size, blocks) in _free)
                while (blocks.TryPop(out var pointer))
                {
                    cuMemFree_v2(pointer).Ok();
                    HeldBytes -= size;
                }
    }

    private nint FromDriver(long size)
    {
        _device.Use();
        if (HeldBytes + size > Limit) Trim();
        if (HeldBytes + size > Limit) throw Full(size);
        nint pointer;
        var status = cuMemAlloc_v2(&pointer, (nuint)size);
        if (status == CuResult.OutOfMemory)
        {
            Trim();
            status = cuMemAlloc_v2(&pointer, (nuint)size);
        }
        if (status == CuResult.OutOfMemory) throw Full(size);
        status.Ok("cuMemAlloc_v2");
        DriverAllocations++;
        HeldBytes += size;
        PeakBytes = Math.Max(PeakBytes, HeldBytes);
        return pointer;
    }

    private InsufficientMemoryException Full(long size)
    {
        var limit = Limit == long.MaxValue ? "not set" : Text(Limit);
        return new InsufficientMemoryException($"cuda:{_device.Index} has no room for {Text(size)}: {Text(_device.FreeBytes)} of {Text(_device.TotalBytes)} are free on the card, " +
            $"{Text(UsedBytes)} are in use here, gpu_memory_limit is {limit}; a smaller chunk_size needs less");
    }

    private static string Text(long bytes) => bytes switch
    {
        >= 1L << 30 => $"{bytes / (double)(1L << 30):0.##} GiB",
        >= 1L << 20 => $"{bytes / (double)(1L << 20):0.##} MiB",
        _ => $"{bytes / 1024.0:0.##} KiB",
    };
}
