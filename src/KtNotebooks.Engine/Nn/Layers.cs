using System.Runtime.InteropServices;

using KtNotebooks.Autograd;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Nn;

/// <summary>A low-rank pair beside a linear layer: A [r, in], B [out, r] F32; scale = alpha / r.</summary>
public sealed record LinearLora(Tensor A, Tensor B, float Scale, float Dropout = 0) : LoraWeights(Scale, Dropout)
{
    public override IReadOnlyList<(Tensor A, Tensor B)> Pairs => [(A, B)];

    /// <summary>use_dora; null: plain.</summary>
    public Dora? Dora { get; init; }

    /// <summary>
    /// PiSSA (Meng et al. 2024): what the pair began with, frozen and taken off again, so that the base stays as it is: y −= scale · B₀ A₀ x. Null: none.
    /// </summary>
    public (Tensor A, Tensor B)? Start { get; init; }

    public override void Dispose()
    {
        base.Dispose();
        Dora?.Dispose();
        Start?.A.Dispose();
        Start?.B.Dispose();
        GC.SuppressFinalize(this);
    }
}

/// <summary>y = x Wᵀ (+ bias) (+ its low-rank pair). W [out, in] from `path.weight`, the bias [out] from `path.bias`, kept in F32.</summary>
public sealed class Linear : Module, IAdaptable
{
    private readonly ulong _key;
    private readonly bool _tied;

    public Linear(IWeights weights, string path, DType type, int outputs, int inputs, bool bias = false)
        : this(path, weights.Take(path + ".weight", type, outputs, inputs), tied: false)
    {
        Bias = bias ? weights.Take(path + ".bias", DType.F32, outputs) : null;
    }

    private Linear(string path, Tensor weight, bool tied)
        : base(path)
    {
        (_key, Weight, _tied) = (NormalRandom.HashOf(path), weight, tied);
    }

    public Tensor Weight { get; }

    /// <summary>Null for most layers of most models.</summary>
    public Tensor? Bias { get; }

    /// <summary>Somebody multiplies parts of the weight beside <see cref="Forward"/>: it must lie in rows.</summary>
    public bool IsReadInParts { get; init; }

    public int Outputs => checked((int)Weight.Dim(0));

    public int Inputs => Weight.Width;

    /// <summary>Set by whoever trains or loads an adapter; owned by this layer.</summary>
    public LinearLora? Adapter
    {
        get;
        set
        {
            field = value;
            WeightVersion.Change();
        }
    }

    LoraWeights? IAdaptable.Adapter
    {
        get => Adapter;
        set
        {
            Adapter?.Dispose();
            Adapter = (LinearLora?)value;
        }
    }

    public Dictionary<string, LoraWeights> Named { get; } = [];

    public bool IsExperts => false;

    public Device AdapterDevice => Weight.Device;

    public IReadOnlyList<LoraTarget> Targets => [new(Path, _ => Path, null, Inputs, Outputs)];

    /// <summary>None where the weight is another module's.</summary>
    public override IEnumerable<Parameter> Weights => _tied ? [] : Bias is { } b
        ? [new(Path + ".weight", Weight), new(Path + ".bias", b)] : [new(Path + ".weight", Weight)];

    public override IEnumerable<Parameter> Trainable => Adapter is not { } a ? base.Trainable
        : [new(Path + ".lora_A.weight", a.A), new(Path + ".lora_B.weight", a.B), .. a.Dora is { } dora
            ? [new Parameter(Path + ".lora_magnitude_vector", dora.Magnitudes)] : Array.Empty<Parameter>()];

    /// <summary>
    /// A head on the token table (tie_word_embeddings): the very same tensor, which stays the table's, so that a gradient of either is the gradient of
    /// both.
    /// </summary>
    public static Linear Tied(string path, Embedding table) => new(path, table.Weight, tied: true);

    /// <summary>
    /// The pair that acts in a pass: the named one it asks for, or the attached one. Whoever reads the weight beside <see cref="Forward"/> must ask here
    /// too.
    /// </summary>
    public LinearLora? Acting(Pass pass) => pass.Adapter is { } name ? (LinearLora?)Named.GetValueOrDefault(name) : Adapter;

    public Tensor EmptyLora(params ReadOnlySpan<long> shape) => Tensor.Empty(DType.F32, AdapterDevice, shape);

    AdapterTable? IAdaptable.TableOf(IReadOnlyList<string> names)
    {
        LinearLora?[] pairs = [.. names.Select(n => (LinearLora?)Named.GetValueOrDefault(n))];
        if (Weight.Device.Kind != DeviceKind.Cuda || pairs.Any(p => p is { Dora: not null } or { Start: not null })) return null;
        LowPair[] entries = [.. pairs.Select(p => p is null ? default : new LowPair(p.A.Pointer, p.B.Pointer, p.B.Width, p.Scale))];
        return new AdapterTable(Memory.Place(MemoryMarshal.Cast<LowPair, int>(entries), Weight.Device), entries.Max(e => e.Rank));
    }

    public LoraWeights MakeAdapter(IReadOnlyList<(Tensor A, Tensor B)> pairs, float scale, float dropout)
    {
        ArgumentNullException.ThrowIfNull(pairs);
        return new LinearLora(pairs[0].A, pairs[0].B, scale, dropout);
    }

    /// <summary>
    /// x [..., in] → [..., out] in x's type or <paramref name="outType"/>. Rows of several adapters are as many products, each as it is alone, or, where the
    /// pass says so, one product with each row's own pair.
    /// </summary>
    public Tensor Forward(Tensor x, Pass pass, DType? outType = null)
    {
        if (pass.MixedOf(this, x.Rows) is { } mixed)
        {
            var product = Ops.Linear.Apply(x, Weight, outType);
            RowPairs.Add(x, pass.Mixed!.Places(x.Device), [new(mixed.Table, mixed.Rank, product)]);
            return WithBias(product);
        }
        if (pass.Adapters is not null && pass.Any(p => Acting(p) is not null)) return pass.ByAdapter(x, (rows, p, _) => Forward(rows, p, outType));
        var acting = pass.Adapters is null ? Acting(pass) : null;
        return WithBias(acting is { } a ? Adapted(x, a, pass.Mask(a.Dropout, _key), outType) : Ops.Linear.Apply(x, Weight, outType));
    }

    /// <summary>
    /// Up to three layers that read the same x, each as it is alone; where rows have pairs of their own (<see cref="Pass.Mixed"/>), all their pairs act in one
    /// launch.
    /// </summary>
    public static Tensor[] ForwardEach(Tensor x, Pass pass, params ReadOnlySpan<Linear> layers)
    {
        ArgumentNullException.ThrowIfNull(pass);
        var y = new Tensor[layers.Length];
        if (pass.Mixed is null)
        {
            for (var i = 0; i < y.Length; i++) y[i] = layers[i].Forward(x, pass);
            return y;
        }
        var pairs = new List<RowPairsOf>(layers.Length);
        for (var i = 0; i < y.Length; i++)
        {
            if (pass.MixedOf(layers[i], x.Rows) is { } mixed) pairs.Add(new(mixed.Table, mixed.Rank, y[i] = Ops.Linear.Apply(x, layers[i].Weight, null)));
            else y[i] = layers[i].Forward(x, pass);
        }
        if (pairs.Count > 0) RowPairs.Add(x, pass.Mixed.Places(x.Device), CollectionsMarshal.AsSpan(pairs));
        for (var i = 0; i < y.Length; i++)
            if (pass.MixedOf(layers[i], x.Rows) is not null) y[i] = layers[i].WithBias(y[i]);
        return y;
    }

    private Tensor WithBias(Tensor y) => Bias is { } b ? AddBias.Apply(y, b) : y;

    private Tensor Adapted(Tensor x, LinearLora a, DropoutMask mask, DType? outType)
    {
        var y = Ops.Linear.Apply(x, Weight, a.A, a.B, a.Scale, mask, outType);
        if (a.Start is { } start) y = Add.Apply(y, Ops.Linear.Apply(Ops.Linear.Apply(x, start.A, DType.F32), start.B, y.Type));
        return a.Dora is { } dora ? ScaleColumns.Apply(y, dora.Magnitudes, dora.Lengths(Weight, a)) : y;
    }

    protected override void DisposeOwn()
    {
        base.DisposeOwn();
        Adapter?.Dispose();
        foreach (var pair in Named.Values) pair.Dispose();
    }
}

/// <summary>Token table [V, D] from `path.weight`.</summary>
public sealed class Embedding(IWeights weights, string path, DType type, int vocabulary, int width) : Module(path)
{
    public Tensor Weight { get; } = weights.Take(path + ".weight", type, vocabulary, width);

    public override IEnumerable<Parameter> Weights => [new(Path + ".weight", Weight)];

    /// <summary>ids [T] → [T, D].</summary>
    public Tensor Forward(int[] ids)
    {
        using var host = Tensor.From(ids, ids.Length);
        return EmbeddingLookup.Apply(Weight, Tape.Own(host.To(Weight.Device)));
    }

    /// <summary>The same, on a device, of the tokens that the lists of a pass have: a table in host memory is looked up there, and the rows sent.</summary>
    internal Tensor Forward(PassLists lists, Device device)
    {
        if (Weight.Device == device) return EmbeddingLookup.Apply(Weight, lists.On(device, "ids", r => r.Ids));
        var rows = lists.On(device, Path, Looked);
        return Tape.Own(rows.Reinterpret(0, Weight.Type, lists.Rows.Ids.Length, Weight.Width));
    }

    /// <summary>The bits of the rows of a pass's tokens.</summary>
    private int[] Looked(PassRows at)
    {
        using var scope = Tape.Scratch();
        using var rows = Forward(at.Ids).Reinterpret(0, DType.I32, at.Ids.Length * (long)Weight.Width * Weight.Type.Size() / sizeof(int));
        return rows.ToInts();
    }
}

/// <summary>RMS norm with weight [D], kept in F32.</summary>
public sealed class RmsNorm(IWeights weights, string path, int width, float eps) : Module(path)
{
    public Tensor Weight { get; } = weights.Take(path + ".weight", DType.F32, width);

    public override IEnumerable<Parameter> Weights => [new(Path + ".weight", Weight)];

    /// <summary>x [..., D] → same.</summary>
    public Tensor Forward(Tensor x) => Ops.RmsNorm.Apply(x, Weight, eps);
}

/// <summary>down( silu(gate x) · up x ), the dense feed-forward part.</summary>
public sealed class SwiGluMlp(IWeights weights, string path, DType type, int width, int inner) : Block(path)
{
    public Linear Gate { get; } = new(weights, path + ".gate_proj", type, inner, width);

    public Linear Up { get; } = new(weights, path + ".up_proj", type, inner, width);

    public Linear Down { get; } = new(weights, path + ".down_proj", type, width, inner);

    public override IEnumerable<Module> Children => [Gate, Up, Down];

    public override Tensor Forward(Tensor x, Pass pass)
    {
        var both = Linear.ForwardEach(x, pass, Gate, Up);
        return Down.Forward(SwiGlu.Apply(both[0], both[1]), pass);
    }
}
