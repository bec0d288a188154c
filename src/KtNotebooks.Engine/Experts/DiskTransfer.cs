using System.Runtime.ExceptionServices;

using KtNotebooks.Interop.Cuda;

namespace KtNotebooks.Experts;

/// <summary>
/// A group of experts on its way from the disk into a slot. Readers take its reads one by one; the last one to queue its copies marks the slot as ready.
/// </summary>
internal sealed class DiskTransfer
{
    private readonly object _gate = new();
    private readonly Queue<DiskRead> _left;
    private readonly CudaEvent _free, _ready;
    private int _underWay, _unqueued;
    private bool _began, _abandoned;
    private Exception? _error;

    /// <param name="reads">At least one.</param>
    /// <param name="slot">Address that they go to.</param>
    /// <param name="free">After which it may be written; one that was never recorded: at once.</param>
    /// <param name="ready">Recorded behind the last copy.</param>
    public DiskTransfer(IEnumerable<DiskRead> reads, nint slot, CudaEvent free, CudaEvent ready)
    {
        (_left, Slot, _free, _ready) = (new Queue<DiskRead>(reads), slot, free, ready);
        _unqueued = _left.Count;
    }

    public nint Slot { get; }

    /// <summary>All copies are queued, or it failed or was given up: nobody works on it any more.</summary>
    public bool IsOver
    {
        get
        {
            lock (_gate) return _underWay == 0 && (_unqueued == 0 || _error is not null || _abandoned);
        }
    }

    public bool HasFailed
    {
        get
        {
            lock (_gate) return _error is not null || _abandoned;
        }
    }

    /// <summary>The next read; null: none is left for anybody.</summary>
    public DiskRead? Take()
    {
        lock (_gate)
        {
            if (_error is not null || _abandoned || !_left.TryDequeue(out var read)) return null;
            _underWay++;
            return read;
        }
    }

    /// <summary>A read is in its block: its copies are queued, one reader's at a time.</summary>
    public void Queue(CudaDevice card, Action copies)
    {
        lock (_gate)
        {
            if (_error is not null || _abandoned) return;
            if (!_began) card.Copies.Wait(_free);
            _began = true;
            copies();
            if (_unqueued == 1) _ready.Record(card.Copies);
            _unqueued--;
            Monitor.PulseAll(_gate);
        }
    }

    /// <summary>A read is done with.</summary>
    public void Done(Exception? error = null)
    {
        lock (_gate)
        {
            _error ??= error;
            _underWay--;
            Monitor.PulseAll(_gate);
        }
    }

    /// <summary>Blocks until all copies are queued.</summary>
    /// <exception cref="OperationCanceledException">Cancelled; the readers go on.</exception>
    public void Wait(CancellationToken cancel)
    {
        using var woken = cancel.Register(() =>
        {
            lock (_gate) Monitor.PulseAll(_gate);
        });
        lock (_gate)
        {
            while (_unqueued > 0 && _error is null && !_abandoned)
            {
                cancel.ThrowIfCancellationRequested();
                Monitor.Wait(_gate);
            }
            if (_error is not null) ExceptionDispatchInfo.Throw(_error);
            if (_abandoned) throw new OperationCanceledException("reading of experts was given up");
        }
    }

    /// <summary>Gives it up and waits for the reads under way; false: cancelled meanwhile.</summary>
    public bool Abandon(CancellationToken cancel)
    {
        while (!Abandon(TimeSpan.FromMilliseconds(100)))
            if (cancel.IsCancellationRequested) return false;
        return true;
    }

    /// <summary>The same for a while. False: a disk does not answer.</summary>
    public bool Abandon(TimeSpan patience)
    {
        var until = DateTime.UtcNow + patience;
        lock (_gate)
        {
            _abandoned |= _unqueued > 0;
            Monitor.PulseAll(_gate);
            while (_underWay > 0)
                if (until - DateTime.UtcNow is var left && (left <= TimeSpan.Zero || !Monitor.Wait(_gate, left))) return _underWay == 0;
            return true;
        }
    }
}
