using KtNotebooks.Interop.Cuda;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>What crosses the bus in groups: a bank of experts, or the matrices of a layer's half.</summary>
internal interface IGroupSource
{
    /// <summary>Where the pieces of a group lie in host memory; on the card they follow each other.</summary>
    IEnumerable<(nint Address, long Bytes)> Pieces(int group);

    IReadOnlyList<ExpertGroup> Groups { get; }

    /// <summary>Where they are on the disk; null: in host memory.</summary>
    DiskBank? Disk => null;
}

/// <summary>One group of a bank's experts, as something to be fetched.</summary>
internal readonly record struct GroupVisit(IGroupSource Bank, int Group);

/// <summary>
/// The way of experts from pinned host memory to one card: a few slots of device memory and a stream of copies that runs beside the compute stream. Whoever
/// runs a step says beforehand in which order groups will be opened (<see cref="Plan"/>); copies then run ahead as far as there are free slots, and a slot
/// is given up for the group that is needed again latest (Belady 1966), which at the turn from forward to backward, and with many slots everywhere, saves
/// the copy. A plan is a hint: opening a group that nobody announced copies it then. One pass at a time opens and closes groups of a card, from its thread.
/// </summary>
internal sealed class ExpertStream : IDisposable
{
    private readonly CudaDevice _card;
    private readonly Slot[] _slots;
    private readonly List<GroupVisit> _plan = [];
    private readonly Dictionary<GroupVisit, Queue<int>> _uses = [];
    private readonly List<(CudaEvent From, CudaEvent To)> _timings = [], _waits = [];
    private readonly DiskRing? _disk;
    private readonly CudaStream _copies;
    private int _next;
    private long _version = WeightVersion.Current;

    /// <param name="card">Whose memory the slots take.</param>
    /// <param name="slotBytes">The largest group of any bank.</param>
    /// <param name="slots">At least two, or nothing overlaps.</param>
    /// <param name="disk">By which banks come that are on the disk; owned from here on.</param>
    /// <param name="copies">Where copies are queued; null: the card's own stream for them.</param>
    public ExpertStream(CudaDevice card, long slotBytes, int slots, DiskRing? disk = null, CudaStream? copies = null)
    {
        (_card, _disk, _copies) = (card, disk, copies ?? card.Copies);
        _slots = new Slot[slots];
        for (var s = 0; s < slots; s++) _slots[s] = new Slot(CudaBuffer.Allocate(Device.Cuda(card.Index), slotBytes), new CudaEvent(card), new CudaEvent(card));
        if (_copies == card.Copies && disk is null) card.BytesAhead += Bytes;
    }

    /// <summary>
    /// What crosses is trained: an optimizer's step changes it in host memory, so nothing is fetched ahead of the next step, and what has come before one is
    /// fetched anew.
    /// </summary>
    public bool IsTrained { get; init; }

    /// <summary>Bytes copied so far.</summary>
    public long CopiedBytes { get; private set; }

    /// <summary>Of them what was read from a disk.</summary>
    public long ReadBytes => _disk?.ReadBytes ?? 0;

    /// <summary>Device memory of the slots.</summary>
    public long Bytes => _slots.Sum(s => s.Memory.ByteLength);

    /// <summary>Keep events around every copy for <see cref="TakeCopyTime"/>.</summary>
    public bool IsTimed
    {
        get;
        set
        {
            field = value;
            if (_disk is not null) _disk.Timed = value ? AddTiming : null;
        }
    }

    /// <summary>Ends a wait for the disk; of the pass that was planned last.</summary>
    private CancellationToken Cancel { get; set; }

    /// <summary>The groups that will be opened, in order; replaces the plan before. Copies begin at once.</summary>
    /// <param name="cancel">Ends a wait for the disk.</param>
    public void Plan(IEnumerable<GroupVisit> visits, CancellationToken cancel = default)
    {
        Cancel = cancel;
        Forget();
        _plan.Clear();
        _uses.Clear();
        _next = 0;
        if (IsTrained) ForgetChanged();
        foreach (var visit in visits)
        {
            if (!_uses.TryGetValue(visit, out var uses)) _uses[visit] = uses = new Queue<int>();
            uses.Enqueue(_plan.Count);
            _plan.Add(visit);
        }
        Prefetch();
    }

    /// <summary>The group's address on the card; work queued on the compute stream from now on sees it whole. Close it before the slots run out.</summary>
    public nint Open(GroupVisit visit)
    {
        // What was announced before this visit and did not come is over.
        if (_uses.TryGetValue(visit, out var uses) && uses.TryPeek(out var at))
        {
            while (_next <= at) _uses[_plan[_next++]].Dequeue();
        }
        var slot = Array.Find(_slots, s => s.Content == visit) ?? Load(Victim(int.MaxValue) ?? Vacated()
            ?? throw new InvalidOperationException($"all {_slots.Length} slots of cuda:{_card.Index} are open"), visit);
        if (slot.Arrival is { } arrival)
        {
            try
            {
                arrival.Wait(Cancel);
            }
            catch (Exception) when (arrival.HasFailed)
            {
                _ = arrival.Abandon(Cancel); // its other reads end
                Forget(); // whoever asks again has it read again
                throw;
            }
        }
        if (IsTimed) WaitTimed(slot.Ready);
        else _card.Compute.Wait(slot.Ready);
        slot.Open++;
        return slot.Memory.Pointer;
    }

    public void Close(GroupVisit visit)
    {
        var slot = Array.Find(_slots, s => s.Content == visit) ?? throw new InvalidOperationException($"group {visit.Group} is not open");
        slot.Free.Record(_card.Compute);
        slot.Open--;
        Prefetch();
    }

    /// <summary>Gives the plan up and waits for the copies under way: their source may be freed then.</summary>
    public void Drain()
    {
        _plan.Clear();
        _uses.Clear();
        _next = 0;
        _disk?.Abandon();
        Forget();
        _copies.Synchronize();
    }

    /// <summary>Milliseconds that the copies since the last call took on their stream; waits for them.</summary>
    /// <param name="each">Told both ends of every copy.</param>
    public double TakeCopyTime(Action<CudaEvent, CudaEvent>? each = null) => Take(_timings, each);

    /// <summary>The same of the time for which the compute stream stood before a group that was not there yet.</summary>
    public double TakeWaitTime(Action<CudaEvent, CudaEvent>? each = null) => Take(_waits, each);

    private double Take(List<(CudaEvent From, CudaEvent To)> timings, Action<CudaEvent, CudaEvent>? each)
    {
        double sum = 0;
        lock (_timings)
        {
            foreach (var (from, to) in timings)
            {
                sum += to.Since(from);
                each?.Invoke(from, to);
                from.Dispose();
                to.Dispose();
            }
            timings.Clear();
        }
        return sum;
    }

    private void WaitTimed(CudaEvent ready)
    {
        CudaEvent from = new(_card, timing: true), to = new(_card, timing: true);
        from.Record(_card.Compute);
        _card.Compute.Wait(ready);
        to.Record(_card.Compute);
        lock (_timings) _waits.Add((from, to));
    }

    private void AddTiming(CudaEvent from, CudaEvent to)
    {
        lock (_timings) _timings.Add((from, to));
    }

    public void Dispose()
    {
        if (_copies == _card.Copies && _disk is null) _card.BytesAhead -= Bytes;
        _disk?.Dispose();
        _copies.Synchronize();
        _card.Compute.Synchronize();
        foreach (var slot in _slots)
        {
            slot.Memory.Dispose();
            slot.Ready.Dispose();
            slot.Free.Dispose();
        }
    }

    private void ForgetChanged()
    {
        if (_version == WeightVersion.Current) return;
        _version = WeightVersion.Current;
        _copies.Synchronize();
        foreach (var slot in _slots) slot.Vacate();
    }

    /// <summary>Fills slots with what comes next, as long as that takes the place of something needed later.</summary>
    private void Prefetch()
    {
        for (var i = _next; i < _plan.Count; i++)
        {
            if (Array.Exists(_slots, s => s.Content == _plan[i])) continue;
            if (Victim(i) is not { } slot) return;
            Load(slot, _plan[i]);
        }
    }

    /// <summary>The closed slot whose group is needed again latest, but later than <paramref name="before"/>; null when there is none.</summary>
    private Slot? Victim(int before)
    {
        Slot? best = null;
        var latest = before == int.MaxValue ? -1 : before;
        foreach (var slot in _slots)
        {
            if (slot.Open > 0 || slot.Arrival is { IsOver: false }) continue;
            var use = slot.Content is { } content && _uses.TryGetValue(content, out var uses) && uses.TryPeek(out var at) ? at : int.MaxValue;
            if (use > latest) (best, latest) = (slot, use);
            if (use == int.MaxValue) break;
        }
        return best;
    }

    /// <summary>A slot whose group is still being read, given up for one that is needed now; null: none.</summary>
    private Slot? Vacated()
    {
        if (Array.FindLast(_slots, s => s.Open == 0 && s.Arrival is { IsOver: false }) is not { } slot) return null;
        if (!slot.Arrival!.Abandon(Cancel)) throw new OperationCanceledException(Cancel);
        slot.Vacate();
        return slot;
    }

    /// <summary>Groups that were not read to their end are in no slot.</summary>
    private void Forget()
    {
        foreach (var slot in _slots)
            if (slot.Arrival is { HasFailed: true, IsOver: true }) slot.Vacate();
    }

    private Slot Load(Slot slot, GroupVisit visit)
    {
        slot.Arrival = null;
        if (visit.Bank.Disk is { } bank)
        {
            _card.RefuseInRecording("experts from the disk");
            var group = visit.Bank.Groups[visit.Group];
            slot.Arrival = _disk!.Start(bank, group, slot.Memory.Pointer, slot.Free, slot.Ready);
            slot.Content = visit;
            CopiedBytes += group.Count * bank.Layout.ExpertBytes;
            return slot;
        }
        if (slot.IsUsed) _copies.Wait(slot.Free);
        slot.IsUsed = true;
        CudaEvent? from = null;
        if (IsTimed)
        {
            from = new CudaEvent(_card, timing: true);
            from.Record(_copies);
        }
        long bytes = 0;
        foreach (var (address, length) in visit.Bank.Pieces(visit.Group))
        {
            _card.Fetch(slot.Memory.Pointer + (nint)bytes, address, length, _copies);
            bytes += length;
        }
        if (from is not null)
        {
            var to = new CudaEvent(_card, timing: true);
            to.Record(_copies);
            AddTiming(from, to);
        }
        slot.Ready.Record(_copies);
        slot.Content = visit;
        CopiedBytes += bytes;
        return slot;
    }

    private sealed class Slot(CudaBuffer memory, CudaEvent ready, CudaEvent free)
    {
        public CudaBuffer Memory { get; } = memory;

        /// <summary>After the copy into it.</summary>
        public CudaEvent Ready { get; } = ready;

        /// <summary>After the last work that read it.</summary>
        public CudaEvent Free { get; } = free;

        public GroupVisit? Content { get; set; }

        /// <summary>Something was in it once.</summary>
        public bool IsUsed { get; set; }

        /// <summary>Its way from the disk; null: it came from memory.</summary>
        public DiskTransfer? Arrival { get; set; }

        public int Open { get; set; }

        public void Vacate() => (Content, Arrival) = (null, null);
    }
}
