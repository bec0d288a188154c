using KtNotebooks.Ops;
using KtNotebooks.Tensors;

namespace KtNotebooks.Nn;

/// <summary>
/// Rows seen so far: keys and values, or one latent row a token (MLA), of any number of sequences, in pages of 64 rows. Each layer has one tensor for all
/// pages (or two, keys and values), and one table of pages serves all layers. A sequence takes a page when it has filled one; nothing that is held is moved
/// or copied for that, and attention reads the pages in place. Sequences that begin alike share full pages.
/// The tensors grow by doubling up to the limit, which copies a row once on average; where memory ends before, the limit is what they have then.
/// </summary>
/// <param name="tokens">Rows at most, rounded up to pages; null: no limit.</param>
/// <param name="idleTokens">Rows that are kept when no sequence uses them, for one that begins alike.</param>
public sealed class KvCache(long? tokens = null, long idleTokens = 0) : IDisposable
{
    private readonly Dictionary<string, Layer> _layers = [];
    private int _capacity;

    /// <summary>Bytes held by all layers.</summary>
    public long ByteLength => _layers.Values.Sum(l => l.Rows.ByteLength + (l.Values?.ByteLength ?? 0));

    /// <summary>Bytes of one token in all layers seen so far.</summary>
    public long BytesPerToken => _layers.Values.Sum(l => BytesOf(l.Rows) + (l.Values is { } v ? BytesOf(v) : 0));

    internal PagePool Pages { get; } = new(tokens is { } n ? PageTable.PagesOf(n) : int.MaxValue, PageTable.PagesOf(idleTokens));

    /// <summary>A sequence without rows.</summary>
    public CachedSequence Add() => new(this);

    /// <summary>
    /// What a pass needs: sequences in the order of its batch, with the number of rows that each gets. Takes the pages; null where there are not enough, or
    /// memory has no room for them, and then nothing is taken. The caller disposes it.
    /// </summary>
    public CacheBatch? TryBatch(IReadOnlyList<CachedSequence> sequences, IReadOnlyList<int> rows)
    {
        ArgumentNullException.ThrowIfNull(sequences);
        ArgumentNullException.ThrowIfNull(rows);
        if (sequences.Select((s, i) => s.MissingPages(rows[i])).Sum() > Pages.Available) return null;
        for (var s = 0; s < sequences.Count; s++) sequences[s].Reserve(rows[s]);
        if (HasRoom()) return new CacheBatch(this, [.. sequences], [.. rows]);
        foreach (var sequence in sequences) sequence.GiveBack();
        Pages.LimitTo(_capacity);
        return null;
    }

    /// <summary>The same, where there must be enough.</summary>
    /// <exception cref="InsufficientMemoryException">There are not enough pages.</exception>
    public CacheBatch Batch(IReadOnlyList<CachedSequence> sequences, IReadOnlyList<int> rows) => TryBatch(sequences, rows)
        ?? throw new InsufficientMemoryException($"[KvCache] {Pages.Available} pages of {PageTable.Rows} rows are free, which is too few for this pass");

    public void Dispose()
    {
        foreach (var layer in _layers.Values)
        {
            layer.Rows.Dispose();
            layer.Values?.Dispose();
        }
        _layers.Clear();
    }

    /// <summary>Copies the first rows of a page in all layers; false: memory has no room for the second page.</summary>
    internal bool TryCopyRows(int page, int to, int rows)
    {
        if (!HasRoom()) return false;
        foreach (var layer in _layers.Values)
        {
            Copy(layer.Rows, (long)page * PageTable.Rows, layer.Rows, (long)to * PageTable.Rows, rows);
            if (layer.Values is { } values) Copy(values, (long)page * PageTable.Rows, values, (long)to * PageTable.Rows, rows);
        }
        return true;
    }

    /// <summary>The tensors of a layer, with room for every page.</summary>
    internal (Tensor Rows, Tensor? Values) Of(string path, Tensor rows, Tensor? values)
    {
        if (!_layers.TryGetValue(path, out var layer)) _layers[path] = layer = Fresh(rows, values);
        Check(rows, layer.Rows);
        if (values is not null) Check(values, layer.Values!);
        return (layer.Rows, layer.Values);
    }

    internal static void Copy(Tensor source, long from, Tensor target, long to, long count)
    {
        if (count == 0) return;
        using var s = source.Slice(from, count);
        using var t = target.Slice(to, count);
        Memory.Copy(s, t);
    }

    /// <summary>Every layer seen so far has room for every page, or gets it: for twice as many, or where those do not fit for just these.</summary>
    private bool HasRoom() => Pages.Count <= _capacity || TryGrow((int)Math.Max(Pages.Count, Math.Min(Pages.Limit, 2L * _capacity))) || TryGrow(Pages.Count);

    /// <summary>False: memory ended on the way. Layers that have grown by then stay so; the capacity is that of the smallest.</summary>
    private bool TryGrow(int pages)
    {
        try
        {
            foreach (var layer in _layers.Values) Grow(layer, (long)pages * PageTable.Rows);
            _capacity = pages;
            return true;
        }
        catch (InsufficientMemoryException)
        {
            return false;
        }
    }

    /// <summary>Both tensors of a layer, or neither.</summary>
    private static void Grow(Layer layer, long rows)
    {
        if (layer.Rows.Dim(0) >= rows) return;
        var larger = Empty(layer.Rows, rows);
        try
        {
            if (layer.Values is { } values) layer.Values = Moved(values, Empty(values, rows));
        }
        catch
        {
            larger.Dispose();
            throw;
        }
        layer.Rows = Moved(layer.Rows, larger);
        LastingTensors.Moved();
    }

    private Layer Fresh(Tensor rows, Tensor? values)
    {
        var room = (long)_capacity * PageTable.Rows;
        return new Layer(Empty(rows, room), values is null ? null : Empty(values, room));
    }

    private static void Check(Tensor rows, Tensor held)
    {
        if (held.Type != rows.Type || !held.Shape[1..].SequenceEqual(rows.Shape[1..]))
            throw new ArgumentException($"[KvCache] rows {rows} do not fit the cached {held}");
    }

    private static Tensor Empty(Tensor like, long rows) => Tensor.Empty(like.Type, like.Device, [rows, .. like.Shape[1..]]);

    private static Tensor Moved(Tensor held, Tensor larger)
    {
        Copy(held, 0, larger, 0, held.Dim(0));
        held.Dispose();
        return larger;
    }

    private static long BytesOf(Tensor rows) => rows.Dim(0) == 0 ? 0 : rows.ByteLength / rows.Dim(0);

    private sealed class Layer(Tensor rows, Tensor? values)
    {
        /// <summary>The keys, or the latent rows.</summary>
        public Tensor Rows { get; set; } = rows;

        public Tensor? Values { get; set; } = values;
    }
}

/// <summary>A sequence in a cache: its pages in order and how many rows it has in them.</summary>
public sealed class CachedSequence
{
    private readonly KvCache _cache;
    private readonly List<int> _pages = [];
    private long _parent; // the node of the last full page that is known
    private int _known; // pages up to there

    internal CachedSequence(KvCache cache) => _cache = cache;

    /// <summary>Rows held.</summary>
    public int Length { get; private set; }

    internal IReadOnlyList<int> Pages => _pages;

    internal int MissingPages(int rows) => Math.Max(0, PageTable.PagesOf((long)Length + rows) - _pages.Count);

    /// <summary>
    /// Begins with rows that other sequences of this adapter have left: full pages are shared, the rows of one more are copied. Returns how many; at most
    /// all tokens but the last, whose logits are wanted.
    /// </summary>
    internal int Reuse(string? adapter, ReadOnlySpan<int> tokens)
    {
        _parent = _cache.Pages.Root(adapter);
        while (true)
        {
            var rest = tokens[Length..^1];
            var (page, rows, node) = _cache.Pages.Find(_parent, rest[..Math.Min(rest.Length, PageTable.Rows)]);
            if (page < 0) return Length;
            _cache.Pages.Share(page); // or it might go while a page for the copy is taken
            if (rows == PageTable.Rows)
            {
                _pages.Add(page);
                (Length, _parent, _known) = (Length + rows, node, _known + 1);
                continue;
            }
            var own = _cache.Pages.Take(_pages.Count > 0 ? _pages[^1] : -1);
            if (own >= 0 && _cache.TryCopyRows(page, own, rows))
            {
                _pages.Add(own);
                Length += rows;
            }
            else if (own >= 0) _cache.Pages.Release(own);
            _cache.Pages.Release(page);
            return Length;
        }
    }

    /// <summary>Says which tokens the rows are of, so that others can begin with them: full pages, and the rows of the last one too.</summary>
    internal void Publish(ReadOnlySpan<int> tokens)
    {
        for (; (_known + 1) * PageTable.Rows <= Length; _known++)
            _parent = _cache.Pages.Publish(_pages[_known], _parent, tokens.Slice(_known * PageTable.Rows, PageTable.Rows));
        var begin = _known * PageTable.Rows;
        if (Length > begin) _cache.Pages.Publish(_pages[_known], _parent, tokens[begin..Length]);
    }

    /// <summary>Gives all pages back: those behind first, so that what others begin with is kept longest.</summary>
    public void Free()
    {
        for (var i = _pages.Count - 1; i >= 0; i--) _cache.Pages.Release(_pages[i]);
        _pages.Clear();
        (Length, _known) = (0, 0);
    }

    internal void Reserve(int rows)
    {
        for (var missing = MissingPages(rows); missing > 0; missing--) _pages.Add(_cache.Pages.Take(_pages.Count > 0 ? _pages[^1] : -1));
    }

    /// <summary>Undoes <see cref="Reserve"/>.</summary>
    internal void GiveBack()
    {
        for (; _pages.Count > PageTable.PagesOf(Length); _pages.RemoveAt(_pages.Count - 1)) _cache.Pages.Release(_pages[^1]);
    }

    internal void Advance(int rows) => Length += rows;
}

/// <summary>
/// Sequences of a cache for the time of a pass: every layer appends its rows and gets the tensors and the table to read. <see cref="Commit"/> counts the rows
/// when all layers have; a pass that fails leaves the sequences as they were.
/// </summary>
public sealed class CacheBatch : IDisposable
{
    private readonly KvCache _cache;
    private readonly CachedSequence[] _sequences;
    private readonly int[] _rows;
    private readonly PageTable _table;
    private PassLists? _lists;
    private bool _isRecorded;

    internal CacheBatch(KvCache cache, CachedSequence[] sequences, int[] rows)
    {
        (_cache, _sequences, _rows) = (cache, sequences, rows);
        Held = [.. sequences.Select(s => s.Length)];
        var first = new int[sequences.Length];
        List<int> pages = [];
        for (var s = 0; s < sequences.Length; s++)
        {
            first[s] = pages.Count;
            pages.AddRange(sequences[s].Pages);
        }
        _table = new PageTable([.. sequences.Select((s, i) => s.Length + rows[i])], first, [.. pages]);
    }

    /// <summary>Rows of each sequence before the pass.</summary>
    public int[] Held { get; }

    internal PageTable Table => _table;

    /// <summary>Of each row of the pass the place of its adapter among those with names, −1: none; empty where all have one. Set before anybody asks.</summary>
    internal int[] AdapterOf { get; set; } = [];

    /// <summary>What kernels are told of all rows of the pass.</summary>
    internal PassLists Lists => _lists ??= new PassLists(Rows([]));

    /// <summary>Lists of a pass that is recorded, in the place of this batch's own; the caller's. Null: this batch's own again.</summary>
    internal void Use(PassLists? recorded) => (_lists, _isRecorded) = (recorded, recorded is not null);

    /// <summary>Where the rows stand, with their tokens where they will be asked for.</summary>
    internal PassRows Rows(int[] ids)
    {
        int[] starts = [0, .. _rows];
        for (var s = 1; s < starts.Length; s++) starts[s] += starts[s - 1];
        var positions = new int[starts[^1]];
        for (var s = 0; s < _rows.Length; s++)
            for (var i = 0; i < _rows[s]; i++) positions[starts[s] + i] = Held[s] + i;
        return new PassRows(positions, starts, _table) { Ids = ids, Adapters = AdapterOf };
    }

    /// <summary>Appends rows [T, …] of all sequences, by seqStarts; returns where they lie now. Tensors of the cache: not the caller's to dispose.</summary>
    internal (Tensor Rows, Tensor? Values) Append(string layer, Tensor rows, Tensor? values, int[] seqStarts)
    {
        var (held, heldValues) = _cache.Of(layer, rows, values);
        if (rows.Device.Kind == DeviceKind.Cuda)
        {
            var places = Lists.On(rows.Device, "cache rows", r => r.CacheRows());
            RouteKernels.Scatter(rows, places, held);
            if (values is not null) RouteKernels.Scatter(values, places, heldValues!);
            return (held, heldValues);
        }
        for (var s = 0; s < _sequences.Length; s++)
            for (var i = 0; i < _rows[s];)
            {
                var (at, count) = (Held[s] + i, 0);
                do count += Math.Min(_rows[s] - i - count, PageTable.Rows - ((at + count) % PageTable.Rows)); // neighbouring pages are one copy
                while (i + count < _rows[s] && _table.RowOf(s, at + count) == _table.RowOf(s, at) + count);
                KvCache.Copy(rows, seqStarts[s] + i, held, _table.RowOf(s, at), count);
                if (values is not null) KvCache.Copy(values, seqStarts[s] + i, heldValues!, _table.RowOf(s, at), count);
                i += count;
            }
        return (held, heldValues);
    }

    /// <summary>The rows are there: the sequences are longer by them.</summary>
    public void Commit()
    {
        for (var s = 0; s < _sequences.Length; s++) _sequences[s].Advance(_rows[s]);
    }

    public void Dispose()
    {
        if (!_isRecorded) _lists?.Dispose();
    }
}
