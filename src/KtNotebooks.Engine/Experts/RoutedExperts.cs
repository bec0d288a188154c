using KtNotebooks.Autograd;
using KtNotebooks.Formats;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>
/// The routed experts of one layer and what may be trained of them. Gate, up [I, D]; down [D, I]; low-rank pairs stacked over experts: A [E, r, in], B [E,
/// out, r] F32. A trained bank has stacked F32 matrices and no low-rank pairs.
/// </summary>
public sealed record ExpertSet(Matrices Gate, Matrices Up, Matrices Down, ExpertLora? Lora = null)
{
    /// <summary>What stands between the projections; null: SwiGLU.</summary>
    internal ClampedSwiGlu? Glu { get; init; }

    /// <summary>The same experts as a card sees them, where rows on a card are to meet them.</summary>
    public DeviceExperts? OnGpu { get; init; }

    /// <summary>
    /// Of rows on a card: the first so many groups of <see cref="OnGpu"/> are computed by the CPU, at the same time as the card computes the others.
    /// </summary>
    internal HostShare? OnHost { get; init; }

    public int Count => Gate.Count;

    /// <summary>I.</summary>
    public int Inner => Gate.N;

    /// <summary>Experts 0 … count − 1 of it. Their low-rank pairs are views that the caller disposes.</summary>
    internal ExpertSet First(int count) => new(Gate.First(count), Up.First(count), Down.First(count), Lora?.Map(t => t.Slice(0, count))) { Glu = Glu };

    /// <summary>What the tape must see, in the order of <see cref="RoutedExperts"/>'s inputs after x, weights and indices.</summary>
    internal Tensor[] Trained => Lora is { } l ? l.All
        : Gate.Stacked is { RequiresGrad: true } gate ? [gate, Up.Stacked!, Down.Stacked!] : [];
}

/// <summary>What the CPU takes of a visit of rows on a card.</summary>
/// <param name="Groups">The first groups; fewer than all.</param>
/// <param name="Lora">The low-rank pairs in host memory, null where there are none.</param>
internal sealed record HostShare(int Groups, ExpertLora? Lora);

/// <summary>
/// Decides dropout inside the experts: the key of the layer in this step, and the number of the first route (token · k + choice) in the whole stream, so
/// that masks do not depend on chunking.
/// </summary>
public readonly record struct RouteKey(ulong Key, long FirstRoute);

/// <summary>Low-rank pairs of all experts of a layer; scale = alpha / rank (or rslora's).</summary>
public sealed record ExpertLora(Tensor GateA, Tensor GateB, Tensor UpA, Tensor UpB, Tensor DownA, Tensor DownB, float Scale, float Dropout = 0)
    : IDisposable
{
    /// <summary>Where the pairs lie.</summary>
    public Device Device => GateA.Device;

    internal Tensor[] All => [GateA, GateB, UpA, UpB, DownA, DownB];

    /// <summary>In the order of <see cref="Weights.ExpertNames.All"/>.</summary>
    internal (Tensor A, Tensor B)[] Matrices => [(GateA, GateB), (UpA, UpB), (DownA, DownB)];

    public void Dispose()
    {
        foreach (var tensor in All) tensor.Dispose();
    }

    /// <summary>Other tensors in the place of these.</summary>
    internal ExpertLora Map(Func<Tensor, Tensor> replace) => this with
    {
        GateA = replace(GateA),
        GateB = replace(GateB),
        UpA = replace(UpA),
        UpB = replace(UpB),
        DownA = replace(DownA),
        DownB = replace(DownB),
    };
}

/// <summary>
/// y[t] = Σ_j weights[t,j] · down_e( silu(gate_e x[t]) · up_e x[t] ), e = indices[t,j]; each projection with its low-rank pair where there is one; in the
/// place of silu(g) · u stands <see cref="ExpertSet.Glu"/> where there is one.
/// x [T, D]; weights F32 [T, k]; indices I32 [T, k]; y like x. Rows are sorted by expert once, so every expert's matrices are read once for all its rows;
/// experts without rows are never touched. Saves g, u [R, I], the routes' order, and p = A·input [R, r] of each projection; R = T·k. On a card only the
/// order is kept: see <see cref="RoutedExpertsCuda"/>.
/// </summary>
/// <param name="valueUnused">The pass is for its gradients alone: nobody will read y, which is zeros then, and the down projection is left out.</param>
public sealed class RoutedExperts(ExpertSet experts, RouteKey dropoutKey = default, bool valueUnused = false) : Op
{
    private RoutedExpertsCuda? _onGpu;

    public static Tensor Apply(Tensor x, Tensor weights, Tensor indices, ExpertSet experts, ulong dropoutKey = 0, long firstRoute = 0,
        bool valueUnused = false) =>
        new RoutedExperts(experts, new RouteKey(dropoutKey, firstRoute), valueUnused).Run([x, weights, indices, .. experts.Trained])[0];

    protected override Frame Prepare(Tensor[] inputs)
    {
        var (x, weights, indices) = (inputs[0], inputs[1], inputs[2]);
        ExpectFloat(x, "x");
        if (x.Rank != 2 || x.Width != experts.Gate.K) throw Wrong($"x must be [T, {experts.Gate.K}], the experts' input width, but is {x}");
        Expect(weights, "weights", DType.F32, x.Dim(0), weights.Width);
        Expect(indices, "indices", DType.I32, weights.Shape);
        int R = checked((int)indices.Count), I = experts.Inner;
        if (experts.Glu is { } glu) Expect(glu.Biases, "biases of gate and up", DType.F32, experts.Count, 2 * I);
        if (experts.Lora is { } lora) CheckLora(lora, x.Width, I);
        List<Tensor> saved = [Allocate(x, DType.I32, experts.Count + 1), Allocate(x, DType.I32, R)];
        if (x.Device.Kind == DeviceKind.Cuda || IsPlannedOnGpu(x))
        {
            saved.Add(Allocate(x, DType.I32, R)); // the sorted row of each route
            return new Frame(inputs, [Allocate(x, x.Type, x.Shape)], [.. saved]);
        }
        saved.AddRange([Allocate(x, x.Type, R, I), Allocate(x, x.Type, R, I)]);
        if (experts.Lora is { } pairs)
        {
            foreach (var a in (Tensor[])[pairs.GateA, pairs.UpA, pairs.DownA]) saved.Add(Allocate(x, DType.F32, R, a.Dim(1)));
        }
        return new Frame(inputs, [Allocate(x, x.Type, x.Shape)], [.. saved]);
    }

    /// <summary>Shapes without memory that stand for a card.</summary>
    private bool IsPlannedOnGpu(Tensor x) => x.Device.Kind == DeviceKind.Meta && experts.OnGpu is not null;

    /// <summary>Rows gathered for the experts [R, D] and h [R, I].</summary>
    protected override long ScratchBytes(Frame f) => IsPlannedOnGpu(f.Inputs[0])
        ? RoutedExpertsCuda.ScratchBytes(experts, f.Inputs[0], f.Inputs[2].Count, backward: false)
        : f.Inputs[2].Count * (f.Inputs[0].Width + experts.Inner) * f.Inputs[0].Type.Size();

    protected override void Plain(Frame f) => RoutedExpertsPlain.Forward(f, experts, dropoutKey);

    protected override void Cpu(Frame f)
    {
        var (x, weights, indices) = (f.Inputs[0], f.Inputs[1], f.Inputs[2]);
        var offsets = Routes.Sort(indices, experts.Count, f.Saved[0], f.Saved[1]);
        new ExpertRows(experts, dropoutKey, offsets, f.Saved[1].ToInts()).Forward(x, weights, new ExpertActivations(f.Saved[2], f.Saved[3], f.Saved[4..]),
            f.Outputs[0], valueUnused);
    }

    protected override void Cuda(Frame f)
    {
        _onGpu = new RoutedExpertsCuda(experts, dropoutKey);
        _onGpu.Forward(f, valueUnused);
    }

    protected internal override Tensor?[] Backward(Frame f, Tensor?[] dOut)
    {
        var trains = false;
        for (var i = 3; i < f.Inputs.Length; i++) trains |= f.Needs(i);
        var outputs = new RoutedExpertsGrad(experts, dropoutKey, trains, _onGpu?.Offsets).Run([dOut[0]!, .. f.Inputs[..3], .. f.Saved, .. f.Inputs[3..]]);
        return [outputs[0], outputs[1], null, .. trains ? outputs[2..] : new Tensor?[f.Inputs.Length - 3]];
    }

    /// <summary>A mask for projection 0 gate, 1 up, 2 down; rows are numbered by route, so that sorting does not change it.</summary>
    internal static DropoutMask Mask(ExpertSet experts, RouteKey key, int projection) =>
        new(experts.Lora?.Dropout ?? 0, DropoutMask.Mix(key.Key + (ulong)projection), key.FirstRoute);

    private void CheckLora(ExpertLora lora, int D, int I)
    {
        var E = experts.Count;
        void Pair(string name, Tensor a, Tensor b, int input, int output)
        {
            Expect(a, name + " A", DType.F32, E, a.Dim(1), input);
            Expect(b, name + " B", DType.F32, E, output, a.Dim(1));
        }
        Pair("gate", lora.GateA, lora.GateB, D, I);
        Pair("up", lora.UpA, lora.UpB, D, I);
        Pair("down", lora.DownA, lora.DownB, I, D);
    }
}
