using KtNotebooks.Formats;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Nn;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Experts;

/// <summary>
/// All routed experts of one layer: gate, up [E, I, D] and down [E, D, I] under Hugging Face's per-expert names, and their low-rank pairs. From a
/// checkpoint the matrices are views on the mapped files; fresh ones are stacked and can be trained.
/// </summary>
public sealed class ExpertBank : Module
{
    private readonly ulong _key;
    private Parameter[] _weights;
    private ExpertSet _set;
    private Device? _card;
    private ExpertSlab? _slab;
    private readonly Tensor? _downBias;
    private readonly DeviceCopies? _downBiases;

    public ExpertBank(IWeights weights, ExpertNames names, DType type, int experts, int width, int inner, float clamp = 0)
        : base(names.Gate.Path)
    {
        ArgumentNullException.ThrowIfNull(weights);
        (Names, Count, Width, Inner) = (names, experts, width, inner);
        _key = NormalRandom.HashOf(Path);
        _set = new ExpertSet(weights.TakeExperts(names.Gate, type, experts, inner, width), weights.TakeExperts(names.Up, type, experts, inner, width),
            weights.TakeExperts(names.Down, type, experts, width, inner));
        if (clamp > 0)
        {
            _set = _set with { Glu = new ClampedSwiGlu(weights.Take(names.GateUpBias!, DType.F32, experts, 2 * inner), clamp) };
            _downBias = weights.Take(names.DownBias!, DType.F32, experts, width);
            _downBiases = new DeviceCopies(_downBias);
        }
        _weights = Views();
    }

    /// <summary>What the matrices are called.</summary>
    public ExpertNames Names { get; }

    /// <summary>E.</summary>
    public int Count { get; }

    /// <summary>k, by which passes are announced to streams; 0 where nobody knows it.</summary>
    public int TopK { get; init; }

    /// <summary>
    /// Low-rank pairs that are attached from now on lie in pinned host memory and come to the card that computes at every visit; their moments and
    /// gradients stay out there with them.
    /// </summary>
    public bool LoraOnHost { get; set; }

    /// <summary>How the matrices are stored.</summary>
    public StorageFormat Format => _set.Gate.Format;

    /// <summary>D.</summary>
    public int Width { get; }

    /// <summary>I.</summary>
    public int Inner { get; }

    /// <summary>Low-rank pairs of every expert, stacked; owned by this bank.</summary>
    public ExpertLora? Adapter
    {
        get => _set.Lora;
        set
        {
            RemoveAdapter();
            _set = _set with { Lora = value };
            WeightVersion.Change();
        }
    }

    /// <summary>Frozen pairs by the name of their adapter, for passes that name one; owned by this bank.</summary>
    public Dictionary<string, ExpertLora> Named { get; } = [];

    /// <summary>
    /// Under per-expert names: views that this bank owns, as modules do. Of low-bit experts the stored codes, which 4 bits pack in pairs: their number is
    /// <see cref="Parameter.Count"/>.
    /// </summary>
    public override IEnumerable<Parameter> Weights => _set.Glu is null ? _weights
        : [.. _weights, new(Names.GateUpBias!, _set.Glu.Biases), new(Names.DownBias!, _downBias!)];

    public override IEnumerable<Parameter> Trainable => _set.Lora is { } l
        ? Names.All.Zip(l.Matrices).SelectMany(p => (Parameter[])
            [new($"{Path}.{p.First.Name}.lora_A", p.Second.A), new($"{Path}.{p.First.Name}.lora_B", p.Second.B)])
        : Matrices.Zip(Names.All).Where(m => m.First.Stacked is { RequiresGrad: true })
            .Select(m => new Parameter($"{Path}.{m.Second.Name}", m.First.Stacked!));

    private Matrices[] Matrices => [_set.Gate, _set.Up, _set.Down];

    /// <summary>Where rows are computed: the card that streams or keeps the experts, or where they lie.</summary>
    public override Device Device => _card ?? base.Device;

    /// <summary>A place for a stack of low-rank halves, uninitialised.</summary>
    internal Tensor EmptyLora(params ReadOnlySpan<long> shape)
    {
        if (!LoraOnHost || Device.Kind != DeviceKind.Cuda) return Tensor.Empty(DType.F32, Device, shape);
        long bytes = sizeof(float);
        foreach (var dim in shape) bytes *= dim;
        return new Tensor(PinnedBuffer.Allocate(Device, bytes), 0, DType.F32, shape);
    }

    /// <summary>The experts cross the bus at every visit: all rows should come at once.</summary>
    public bool IsStreamed => Stream is not null;

    /// <summary>Bytes of the experts as they are stored.</summary>
    public long StoredBytes => Layout.Bytes;

    /// <summary>The same of one expert.</summary>
    public long ExpertBytes => Layout.ExpertBytes;

    public BankLayout Layout => new(_set);

    internal ExpertStream? Stream => Streamed?.Stream;

    private StreamedExperts? Streamed => _set.OnGpu as StreamedExperts;

    /// <summary>The groups that cross the bus when so many tokens pass, in the order of forward.</summary>
    internal IEnumerable<GroupVisit> GroupVisits(long tokens, bool backward)
    {
        if (Streamed is not { } streamed) return [];
        var host = HostGroups(tokens * TopK, backward, _set.Lora);
        return Enumerable.Range(host, streamed.Groups.Count - host).Select(g => new GroupVisit(streamed, g));
    }

    /// <summary>
    /// x [T, D], weights F32 [T, k], indices I32 [T, k] → [T, D]. Rows on a card meet experts that are on no card, or that the CPU is to compute, in host
    /// memory: they go there and come back.
    /// </summary>
    public Tensor Forward(Tensor x, Tensor weights, Tensor indices, Pass pass)
    {
        if (pass.Adapters is not null)
        {
            if (!pass.Any(p => ActingOn(p) is not null)) pass = pass with { Adapters = null, Adapter = Pass.BaseModel };
            else return pass.ByAdapter(x, (rows, p, from) =>
            {
                using var w = weights.Slice(from, rows.Dim(0));
                using var i = indices.Slice(from, rows.Dim(0));
                return Forward(rows, w, i, p);
            });
        }
        var lora = ActingOn(pass);
        if (lora is { Dropout: > 0 } && !pass.Training) lora = lora with { Dropout = 0 };
        var host = HostGroups(indices.Count, pass.ValueUnused, lora);
        var device = host == Streamed?.Groups.Count ? Device.Cpu : Device;
        var set = _set with { Lora = lora?.Device == device ? lora : lora?.Map(t => Fetched.Apply(t, device)) };
        if (device.Kind == DeviceKind.Cuda && host > 0) set = set with { OnHost = new HostShare(host, lora) };
        var (w, chosen) = (Transfer.Apply(weights, device), Transfer.Apply(indices, device));
        var y = RoutedExperts.Apply(Transfer.Apply(x, device), w, chosen, set, DropoutMask.Mix(pass.DropoutKey ^ _key), pass.FirstRow * (long)weights.Width,
            pass.ValueUnused);
        if (_downBiases is not null) y = ExpertBias.Apply(y, w, chosen, _downBiases);
        return Transfer.Apply(y, x.Device);
    }

    private ExpertLora? ActingOn(Pass pass) => pass.Adapter is { } name ? Named.GetValueOrDefault(name) : _set.Lora;

    /// <summary>
    /// How many of the first groups the CPU computes when so many routes pass: as the costs of a split say, none where pairs lie on the card.
    /// </summary>
    private int HostGroups(long routes, bool backward, ExpertLora? lora) =>
        Streamed is { Costs: { } costs } streamed && (lora is null || lora.Device.Kind == DeviceKind.Cpu)
            ? costs.HostGroups(streamed.Groups, ExpertBytes, 3.0 * Width * Inner, routes, backward) : 0;

    /// <summary>
    /// Moves the experts to pinned host memory, from where the stream brings groups of at most groupBytes to its card. Attach adapters afterwards.
    /// </summary>
    internal void StreamThrough(ExpertStream stream, Device card, long groupBytes)
    {
        var slab = new ExpertSlab(_set, card);
        Replace(slab.Set with { OnGpu = new StreamedExperts(slab, stream, card, groupBytes), Glu = _set.Glu }, card);
        _slab = slab;
    }

    /// <summary>
    /// Lets the CPU take groups of the streamed experts where that ends earlier. Adapters attached from now on lie in host memory, where both sides reach
    /// them.
    /// </summary>
    internal void Split(ExpertCosts costs)
    {
        Streamed!.Costs = costs;
        LoraOnHost = true;
    }

    /// <summary>For saying it: up to so many tokens a forward pass the CPU computes all groups, and up to so many it still takes some.</summary>
    internal (int Alone, int Share) CpuUpTo(ExpertCosts costs)
    {
        var (alone, share) = (0, 0);
        for (var tokens = 1; tokens <= 1 << 20; tokens *= 2)
        {
            var host = costs.HostGroups(Streamed!.Groups, ExpertBytes, 3.0 * Width * Inner, (long)tokens * Math.Max(1, TopK), backward: false);
            if (host == Streamed.Groups.Count) alone = tokens;
            if (host > 0) share = tokens;
        }
        return (alone, share);
    }

    /// <summary>What both sides of a split cost here, measured with these experts.</summary>
    internal ExpertCosts MeasureCosts() => ExpertCosts.Measure(_set, _slab!, CudaDevice.Get(Device.Index));

    /// <summary>
    /// Puts a copy of the experts, as stored, on a card; the matrices stay where they are too (a mapped checkpoint costs no memory). Attach adapters
    /// afterwards.
    /// </summary>
    internal void KeepOn(Device card, DType rows, long dequantizedBytes)
    {
        var resident = new ResidentExperts(_set, card, rows, dequantizedBytes);
        (_set, _card) = (_set with { OnGpu = resident }, card);
    }

    /// <summary>On a bank of shapes: computes as if a card had the experts in these groups, so that what that takes can be counted.</summary>
    internal void PlanOn(DeviceExperts card) => _set = _set with { OnGpu = card };

    /// <summary>Makes the weights themselves trainable.</summary>
    /// <exception cref="NotSupportedException">They are views on a checkpoint.</exception>
    public void Unfreeze()
    {
        if (_set.Glu is not null) throw new NotSupportedException($"{Path}: experts with biases are trained with LoRA alone");
        foreach (var matrices in Matrices)
        {
            if (matrices.Stacked is not { } stacked)
                throw new NotSupportedException($"{Path}: experts that are mapped from a checkpoint cannot be trained in place; load them stacked");
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
        (_set.OnGpu as IDisposable)?.Dispose();
        _slab?.Dispose();
        _set.Glu?.Dispose();
        _set.Glu?.Biases.Dispose();
        _downBiases?.Dispose();
        _downBias?.Dispose();
    }

    private Parameter[] Views() =>
        [.. Matrices.Zip(Names.All).SelectMany(m =>
            Enumerable.Range(0, Count).Select(e => new Parameter(m.Second.Weight(e), m.First.Data(e)) { Shape = [m.First.N, m.First.K] }))];

    private void Replace(ExpertSet set, Device card)
    {
        RemoveAdapter();
        FreeMatrices();
        (_set, _card) = (set, card);
        _weights = Views();
    }

    private void FreeMatrices()
    {
        foreach (var view in _weights) view.Tensor.Dispose();
        foreach (var matrices in Matrices)
        {
            if (matrices.Stacked is { } stacked) stacked.Dispose();
            else matrices.DisposeEach();
        }
    }
}
