using KtNotebooks.Autograd;
using KtNotebooks.Formats;
using KtNotebooks.Nn;
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

    public int Count => Gate.Count;

    /// <summary>I.</summary>
    public int Inner => Gate.N;

    /// <summary>Bytes of the matrices in ordinary memory of this process: not mapped from a file, pinned or on a card.</summary>
    internal long OrdinaryBytes => Gate.OrdinaryBytes + Up.OrdinaryBytes + Down.OrdinaryBytes;

    /// <summary>Whether every expert has matrices of its own, row by row.</summary>
    internal bool IsEachInRows => new[] { Gate, Up, Down }.All(m => m.Stacked is null && m.Layout == MatrixLayout.Rows);

    /// <summary>Experts 0 … count − 1 of it. Their low-rank pairs are views that the caller disposes.</summary>
    internal ExpertSet First(int count) => new(Gate.First(count), Up.First(count), Down.First(count), Lora?.Map(t => t.Slice(0, count))) { Glu = Glu };

    /// <summary>What the tape must see, in the order of <see cref="RoutedExperts"/>'s inputs after x, weights and indices.</summary>
    internal Tensor[] Trained => Lora is { } l ? l.All
        : Gate.Stacked is { RequiresGrad: true } gate ? [gate, Up.Stacked!, Down.Stacked!] : [];
}

/// <summary>
/// Decides dropout inside the experts: the key of the layer in this step, and the number of the first route (token · k + choice) in the whole stream, so
/// that masks do not depend on chunking.
/// </summary>
public readonly record struct RouteKey(ulong Key, long FirstRoute)
{
    internal DropoutMask Mask(ExpertSet experts, int projection) => new(experts.Lora?.Dropout ?? 0, DropoutMask.Mix(Key + (ulong)projection), FirstRoute);
}

/// <summary>Low-rank pairs of all experts of a layer; scale = alpha / rank (or rslora's).</summary>
public sealed record ExpertLora(Tensor GateA, Tensor GateB, Tensor UpA, Tensor UpB, Tensor DownA, Tensor DownB, float Scale, float Dropout = 0)
    : LoraWeights(Scale, Dropout)
{
    /// <summary>Where the pairs lie.</summary>
    public Device Device => GateA.Device;

    internal Tensor[] All => [GateA, GateB, UpA, UpB, DownA, DownB];

    /// <summary>In the order of <see cref="Weights.ExpertNames.All"/>.</summary>
    public override IReadOnlyList<(Tensor A, Tensor B)> Pairs => [(GateA, GateB), (UpA, UpB), (DownA, DownB)];

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
/// experts without rows are never touched. What is kept for the gradient is the executor's: see <see cref="HostState"/> and <see cref="GpuState"/>.
/// </summary>
public sealed class RoutedExperts : Op
{
    private readonly ExpertCall _call;
    private readonly IExpertExecutor _executor;

    private RoutedExperts(ExpertCall call, IExpertExecutor executor) => (_call, _executor) = (call, executor);

    /// <summary>Experts that no executor was given: they are computed where the rows are.</summary>
    public static Tensor Apply(Tensor x, Tensor weights, Tensor indices, ExpertSet experts, ulong dropoutKey = 0)
    {
        ArgumentNullException.ThrowIfNull(x);
        return Apply(new ExpertCall(experts, new RouteKey(dropoutKey, 0), x, weights, indices), UnplacedExperts.On(x.Device));
    }

    internal static Tensor Apply(ExpertCall call, IExpertExecutor executor) =>
        new RoutedExperts(call, executor).Run([call.X, call.Weights, call.Indices, .. call.Experts.Trained])[0];

    protected override Frame Prepare(Tensor[] inputs)
    {
        var (x, weights, indices, experts) = (_call.X, _call.Weights, _call.Indices, _call.Experts);
        ExpectFloat(x, "x");
        if (x.Rank != 2 || x.Width != experts.Gate.K) throw Wrong($"x must be [T, {experts.Gate.K}], the experts' input width, but is {x}");
        Expect(weights, "weights", DType.F32, x.Dim(0), weights.Width);
        Expect(indices, "indices", DType.I32, weights.Shape);
        if (experts.Glu is { } glu) Expect(glu.Biases, "biases of gate and up", DType.F32, experts.Count, 2 * experts.Inner);
        if (experts.Lora is { } lora) CheckLora(lora, experts.Count, x.Width, experts.Inner);
        return new Frame(inputs, [Allocate(x, x.Type, x.Shape)]) { State = _executor.NewState(_call) };
    }

    protected override long ScratchBytes(Frame f) => _executor.ScratchBytes(_call, backward: false);

    /// <summary>Trained matrices that cross the bus.</summary>
    protected override bool MayLieElsewhere(int input) => input >= 3;

    protected override void Plain(Frame f) => RoutedExpertsPlain.Forward(_call, (HostState)f.State!, f.Outputs[0]);

    protected override void Cpu(Frame f) => _executor.Forward(_call, (ExpertState)f.State!, f.Outputs[0]);

    protected override void Cuda(Frame f) => Cpu(f);

    protected internal override Tensor?[] Backward(Frame f, Tensor?[] dOut)
    {
        var trains = false;
        for (var i = 3; i < f.Inputs.Length; i++) trains |= f.Needs(i);
        var outputs = new RoutedExpertsGrad(_call, _executor, (ExpertState)f.State!, trains).Run([dOut[0]!, .. f.Inputs]);
        return [outputs[0], outputs[1], null, .. trains ? outputs[2..] : new Tensor?[f.Inputs.Length - 3]];
    }

    private void CheckLora(ExpertLora lora, int E, int D, int I)
    {
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
