using KtNotebooks.Autograd;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>
/// Who computes the routed experts of a bank. <see cref="CpuExperts"/>: the CPU, where they lie; <see cref="StreamedExperts"/>: a GPU to which they come over
/// the bus; <see cref="ResidentExperts"/>: a GPU that has them; <see cref="SplitExperts"/>: CPU and GPU at the same time, each its share.
/// </summary>
internal interface IExpertExecutor : IDisposable
{
    /// <summary>The GPU at work; null: rows and adapters go where the experts lie.</summary>
    Device? Device => null;

    /// <summary>What experts come over the bus by, null where none do.</summary>
    ExpertStream? Stream => null;

    /// <summary>Where the rows of a visit, and its adapter, must be.</summary>
    Device? DeviceOf(ExpertVisit visit) => Device;

    /// <summary>The groups that cross the bus for a visit, in the order of forward.</summary>
    IEnumerable<GroupVisit> Schedule(ExpertVisit visit) => [];

    /// <summary>Bytes that a call takes beside inputs, outputs and state, and gives back when it ends: asked when a run is planned.</summary>
    long ScratchBytes(ExpertCall call, bool backward);

    /// <summary>Room for what <see cref="Forward"/> keeps for <see cref="Backward"/>, where the rows are.</summary>
    ExpertState NewState(ExpertCall call);

    /// <summary>Fills the state and, unless <see cref="ExpertCall.ValueUnused"/>, y [T, D].</summary>
    void Forward(ExpertCall call, ExpertState state, Tensor y);

    /// <summary>dy [T, D]; fills all of <paramref name="to"/>.</summary>
    void Backward(ExpertCall call, ExpertState state, Tensor dy, ExpertGradients to);
}

/// <summary>One pass of rows through a bank, before there are rows: R = T · k, gradients or values, and the low-rank pairs that act.</summary>
internal readonly record struct ExpertVisit(long Routes, bool Backward, ExpertLora? Lora);

/// <summary>Rows that meet experts: x [T, D]; weights F32 [T, k]; indices I32 [T, k]; the low-rank pairs of the experts lie on the same device.</summary>
internal sealed record ExpertCall(ExpertSet Experts, RouteKey Key, Tensor X, Tensor Weights, Tensor Indices)
{
    /// <summary>The pass is for its gradients alone: nobody will read y, which is zeros then, and the down projection is left out.</summary>
    public bool ValueUnused { get; init; }

    /// <summary>The backward pass will meet the state that this forward pass fills: gate and up are kept in it on a card too.</summary>
    public bool IsRemembered { get; init; }

    /// <summary>Where activations wait for the backward pass, and whose they are; null: they are computed again.</summary>
    public (KeptStates States, ExpertBank Bank)? Kept { get; init; }

    /// <summary>The low-rank pairs where they are kept, which may be the host, for the CPU's share of rows on a GPU.</summary>
    public ExpertLora? KeptLora { get; init; }

    /// <summary>Pairs row by row, in the place of those of <see cref="Experts"/>; null: the same for all. For experts on a card, in inference.</summary>
    public SeveralPairs? Several { get; init; }

    /// <summary>k.</summary>
    public int TopK => Weights.Width;

    /// <summary>R.</summary>
    public int Routes => checked((int)Indices.Count);

    /// <summary>R / E: what an expert gets of the rows on average.</summary>
    public long RowsEach => Routes / Experts.Count;

    public ExpertVisit Visit => new(Routes, ValueUnused, KeptLora);

    /// <summary>A mask for projection 0 gate, 1 up, 2 down; rows are numbered by route, so that sorting does not change it.</summary>
    public Ops.DropoutMask Mask(int projection) => Key.Mask(Experts, projection);
}

/// <summary>Gradients of x, of the weights and, where they are wanted, of <see cref="ExpertSet.Trained"/>.</summary>
internal sealed record ExpertGradients(Tensor X, Tensor Weights, Tensor[]? Trained);

/// <summary>
/// What a forward keeps: the routes sorted by expert. Rows [offsets[e], offsets[e+1]) belong to expert e, offsets I32 [E+1]; routes I32 [R], routes[i] = t·k +
/// j for row i.
/// </summary>
internal abstract class ExpertState(Tensor offsets, Tensor routes) : FrameState
{
    public Tensor Offsets => offsets;

    public Tensor Routes => routes;

    internal override IEnumerable<Tensor> Tensors => [offsets, routes];

    public override void Dispose()
    {
        offsets.Dispose();
        routes.Dispose();
    }
}
