using static KtNotebooks.Interop.Cuda.Driver;

namespace KtNotebooks.Interop.Cuda;

/// <summary>
/// Memory of one card, in the order of its compute stream: a freed block may be given out at once, because whatever uses it next is queued behind what used
/// it last. Work of another stream on a block must be tied to the compute stream by events before the block is freed. The driver is asked for segments,
/// which are kept; a request takes the smallest free stretch that holds it, and what is freed joins its free neighbours, so that sizes that change from
/// step to step (rows of an expert) do not pile up and a training step asks the driver for nothing.
/// </summary>
public sealed unsafe class CudaPool
{
    private const long Granule = 512, SegmentGranule = 2 << 20;

    /// <summary>Requests below this share segments of their own, so that long-lived small ones do not cut large segments to pieces.</summary>
    private const long Small = 1 << 20, LeastSegment = 16 << 20;

    private readonly CudaDevice _device;
    private readonly Lock _gate = new();
    private readonly Dictionary<nint, Block> _used = [];
    private readonly SortedSet<Block> _freeSmall = new(Block.BySize), _freeLarge = new(Block.BySize);

    internal CudaPool(CudaDevice device) => _device = device;

    /// <summary>`gpu_memory_limit`: bytes that this pool may hold on the card, in use and cached.</summary>
    public long Limit { get; set; } = long.MaxValue;

    /// <summary>Bytes given out, rounded up.</summary>
    public long UsedBytes { get; private set; }

    /// <summary>Bytes held from the driver: in use and cached.</summary>
    public long HeldBytes { get; private set; }

    /// <summary>The largest <see cref="HeldBytes"/> so far.</summary>
    public long PeakBytes { get; private set; }

    /// <summary>The largest <see cref="UsedBytes"/> since <see cref="ResetPeakUsed"/>: what a plan predicts, without what is cached.</summary>
    public long PeakUsedBytes { get; private set; }

    /// <summary>How often the driver was asked for memory; stands still in steady state.</summary>
    public long DriverAllocations { get; private set; }

    /// <summary>At least <paramref name="bytes"/> bytes, aligned to 512 and with any content.</summary>
    /// <exception cref="InsufficientMemoryException">The limit or the card is full even after the cached segments were given back.</exception>
    public nint Allocate(long bytes)
    {
        var size = RoundUp(Math.Max(bytes, 1), Granule);
        while (true)
        {
            lock (_gate)
                if ((Fitting(size) ?? FromDriver(size)) is { } block) return Give(block, size);
            if (GiveUp?.Invoke() != true) throw Full(size);
        }
    }

    /// <summary>Asked when there is no room: frees something that can be made again, or says that there is nothing (false).</summary>
    internal Func<bool>? GiveUp { get; set; }

    /// <summary>Takes back what <see cref="Allocate"/> gave. Never touches the driver: finalizers call this too.</summary>
    public void Free(nint pointer)
    {
        lock (_gate)
        {
            _used.Remove(pointer, out var block);
            UsedBytes -= block!.Size;
            var free = block.IsSmall ? _freeSmall : _freeLarge;
            block.IsFree = true;
            if (block.After is { IsFree: true } after)
            {
                free.Remove(after);
                block.Join();
            }
            if (block.Before is { IsFree: true } before)
            {
                free.Remove(before);
                before.Join();
                block = before;
            }
            free.Add(block);
        }
    }

    /// <summary>Gives all segments without a used block back to the driver, which waits for the card's work.</summary>
    public void Trim()
    {
        _device.Use();
        lock (_gate)
            foreach (var free in (SortedSet<Block>[])[_freeSmall, _freeLarge])
                foreach (var segment in free.Where(b => b.Before is null && b.After is null).ToArray())
                {
                    free.Remove(segment);
                    cuMemFree_v2(segment.Address).Ok();
                    HeldBytes -= segment.Size;
                }
    }

    internal void ResetPeakUsed()
    {
        lock (_gate) PeakUsedBytes = UsedBytes;
    }

    private static long RoundUp(long bytes, long granule) => (bytes + granule - 1) / granule * granule;

    private SortedSet<Block> FreeOf(long size) => size < Small ? _freeSmall : _freeLarge;

    /// <summary>The smallest free stretch that holds so many bytes.</summary>
    private Block? Fitting(long size) => FreeOf(size).GetViewBetween(Block.Key(size), Block.Key(long.MaxValue)).Min;

    private nint Give(Block block, long size)
    {
        var free = FreeOf(size);
        free.Remove(block);
        if (block.Split(size, Granule) is { } rest) free.Add(rest);
        block.IsFree = false;
        _used.Add(block.Address, block);
        UsedBytes += block.Size;
        PeakUsedBytes = Math.Max(PeakUsedBytes, UsedBytes);
        return block.Address;
    }

    /// <summary>A new segment, all of it free; null: limit or card are full.</summary>
    private Block? FromDriver(long size)
    {
        var segment = size < Small ? SegmentGranule : RoundUp(Math.Max(size, LeastSegment), SegmentGranule);
        _device.Use();
        if (HeldBytes + segment > Limit) Trim();
        if (HeldBytes + segment > Limit) segment = size;
        if (HeldBytes + segment > Limit) return null;
        nint pointer;
        var status = cuMemAlloc_v2(&pointer, (nuint)segment);
        if (status == CuResult.OutOfMemory)
        {
            Trim();
            segment = size;
            status = cuMemAlloc_v2(&pointer, (nuint)segment);
        }
        if (status == CuResult.OutOfMemory) return null;
        status.Ok("cuMemAlloc_v2");
        DriverAllocations++;
        HeldBytes += segment;
        PeakBytes = Math.Max(PeakBytes, HeldBytes);
        return new Block(pointer, segment, size < Small);
    }

    private InsufficientMemoryException Full(long size)
    {
        var limit = Limit == long.MaxValue ? "not set" : Text(Limit);
        return new InsufficientMemoryException($"cuda:{_device.Index} has no room for {Text(size)}: {Text(_device.FreeBytes)} of "
            + $"{Text(_device.TotalBytes)} are free on the card, " +
            $"{Text(UsedBytes)} are in use here, gpu_memory_limit is {limit}. Less is needed with a smaller chunk_size or cutoff_len, saved_inputs_limit: "
                + "1GB, optimizer_state: host, expert_lora: host or experts: streamed");
    }

    private static string Text(long bytes) => bytes switch
    {
        >= 1L << 30 => $"{bytes / (double)(1L << 30):0.##} GiB",
        >= 1L << 20 => $"{bytes / (double)(1L << 20):0.##} MiB",
        _ => $"{bytes / 1024.0:0.##} KiB",
    };

    /// <summary>A stretch of a segment; its neighbours lie right before and behind it.</summary>
    private sealed class Block(nint address, long size, bool isSmall)
    {
        public static IComparer<Block> BySize { get; } = Comparer<Block>.Create((a, b) =>
            a.Size != b.Size ? a.Size.CompareTo(b.Size) : a.Address.CompareTo(b.Address));

        public nint Address { get; } = address;

        public long Size { get; private set; } = size;

        public bool IsSmall { get; } = isSmall;

        public bool IsFree { get; set; } = true;

        public Block? Before { get; private set; }

        public Block? After { get; private set; }

        /// <summary>For looking up: below every block of at least this size.</summary>
        public static Block Key(long size) => new(size == long.MaxValue ? nint.MaxValue : 0, size, false);

        /// <summary>Keeps the first bytes; what is behind them becomes a block of its own, which is returned.</summary>
        public Block? Split(long bytes, long least)
        {
            if (Size - bytes < least) return null;
            var rest = new Block(Address + (nint)bytes, Size - bytes, IsSmall) { Before = this, After = After };
            if (After is { } after) after.Before = rest;
            (After, Size) = (rest, bytes);
            return rest;
        }

        /// <summary>Takes the block behind in.</summary>
        public void Join()
        {
            var gone = After!;
            (Size, After) = (Size + gone.Size, gone.After);
            if (After is { } after) after.Before = this;
        }
    }
}
