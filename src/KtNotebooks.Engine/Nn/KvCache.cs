using KtNotebooks.Tensors;

namespace KtNotebooks.Nn;

/// <summary>
/// Keys and values of the rows seen so far, by layer and sequence. Room for a sequence grows by doubling; with one sequence attention reads the cache in place.
/// </summary>
public sealed class KvCache : IDisposable
{
    private readonly Dictionary<(string Layer, int Sequence, bool Value), Tensor> _rooms = [];
    private readonly Dictionary<(string Layer, int Sequence), int> _lengths = [];

    /// <summary>Rows held for a sequence (asked of any one layer).</summary>
    public int Length(int sequence) => _lengths.Where(e => e.Key.Sequence == sequence).Select(e => e.Value).DefaultIfEmpty(0).First();

    /// <summary>
    /// Appends k [T, H, D] and v [T, H, Dv] (rows of all sequences by seqStarts) to a layer and returns all keys and values of all sequences with their starts. The caller disposes both.
    /// </summary>
    public (Tensor K, Tensor V, int[] Starts) Append(string layer, Tensor k, Tensor v, int[] seqStarts)
    {
        var sequences = seqStarts.Length - 1;
        var starts = new int[sequences + 1];
        for (var s = 0; s < sequences; s++)
        {
            var (from, count) = (seqStarts[s], seqStarts[s + 1] - seqStarts[s]);
            var held = _lengths.GetValueOrDefault((layer, s));
            Put(layer, s, false, k, from, count, held);
            Put(layer, s, true, v, from, count, held);
            _lengths[(layer, s)] = held + count;
            starts[s + 1] = starts[s] + held + count;
        }
        return (Join(layer, false, k, starts), Join(layer, true, v, starts), starts);
    }

    public void Dispose()
    {
        foreach (var room in _rooms.Values) room.Dispose();
        _rooms.Clear();
        _lengths.Clear();
    }

    private void Put(string layer, int sequence, bool value, Tensor rows, int from, int count, int held)
    {
        var key = (layer, sequence, value);
        var room = _rooms.GetValueOrDefault(key);
        if (room is null || room.Dim(0) < held + count)
        {
            var larger = Tensor.Empty(rows.Type, rows.Device, Math.Max(64, 2 * (held + count)), rows.Dim(1), rows.Dim(2));
            if (room is not null) CopyRows(room, 0, larger, 0, held);
            room?.Dispose();
            _rooms[key] = room = larger;
        }
        CopyRows(rows, from, room, held, count);
    }

    private Tensor Join(string layer, bool value, Tensor like, int[] starts)
    {
        if (starts.Length == 2) return _rooms[(layer, 0, value)].Slice(0, starts[1]);
        var all = Tensor.Empty(like.Type, like.Device, starts[^1], like.Dim(1), like.Dim(2));
        for (var s = 0; s + 1 < starts.Length; s++) CopyRows(_rooms[(layer, s, value)], 0, all, starts[s], starts[s + 1] - starts[s]);
        return all;
    }

    private static void CopyRows(Tensor source, int from, Tensor target, int to, int count)
    {
        if (count == 0) return;
        using var s = source.Slice(from, count);
        using var t = target.Slice(to, count);
        Memory.Copy(s, t);
    }
}
