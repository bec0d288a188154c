using System.Runtime.InteropServices;

using KtNotebooks.Formats;
using KtNotebooks.Nn;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Experts;

/// <summary>
/// All routed experts of one layer: gate, up [E, I, D] and down [E, D, I] under Hugging Face's per-expert names, and their low-rank pairs. From a
/// checkpoint the matrices are views on the mapped files; fresh ones are stacked and can be trained.
/// </summary>
public sealed class ExpertBank : Module, IAdaptable
{
    private readonly ulong _key;
    private Parameter[] _weights;
    private ExpertSet _set;
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
        Executor = UnplacedExperts.On(base.Device);
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

    /// <summary>With <see cref="LoraOnHost"/>: a disk is the home of the pairs, and of their gradients and moments; null: pinned memory is.</summary>
    public DiskMemory? LoraDisk { get; set; }

    /// <summary>
    /// Gives the pairs on the card at work while the bank has its turn in a step (<see cref="LoraTurns"/>); they stand for the kept ones then.
    /// </summary>
    internal Func<ExpertLora>? LoraHere { get; set; }

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

    LoraWeights? IAdaptable.Adapter { get => Adapter; set => Adapter = (ExpertLora?)value; }

    public Dictionary<string, LoraWeights> Named { get; } = [];

    public bool IsExperts => true;

    /// <summary>The GPU at work, or host memory: see <see cref="LoraOnHost"/>.</summary>
    public Device AdapterDevice => LoraOnHost && Device.Kind == DeviceKind.Cuda ? Device.Cpu : Device;

    public IReadOnlyList<LoraTarget> Targets => [Target(Names.Gate, Width, Inner), Target(Names.Up, Width, Inner), Target(Names.Down, Inner, Width)];

    /// <summary>
    /// Under per-expert names: views that this bank owns, as modules do. Of low-bit experts the stored codes, which 4 bits pack in pairs: their number is
    /// <see cref="Parameter.Count"/>.
    /// </summary>
    public override IEnumerable<Parameter> Weights => _set.Glu is null ? _weights
        : [.. _weights, new(Names.GateUpBias!, _set.Glu.Biases), new(Names.DownBias!, _downBias!)];

    public override IEnumerable<Parameter> Trainable => _set.Lora is { } l
        ? Names.All.Zip(l.Pairs).SelectMany(p => (Parameter[])
            [new($"{Path}.{p.First.Name}.lora_A", p.Second.A), new($"{Path}.{p.First.Name}.lora_B", p.Second.B)])
        : Matrices.Zip(Names.All).Where(m => m.First.Stacked is { RequiresGrad: true })
            .Select(m => new Parameter($"{Path}.{m.Second.Name}", m.First.Stacked!));

    private Matrices[] Matrices => [_set.Gate, _set.Up, _set.Down];

    /// <summary>Who computes rows; owned by this bank.</summary>
    internal IExpertExecutor Executor { get; private set; }

    /// <summary>The matrices, and what is trained of them.</summary>
    internal ExpertSet Set => _set;

    /// <summary>Where rows are computed: the GPU that the experts come to or are on, or where they lie.</summary>
    public override Device Device => Executor.Device ?? base.Device;

    /// <summary>A place for a stack of low-rank halves, uninitialised.</summary>
    public Tensor EmptyLora(params ReadOnlySpan<long> shape)
    {
        if (!LoraOnHost || Device.Kind != DeviceKind.Cuda) return Tensor.Empty(DType.F32, Device, shape);
        if (LoraDisk is not null) return LoraDisk.Zeros(DType.F32, shape);
        long bytes = sizeof(float);
        foreach (var dim in shape) bytes *= dim;
        return new Tensor(PinnedBuffer.Allocate(Device, bytes), 0, DType.F32, shape);
    }

    public LoraWeights MakeAdapter(IReadOnlyList<(Tensor A, Tensor B)> pairs, float scale, float dropout)
    {
        ArgumentNullException.ThrowIfNull(pairs);
        var ((gateA, gateB), (upA, upB), (downA, downB)) = (pairs[0], pairs[1], pairs[2]);
        return new ExpertLora(gateA, gateB, upA, upB, downA, downB, scale, dropout);
    }

    /// <summary>The experts cross the bus at every visit: all rows should come at once.</summary>
    public bool IsStreamed => Executor.Stream is not null;

    /// <summary>Bytes of the experts as they are stored.</summary>
    public long StoredBytes => Layout.Bytes;

    /// <summary>The same of one expert.</summary>
    public long ExpertBytes => Layout.ExpertBytes;

    public BankLayout Layout => new(_set);

    internal ExpertStream? Stream => Executor.Stream;

    /// <summary>The groups that cross the bus when so many tokens pass, in the order of forward.</summary>
    internal IEnumerable<GroupVisit> GroupVisits(long tokens, bool backward) => Executor.Schedule(new ExpertVisit(tokens * TopK, backward, _set.Lora));

    /// <summary>
    /// Gives the experts to whoever computes them from now on; one that moves them brings where they lie then. Attach adapters afterwards.
    /// </summary>
    internal void Use(IExpertExecutor executor, ExpertSet? moved = null)
    {
        Executor = executor;
        if (moved is null) return;
        RemoveAdapter();
        FreeMatrices();
        _set = moved with { Glu = _set.Glu };
        _weights = Views();
    }

    /// <summary>
    /// x [T, D], weights F32 [T, k], indices I32 [T, k] → [T, D]. Rows on a card meet experts that are on no card, or that the CPU is to compute, in host
    /// memory: they go there and come back.
    /// </summary>
    public Tensor Forward(Tensor x, Tensor weights, Tensor indices, Pass pass)
    {
        var several = SeveralOf(pass, x);
        if (several is null && pass.Adapters is not null)
        {
            if (!pass.Any(p => ActingOn(p) is not null)) pass = pass with { Adapters = null, Adapter = Pass.BaseModel };
            else return pass.ByAdapter(x, (rows, p, from) =>
            {
                using var w = weights.Slice(from, rows.Dim(0));
                using var i = indices.Slice(from, rows.Dim(0));
                return Forward(rows, w, i, p);
            });
        }
        var lora = several is null ? ActingOn(pass) : null;
        if (lora is { Dropout: > 0 } && !pass.Training) lora = lora with { Dropout = 0 };
        var device = Executor.DeviceOf(new ExpertVisit(indices.Count, pass.ValueUnused, lora)) ?? base.Device;
        var set = _set with { Lora = lora is null || lora.Device == device ? lora : Brought(lora, pass, device) };
        var key = new RouteKey(DropoutMask.Mix(pass.DropoutKey ^ _key), pass.FirstRow * (long)weights.Width);
        if (device.Kind == DeviceKind.Cpu && x.Device.Kind == DeviceKind.Cuda && x.Gpu().IsRecording)
            return RecordedExperts.Apply(new ExpertCall(set, key, x, weights, indices), Executor, _downBiases);
        var here = Transfer.Together(device, x, weights, indices);
        var (w, chosen) = (here[1], here[2]);
        var y = RoutedExperts.Apply(new ExpertCall(set, key, here[0], w, chosen)
        {
            ValueUnused = pass.ValueUnused,
            KeptLora = lora,
            IsRemembered = pass.IsRemembered,
            Kept = pass.Kept is { } states ? (states, this) : null,
            Several = several,
        }, Executor);
        if (_downBiases is not null) y = ExpertBias.Apply(y, w, chosen, _downBiases);
        return Transfer.Apply(y, x.Device);
    }

    /// <summary>Rows on the card that has the experts, each with its own pairs; null: they come one adapter after another.</summary>
    private SeveralPairs? SeveralOf(Pass pass, Tensor x) => pass.MixedOf(this, x.Rows) is { } table
        ? new SeveralPairs(table, pass.Mixed!.Places(x.Device)) : null;

    AdapterTable? IAdaptable.TableOf(IReadOnlyList<string> names)
    {
        if (Executor is not ResidentExperts || !FewRows.Suits(Layout)) return null;
        FewRows.Pairs[] entries = [.. names.Select(n => FewRows.PairsOf((ExpertLora?)Named.GetValueOrDefault(n)))];
        return new AdapterTable(Memory.Place(MemoryMarshal.Cast<FewRows.Pairs, int>(entries), Device), entries.Max(e => e.Gate.Rank + e.Up.Rank),
            entries.Max(e => e.Down.Rank));
    }

    private ExpertLora Brought(ExpertLora lora, Pass pass, Device device) => pass.Adapter is null && LoraHere is { } take && device == Device
        ? take() with { Dropout = lora.Dropout } : lora.Map(t => Fetched.Apply(t, device));

    private ExpertLora? ActingOn(Pass pass) => pass.Adapter is { } name ? (ExpertLora?)Named.GetValueOrDefault(name) : _set.Lora;

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
        Executor.Dispose();
        FreeMatrices();
        _set.Glu?.Dispose();
        _set.Glu?.Biases.Dispose();
        _downBiases?.Dispose();
        _downBias?.Dispose();
    }

    private LoraTarget Target(ExpertProjection name, int inputs, int outputs) => new($"{name.Path}.{name.Name}", name.Module, Count, inputs, outputs);

    private Parameter[] Views() =>
        [.. Matrices.Zip(Names.All).SelectMany(m =>
            Enumerable.Range(0, Count).Select(e => new Parameter(m.Second.Weight(e), m.First.Named(e)) { Shape = [m.First.N, m.First.K] }))];

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
