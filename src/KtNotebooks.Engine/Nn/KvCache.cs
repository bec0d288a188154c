
namespace KtNotebooks.Nn;

/// <summary>
/// What attention reads of a layer in place: sequence s owns rows [Begins[s], Begins[s] + Counts[s]) of <paramref name="Rows"/>, a view that the caller
/// disposes.
/// </summary>
public sealed record CachedRows(Tensor Rows, int[] Begins, int[] Counts);

/// <summary>
/// Rows seen so far, by layer and sequence: keys and values, or one latent row a token (MLA). Sequence s of a batch is sequence s of the cache: each pass
/// appends its rows of sequence s behind what is held of it (none is right too: seqStarts[s] = seqStarts[s+1]). A batch with more sequences than are held
/// begins new, empty ones behind them; <see cref="Remove"/> takes one out and moves later ones down, as in a list. Both cost nothing of the size of the
/// other sequences.
/// </summary>
public sealed class KvCache : IDisposable
{
    private readonly Dictionary<string, Layer> _layers = [];

    /// <summary>Sequences held.</summary>
    public int Sequences { get; private set; }

    /// <summary>Bytes held by all layers, rooms to grow included.</summary>
    public long ByteLength => _layers.Values.Sum(l => l.Rows.ByteLength + (l.Values?.ByteLength ?? 0));

    /// <summary>Bytes of one token in all layers seen so far.</summary>
    public long BytesPerToken => _layers.Values.Sum(l => l.Rows.RowBytes + (l.Values?.RowBytes ?? 0));

    /// <summary>Rows held for a sequence (asked of any one layer); 0 for one that is not held.</summary>
    public int Length(int sequence) => _layers.Count == 0 ? 0 : _layers.Values.First().Rows.Length(sequence);

    /// <summary>Rows held for a sequence by one layer: within a pass, those before the pass until the layer has appended.</summary>
    public int Length(string layer, int sequence) => _layers.TryGetValue(layer, out var l) ? l.Rows.Length(sequence) : 0;

    /// <summary>Takes a sequence out, between two passes; the later ones move down by one.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such sequence.</exception>
    public void Remove(int sequence)
    {
        if (sequence < 0 || sequence >= Sequences)
            throw new ArgumentOutOfRangeException(nameof(sequence), $"[KvCache] there is no sequence {sequence}; {Sequences} are held");
        foreach (var layer in _layers.Values)
        {
            layer.Rows.Remove(sequence);
            layer.Values?.Remove(sequence);
        }
        Sequences--;
    }

    /// <summary>
    /// Appends k [T, H, D] and v [T, H, Dv] (rows of all sequences by seqStarts) to a layer and returns all keys and values of the batch's sequences end to
    /// end with their starts. The caller disposes both. One sequence is handed out in place; several are copied together.
    /// </summary>
    public (Tensor K, Tensor V, int[] Starts) Append(string layer, Tensor k, Tensor v, int[] seqStarts)
    {
        var rooms = Of(layer, seqStarts);
        var values = rooms.Values ??= new SequenceRooms();
        rooms.Rows.Append(k, seqStarts);
        values.Append(v, seqStarts);
        var starts = new int[seqStarts.Length];
        for (var s = 0; s + 1 < starts.Length; s++) starts[s + 1] = starts[s] + rooms.Rows.Length(s);
        return (Join(rooms.Rows, k, starts), Join(values, v, starts), starts);
    }

    /// <summary>Appends one row a token, [T, …], and returns where all rows of the batch's sequences lie. Nothing is copied together.</summary>
    public CachedRows Append(string layer, Tensor rows, int[] seqStarts)
    {
        var rooms = Of(layer, seqStarts).Rows;
        rooms.Append(rows, seqStarts);
        var (begins, counts) = (new int[seqStarts.Length - 1], new int[seqStarts.Length - 1]);
        for (var s = 0; s < begins.Length; s++) (begins[s], counts[s]) = (rooms.Begin(s), rooms.Length(s));
        return new CachedRows(rooms.All(), begins, counts);
    }

    public void Dispose()
    {
        foreach (var layer in _layers.Values)
        {
            layer.Rows.Dispose();
            layer.Values?.Dispose();
        }
        _layers.Clear();
        Sequences = 0;
    }

    private Layer Of(string layer, int[] seqStarts)
    {
        Sequences = Math.Max(Sequences, seqStarts.Length - 1);
        if (!_layers.TryGetValue(layer, out var rooms)) _layers[layer] = rooms = new Layer();
        return rooms;
    }

    private static Tensor Join(SequenceRooms rooms, Tensor like, int[] starts)
    {
        if (starts.Length == 2) return rooms.Of(0);
        var all = Tensor.Empty(like.Type, like.Device, [starts[^1], .. like.Shape[1..]]);
        for (var s = 0; s + 1 < starts.Length; s++)
        {
            using var rows = rooms.Of(s);
            SequenceRooms.CopyRows(rows, 0, all, starts[s], starts[s + 1] - starts[s]);
        }
        return all;
    }

    /// <summary>Rows are the keys or the latent rows; values are there in the first form alone.</summary>
    private sealed class Layer
    {
        public SequenceRooms Rows { get; } = new();

        public SequenceRooms? Values { get; set; }
    }
}
