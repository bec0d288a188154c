using System.Collections.Concurrent;
using System.Runtime.InteropServices;

using KtNotebooks.Interop.Cuda;
using KtNotebooks.Weights;

namespace KtNotebooks.Experts;

/// <summary>
/// The way of experts from the disk to one card: a ring of pinned blocks and a few threads that read. Each reads a stretch of a shard into a free block and
/// queues the copies of its pieces to their places in a slot; the CPU copies nothing (but scales that were widened). Readers run ahead as far as there are
/// free blocks, in the order in which groups were asked for.
/// </summary>
internal sealed unsafe class DiskRing : IDisposable
{
    /// <summary>Most bytes of a read: long enough for any disk's full rate, short enough that many are under way.</summary>
    private const int Block = 8 << 20;

    /// <summary>Reads under way at once, and blocks: while some are filled the others are copied from.</summary>
    private const int Readers = 16, Blocks = 32;

    private readonly int _block;

    /// <summary>What reads that do not end may still write to.</summary>
    private static readonly List<PinnedMemory> Stuck = [];

    private readonly CudaDevice _card;
    private readonly Func<SafetensorsFile, IShardReader> _open;
    private readonly PinnedMemory _memory;
    private readonly BlockingCollection<Place> _free = [];
    private readonly Dictionary<SafetensorsFile, IShardReader> _files = [];
    private readonly LinkedList<DiskTransfer> _asked = [];
    private readonly object _gate = new();
    private readonly Thread[] _readers;
    private bool _stopped;
    private long _readBytes;

    /// <param name="card">Whose slots are filled.</param>
    /// <param name="open">Opens a shard; null: <see cref="DirectFile"/>.</param>
    /// <param name="blocks">How many.</param>
    /// <param name="readers">Threads.</param>
    /// <param name="block">Bytes of a block, a multiple of <see cref="DirectFile.Alignment"/>.</param>
    public DiskRing(CudaDevice card, Func<SafetensorsFile, IShardReader>? open = null, int blocks = Blocks, int readers = Readers, int block = Block)
    {
        (_card, _open, _block) = (card, open ?? (file => new DirectFile(file)), block);
        _memory = new PinnedMemory(card, (long)blocks * block);
        for (var b = 0; b < blocks; b++) _free.Add(new Place(_memory.Pointer + (b * (nint)block), new CudaEvent(card)));
        _readers = [.. Enumerable.Range(0, readers).Select(r => new Thread(Loop) { IsBackground = true, Name = $"expert reader {r} of cuda:{card.Index}" })];
        foreach (var reader in _readers) reader.Start();
    }

    /// <summary>Host memory of one card's ring.</summary>
    public const long Bytes = (long)Blocks * Block;

    /// <summary>Bytes read from the disk so far.</summary>
    public long ReadBytes => Interlocked.Read(ref _readBytes);

    /// <summary>How long the end of a run waits for a disk that does not answer, before it leaves that read and its memory alone.</summary>
    internal TimeSpan Patience { get; init; } = TimeSpan.FromSeconds(5);

    /// <summary>Told the events around the copies of each read, when they are wanted.</summary>
    public Action<CudaEvent, CudaEvent>? Timed { get; set; }

    /// <summary>Brings a group into a slot.</summary>
    /// <param name="slot">Its address.</param>
    /// <param name="free">After which it may be written; one that was never recorded: at once.</param>
    /// <param name="ready">Recorded behind the last copy.</param>
    public DiskTransfer Start(DiskBank bank, ExpertGroup group, nint slot, CudaEvent free, CudaEvent ready)
    {
        var transfer = new DiskTransfer(bank.Reads(group, _block), slot, free, ready);
        lock (_gate)
        {
            _asked.AddLast(transfer);
            Monitor.PulseAll(_gate);
        }
        return transfer;
    }

    /// <summary>Gives up whatever has not come. False: a read does not end.</summary>
    public bool Abandon()
    {
        DiskTransfer[] all;
        lock (_gate)
        {
            all = [.. _asked];
            _asked.Clear();
        }
        return all.Aggregate(true, (answers, transfer) => transfer.Abandon(Patience) && answers);
    }

    public void Dispose()
    {
        lock (_gate)
        {
            _stopped = true;
            Monitor.PulseAll(_gate);
        }
        var answers = Abandon();
        // A thread in a read that does not end keeps the memory that it reads into; it ends with the process.
        foreach (var reader in _readers) answers &= reader.Join(answers ? Patience : TimeSpan.Zero);
        if (!answers)
        {
            lock (Stuck) Stuck.Add(_memory);
            return;
        }
        _card.Copies.Synchronize();
        foreach (var block in _free) block.Copied.Dispose();
        foreach (var file in _files.Values) file.Dispose();
        _memory.Dispose();
        _free.Dispose();
    }

    private void Loop()
    {
        while (Next() is var (transfer, read))
        {
            Exception? error = null;
            try
            {
                var block = _free.Take();
                try
                {
                    block.Copied.Synchronize(); // what was copied from it last
                    Fill(block, read);
                    transfer.Queue(_card, () => Copy(block, read, transfer.Slot));
                }
                finally
                {
                    _free.Add(block);
                }
            }
            catch (Exception e) // whoever waits for the group throws it
            {
                error = e;
            }
            transfer.Done(error);
        }
    }

    private (DiskTransfer, DiskRead)? Next()
    {
        lock (_gate)
        {
            while (!_stopped)
            {
                for (var at = _asked.First; at is not null;)
                {
                    var next = at.Next;
                    if (at.Value.Take() is { } read) return (at.Value, read);
                    if (at.Value.IsOver) _asked.Remove(at);
                    at = next;
                }
                Monitor.Wait(_gate);
            }
            return null;
        }
    }

    private void Fill(Place block, DiskRead read)
    {
        if (read.File is not { } file)
        {
            foreach (var part in read.Parts) NativeMemory.Copy((void*)part.Source, (void*)(block.Address + part.InBlock), (nuint)part.Bytes);
            return;
        }
        int got;
        try
        {
            file.RequireSame();
            got = Reader(file).Read(block.Address, read.At, (read.Bytes + DirectFile.Alignment - 1) / DirectFile.Alignment * DirectFile.Alignment);
        }
        catch (IOException error)
        {
            throw new IOException($"{file.Path}: {Where(read)}: {error.Message}; the run goes on from its last checkpoint with resume_from_checkpoint", error);
        }
        if (got < read.Bytes)
            throw new InvalidDataException($"{file.Path}: ended at byte {read.At + got} while {Where(read)} was read; leave a model's files alone while a run "
                + "reads them; the run goes on from its last checkpoint with resume_from_checkpoint");
        Interlocked.Add(ref _readBytes, read.Bytes);
    }

    private static string Where(DiskRead read) => $"tensor '{read.Parts[0].Name}', bytes {read.At} to {read.At + read.Bytes} of the file";

    private void Copy(Place block, DiskRead read, nint slot)
    {
        var from = Timed is null ? null : Mark();
        foreach (var part in read.Parts) _card.Fetch(slot + (nint)part.InSlot, block.Address + part.InBlock, part.Bytes);
        block.Copied.Record(_card.Copies);
        if (from is not null) Timed?.Invoke(from, Mark());
    }

    private CudaEvent Mark()
    {
        var mark = new CudaEvent(_card, timing: true);
        mark.Record(_card.Copies);
        return mark;
    }

    private IShardReader Reader(SafetensorsFile file)
    {
        lock (_files) return _files.TryGetValue(file, out var reader) ? reader : _files[file] = _open(file);
    }

    /// <param name="Copied">Behind the last copies from it.</param>
    private sealed record Place(nint Address, CudaEvent Copied);
}
