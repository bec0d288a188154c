using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>Where the rows of a pass stand.</summary>
/// <param name="Positions">[T].</param>
/// <param name="SeqStarts">[N+1].</param>
/// <param name="Table">Their places in the cache.</param>
internal sealed record PassRows(int[] Positions, int[] SeqStarts, PageTable Table)
{
    /// <summary>Tokens, [T]; where somebody looks for them here.</summary>
    public int[] Ids { get; init; } = [];

    /// <summary>The place of each row's adapter, [T]; where rows have several.</summary>
    public int[] Adapters { get; init; } = [];

    /// <summary>
    /// A round number that no sequence of the pass is longer than. What is sized by it, and not by the lengths themselves, stays the same for many passes.
    /// </summary>
    public int Longest { get; } = (int)Math.Max(256, System.Numerics.BitOperations.RoundUpToPowerOf2((uint)Table.Counts.Max()));

    /// <summary>Rows in the cache that the pass's own rows take, [T].</summary>
    public int[] CacheRows()
    {
        var rows = new int[Positions.Length];
        for (var s = 0; s + 1 < SeqStarts.Length; s++)
            for (var t = SeqStarts[s]; t < SeqStarts[s + 1]; t++) rows[t] = checked((int)Table.RowOf(s, Table.Counts[s] - (SeqStarts[s + 1] - t)));
        return rows;
    }
}

/// <summary>
/// Numbers that the kernels of a pass are told by the host (token ids, positions, places in the cache, tiles of attention): made from
/// <see cref="PassRows"/> and sent to a card once a pass, however many layers read them.
/// In a pass that is recorded (<see cref="CudaGraph"/>) they lie in one stretch of memory that stays, and <see cref="Renew"/> fills it for the next run; a
/// list's length must then depend on the number of rows and <see cref="PassRows.Longest"/> alone.
/// </summary>
internal sealed class PassLists : IDisposable
{
    private readonly Dictionary<(Device, object), Tensor> _tensors = [];
    private readonly List<(Func<PassRows, int[]> Make, int At, int Length)> _recorded = [];
    private readonly Tensor? _place;
    private readonly PinnedMemory? _staging;
    private int _used;

    public PassLists(PassRows rows) => Rows = rows;

    /// <summary>For a pass that is recorded on a card, with room for so many numbers.</summary>
    public PassLists(PassRows rows, Device device, int capacity)
    {
        Rows = rows;
        _place = Tensor.Empty(DType.I32, device, capacity);
        _staging = new PinnedMemory(CudaDevice.Get(device.Index), capacity * sizeof(int));
    }

    /// <summary>Where the rows stand now.</summary>
    public PassRows Rows { get; private set; }

    /// <summary>The list under this key (a value that names all that it depends on beside the rows), I32; these lists' own.</summary>
    public Tensor On(Device device, object key, Func<PassRows, int[]> make)
    {
        if (_tensors.TryGetValue((device, key), out var known)) return known;
        var values = make(Rows);
        if (_place is null) return _tensors[(device, key)] = Memory.Place(values, device);
        const int Align = 4; // int4 loads
        if (device != _place.Device || _used + values.Length > _place.Count) throw new NotRecordableException($"a list of {values.Length} numbers");
        _recorded.Add((make, _used, values.Length));
        Stage(values, _used);
        var tensor = _place.Slice(_used, values.Length);
        _used += (values.Length + Align - 1) / Align * Align;
        return _tensors[(device, key)] = tensor;
    }

    /// <summary>A tensor that is computed once a pass; these lists' own from then on.</summary>
    public Tensor Once(Device device, object key, Func<Tensor> compute) => _tensors.TryGetValue((device, key), out var known) ? known
        : _tensors[(device, key)] = compute();

    /// <summary>The same lists of other rows, as many and with the same <see cref="PassRows.Longest"/>; for recorded ones, before they run again.</summary>
    public void Renew(PassRows rows)
    {
        Rows = rows;
        foreach (var (make, at, length) in _recorded)
        {
            var values = make(rows);
            if (values.Length != length) throw new InvalidOperationException($"[PassLists] a list of {length} numbers has {values.Length} now");
            Stage(values, at);
        }
    }

    /// <summary>Sends what is staged.</summary>
    public unsafe void Send() => _place!.Gpu().Write(_place!.Pointer, (void*)_staging!.Pointer, _used * sizeof(int));

    public void Dispose()
    {
        foreach (var tensor in _tensors.Values) tensor.Dispose();
        _tensors.Clear();
        _place?.Dispose();
        _staging?.Dispose();
    }

    private unsafe void Stage(int[] values, int at) => values.CopyTo(new Span<int>((int*)_staging!.Pointer + at, values.Length));
}
