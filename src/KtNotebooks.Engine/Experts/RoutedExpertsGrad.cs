using KtNotebooks.Autograd;
using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>
/// Gradient of <see cref="RoutedExperts"/>. With dh' = down_eᵀ dy[t] (not yet weighted):
/// dweight = dh' · h ; dh = weight · dh' ; (dg, du) from SwiGLU ; dx[t] = Σ_routes gate_eᵀ dg + up_eᵀ du ; parameter gradients as in GroupedMatmul.
/// The down projection's output is not needed again, so the forward does not keep it.
/// Inputs dy and those of the forward; outputs dx, dweights [, gradients of the trained tensors, F32, where those lie: the gradients of matrices that cross
/// the bus are written by the card straight into pinned host memory, bank by bank].
/// </summary>
internal sealed class RoutedExpertsGrad(ExpertCall call, IExpertExecutor executor, ExpertState state, bool wantsParameters) : GradOp
{
    protected override Frame Prepare(Tensor[] inputs)
    {
        List<Tensor> outputs = [Allocate(call.X, call.X.Type, call.X.Shape), Allocate(call.X, DType.F32, call.Weights.Shape)];
        if (wantsParameters)
            foreach (var trained in call.Experts.Trained)
                outputs.Add(LiesElsewhere(trained) ? PinnedBuffer.Rent(call.X.Gpu(), DType.F32, trained.Shape) : Allocate(trained, DType.F32, trained.Shape));
        return new Frame(inputs, [.. outputs]);
    }

    protected override long ScratchBytes(Frame f) => executor.ScratchBytes(call, backward: true);

    protected override void Plain(Frame f) => RoutedExpertsPlain.Backward(call, (HostState)state, f.Inputs[0], To(f));

    protected override void Cpu(Frame f) => executor.Backward(call, state, f.Inputs[0], To(f));

    /// <summary>What a card wrote into host memory may be added to there as soon as this ends.</summary>
    protected override void Cuda(Frame f)
    {
        Cpu(f);
        if (wantsParameters && call.Experts.Trained.Any(LiesElsewhere)) call.X.Gpu().Compute.Synchronize();
    }

    /// <summary>dy stands before the forward's inputs.</summary>
    protected override bool MayLieElsewhere(int input) => input >= 4;

    private bool LiesElsewhere(Tensor trained) => trained.Device.Kind == DeviceKind.Cpu && call.X.Device.Kind == DeviceKind.Cuda;

    private ExpertGradients To(Frame f) => new(f.Outputs[0], f.Outputs[1], wantsParameters ? f.Outputs[2..] : null);
}
