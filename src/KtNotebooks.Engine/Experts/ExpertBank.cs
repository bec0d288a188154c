using KtNotebooks.Nn;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Experts;

/// <summary>
/// All routed experts of one layer: gate, up [E, I, D] and down [E, D, I] under Hugging Face's per-expert names, and their low-rank pairs. From a checkpoint the matrices are views on the mapped
/// files; fresh ones are stacked and can be trained.
/// </summary>
public sealed class ExpertBank : Module
{
    /// <summary>Projections in the order in which adapters list them.</summary>
    public static readonly string[] Projections = ["gate_proj", "up_proj", "down_proj"];

    private readonly ulong _key;
    private Parameter[] _weights;
    private ExpertSet _set;
    private Device? _card;
    private ExpertSlab? _slab;

    public ExpertBank(IWeights weights, string path, DType type, int experts, int width, int inner)
        : base(path)
    {
        ArgumentNullException.ThrowIfNull(weights);
        (Count, Width, Inner) = (experts, width, inner);
        _key = NormalRandom.HashOf(path);
        _set = new ExpertSet(weights.TakeExperts(path, "gate_proj.weight", type, experts, inner, width), weights.TakeExperts(path, "up_proj.weight", type, experts, inner, width), weights.TakeExperts(path, "down_proj.weight", type, experts, width, inner));
        _weights = Views();
    }

    /// <summary>E.</summary>
    public int Count { get; }

    /// <summary>How the matrices are stored.</summary>
    public MatrixFormat Format => _set.Gate.Format;

    /// <summary>D.</summary>
    public int Width { get; }

    /// <summary>I.</summary>
    public int Inner { get; }

    /// <summary>Low-rank pairs of every expert, stacked; owned by this bank.</summary>
    public LowRankExperts? Adapter
    {
        get => _set.Lora;
        set
        {
            RemoveAdapter();
            _set = _set with { Lora = value };
        }
    }

    /// <summary>Frozen pairs by the name of their adapter, for passes that name one; owned by this bank.</summary>
    public Dictionary<string, LowRankExperts> Named { get; } = [];

    /// <summary>Under per-expert names: views that this bank owns, as modules do. Of low-bit experts the stored codes, which 4 bits pack in pairs: their number is <see cref="Parameter.Count"/>.</summary>
    public override IEnumerable<Parameter> Weights => _weights;

    public override IEnumerable<Parameter> Trainable => _set.Lora is { } l
        ? [new(Path + ".gate_proj.lora_A", l.GateA), new(Path + ".gate_proj.lora_B", l.GateB), new(Path + ".up_proj.lora_A", l.UpA), new(Path + ".up_proj.lora_B", l.UpB), new(Path + ".down_proj.lora_A", l.DownA), new(Path + ".down_proj.lora_B", l.DownB)]
        : Matrices.Zip(Projections).Where(m => m.First.Stacked is { RequiresGrad: true }).Select(m => new Parameter($"{Path}.{m.Second}", m.First.Stacked!));

    private Matrices[] Matrices => [_set.Gate, _set.Up, _set.Down];

    /// <summary>Where rows are computed: the card that streams or keeps the experts, or where they lie.</summary>
    public override Device Device => _card ?? base.Device;

    /// <summary>The experts cross the bus at every visit: all rows should come at once.</summary>
    public bool IsStreamed => Stream is not null;

    /// <summary>Bytes of the experts as they are stored.</summary>
    public long StoredBytes => Layout.Bytes;

    /// <summary>The same of one expert.</summary>
    public long ExpertBytes => Layout.ExpertBytes;

    internal BankLayout Layout => new(_set);

    internal ExpertStream? Stream => (_set.OnCard as StreamedExperts)?.Stream;

    /// <summary>The groups in the order of forward.</summary>
    internal IEnumerable<GroupVisit> GroupVisits => _set.OnCard is StreamedExperts streamed ? Enumerable.Range(0, streamed.Groups.Count).Select(g => new GroupVisit(streamed, g)) : [];

    /// <summary>x [T, D], weights F32 [T, k], indices I32 [T, k] → [T, D]. Rows on a card meet experts that are on no card in host memory: they go there and come back.</summary>
    public Tensor Forward(Tensor x, Tensor weights, Tensor indices, Pass pass)
    {
        var lora = pass.Adapter is { } name ? Named.GetValueOrDefault(name) : _set.Lora;
        var set = _set with { Lora = pass.Training || lora is not { Dropout: > 0 } ? lora : lora with { Dropout = 0 } };
        var y = RoutedExperts.Apply(Transfer.Apply(x, Device), Transfer.Apply(weights, Device), Transfer.Apply(indices, Device), set, DropoutMask.Mix(pass.DropoutKey ^ _key), pass.FirstRow * (long)weights.Width, pass.ValueUnused);
        return Transfer.Apply(y, x.Device);
    }

    /// <summary>Moves the experts to pinned host memory, from where the stream brings groups of at most groupBytes to its card. Attach adapters afterwards.</summary>
    internal void StreamThrough(ExpertStream stream, Device card, long groupBytes)
    {
        var slab = new ExpertSlab(_set, card);
        Replace(slab.Set with { OnCard = new StreamedExperts(slab, stream, card, groupBytes) }, card);
        _slab = slab;
    }

    /// <summary>Puts a copy of the experts, as stored, on a card; the matrices stay where they are too (a mapped checkpoint costs no memory). Attach adapters afterwards.</summary>
    internal void KeepOn(Device card, DType rows, long decodedBytes)
    {
        var resident = new ResidentExperts(_set, card, rows, decodedBytes);
        (_set, _card) = (_set with { OnCard = resident }, card);
    }

    /// <summary>On a bank of shapes: computes as if a card had the experts in these groups, so that what that takes can be counted.</summary>
    internal void PlanOn(DeviceExperts card) => _set = _set with { OnCard = card };

    /// <summary>Makes the weights themselves trainable.</summary>
    /// <exception cref="NotSupportedException">They are views on a checkpoint.</exception>
    public void Unfreeze()
    {
        foreach (var matrices in Matrices)
        {
            if (matrices.Stacked is not { } stacked) throw new NotSupportedException($"{Path}: experts that are mapped from a checkpoint cannot be trained in place; load them stacked");
            stacked.RequiresGrad = true;
        }
    }

    /// <summary>Takes the low-rank pairs off and frees them.</summary>
    public void RemoveAdapter()
    {
        _set.Lora?.Dispose();
        _set = _set with { Lora = null };
    }

    protected override void DisposeOwn()
    {
        RemoveAdapter();
        foreach (var pairs in Named.Values) pairs.Dispose();
        Stream?.Drain(); // copies may have run ahead
        FreeMatrices();
        (_set.OnCard as IDisposable)?.Dispose();
        _slab?.Dispose();
    }

    private Parameter[] Views() => [.. Matrices.Zip(Projections).SelectMany(m => Enumerable.Range(0, Count).Select(e => new Parameter($"{Path}.{e}.{m.Second}.weight", m.First.Data(e)) { Shape = [m.First.N, m.First.K] }))];

    private void Replace(ExpertSet set, Device card)
    {
        RemoveAdapter();
        FreeMatrices();
        (_set, _card) = (set, card);
        _weights = Views();
    }

    private void FreeMatrices()
    {
        base.DisposeOwn();
        foreach (var matrices in Matrices)
        {
            if (matrices.Stacked is { } stacked) stacked.Dispose();
            else matrices.DisposeEach();
        }
    }
}
