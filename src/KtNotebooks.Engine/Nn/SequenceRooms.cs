using KtNotebooks.Tensors;

namespace KtNotebooks.Nn;

/// <summary>
/// Rows of several sequences in one tensor [capacity, …]. Each sequence has a room, a stretch of rows larger than what it holds. A full room grows by half:
/// the last one in place, another one moves to the first gap that is wide enough, or to the end. So a row is copied about twice in its life, and never
/// because another sequence got a row. What a removed sequence leaves is a gap.
/// </summary>
internal sealed class SequenceRooms : IDisposable
{
    private const int Granule = 64;
    private readonly List<Room> _rooms = [];
    private Tensor? _rows;

    public long ByteLength => _rows?.ByteLength ?? 0;

    /// <summary>Bytes of one row.</summary>
    public long RowBytes => _rows is { } rows ? rows.ByteLength / rows.Dim(0) : 0;

    /// <summary>Rows held for a sequence; 0 where there is none.</summary>
    public int Length(int sequence) => sequence < _rooms.Count ? _rooms[sequence].Length : 0;

    /// <summary>First row of a sequence.</summary>
    public int Begin(int sequence) => sequence < _rooms.Count ? _rooms[sequence].Begin : 0;

    /// <summary>All rows, the gaps too, as a view that the caller disposes.</summary>
    public Tensor All() => _rows!.Alias();

    /// <summary>The rows of one sequence, as a view that the caller disposes.</summary>
    public Tensor Of(int sequence) => _rows!.Slice(Begin(sequence), Length(sequence));

    /// <summary>rows [T, …], those of sequence s from seqStarts[s] to seqStarts[s+1]: behind what the sequence holds.</summary>
    public void Append(Tensor rows, int[] seqStarts)
    {
        if (_rows is { } all && (all.Type != rows.Type || !all.Shape[1..].SequenceEqual(rows.Shape[1..])))
            throw new ArgumentException($"[KvCache] rows {rows} do not fit the cached {all}");
        while (_rooms.Count < seqStarts.Length - 1) _rooms.Add(default);
        for (var s = 0; s + 1 < seqStarts.Length; s++)
        {
            var (from, count) = (seqStarts[s], seqStarts[s + 1] - seqStarts[s]);
            if (_rooms[s].Length + count > _rooms[s].Capacity) Widen(s, _rooms[s].Length + count, rows);
            var room = _rooms[s];
            if (count > 0) CopyRows(rows, from, _rows!, room.Begin + room.Length, count);
            _rooms[s] = room with { Length = room.Length + count };
        }
        _rows ??= Tensor.Empty(rows.Type, rows.Device, [0, .. rows.Shape[1..]]);
    }

    /// <summary>Forgets a sequence; later ones move down by one, as in a list. Nothing is copied.</summary>
    public void Remove(int sequence)
    {
        if (sequence < _rooms.Count) _rooms.RemoveAt(sequence);
    }

    public void Dispose()
    {
        _rows?.Dispose();
        _rows = null;
        _rooms.Clear();
    }

    private void Widen(int sequence, int needed, Tensor like)
    {
        var old = _rooms[sequence];
        var capacity = ((old.Capacity == 0 ? needed : needed + (needed / 2)) + Granule - 1) / Granule * Granule;
        var begin = old.Capacity > 0 && old.End == _rooms.Max(r => r.End) ? old.Begin : Gap(capacity);
        Reserve(begin + capacity, like);
        if (begin != old.Begin && old.Length > 0) CopyRows(_rows!, old.Begin, _rows!, begin, old.Length);
        _rooms[sequence] = new Room(begin, capacity, old.Length);
    }

    /// <summary>Where the first gap of so many rows begins; the end is one.</summary>
    private int Gap(int capacity)
    {
        var begin = 0;
        foreach (var room in _rooms.Where(r => r.Capacity > 0).OrderBy(r => r.Begin))
        {
            if (room.Begin - begin >= capacity) break;
            begin = room.End;
        }
        return begin;
    }

    /// <summary>
    /// A larger tensor when there is none for so many rows: exact at first, by half at least later, so that sequences which join one by one do not copy all
    /// others each time.
    /// </summary>
    private void Reserve(int capacity, Tensor like)
    {
        var held = _rows is null ? 0 : (int)_rows.Dim(0);
        if (capacity <= held) return;
        var larger = Tensor.Empty(like.Type, like.Device,
            [Math.Max(capacity, _rooms.Count(r => r.Capacity > 0) > 1 ? held + (held / 2) : 0), .. like.Shape[1..]]);
        if (_rows is { } rows)
        {
            CopyRows(rows, 0, larger, 0, _rooms.Max(r => r.End));
            rows.Dispose();
        }
        _rows = larger;
    }

    internal static void CopyRows(Tensor source, int from, Tensor target, int to, int count)
    {
        if (count == 0) return;
        using var s = source.Slice(from, count);
        using var t = target.Slice(to, count);
        Memory.Copy(s, t);
    }

    private readonly record struct Room(int Begin, int Capacity, int Length)
    {
        public int End => Begin + Capacity;
    }
}
