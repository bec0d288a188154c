using KtNotebooks.Autograd;
using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>
/// Gradient of <see cref="RoutedExperts"/>. With dh' = down_eᵀ dy[t] (not yet weighted):
/// dweight = dh' · h ; dh = weight · dh' ; (dg, du) from SwiGLU ; dx[t] = Σ_routes gate_eᵀ dg + up_eᵀ du ; parameter gradients as in GroupedMatmul.
/// The down projection's output is not needed again, so the forward does not keep it.
/// Inputs dy, x, weights, indices, offsets, routes, g, u [, pGate, pUp, pDown, then the trained tensors], on a card the sorted row of each route in the
/// place of g, u and p; outputs dx, dweights [, gradients of the trained tensors].
/// </summary>
/// <param name="offsets">Rows of each expert, of a forward on a card.</param>
internal sealed class RoutedExpertsGrad(ExpertSet experts, RouteKey dropoutKey, bool wantsParameters, int[]? offsets) : GradOp
{
    protected override Frame Prepare(Tensor[] inputs)
    {
        List<Tensor> outputs = [Allocate(inputs[1], inputs[1].Type, inputs[1].Shape), Allocate(inputs[1], DType.F32, inputs[2].Shape)];
        if (wantsParameters)
            foreach (var trained in experts.Trained) outputs.Add(Allocate(trained, DType.F32, trained.Shape));
        return new Frame(inputs, [.. outputs]);
    }

    /// <summary>dy, both parts of dx and x by route [R, D]; h, dh, dg, du [R, I]; q of three projections [R, r].</summary>
    protected override long ScratchBytes(Frame f) => experts.OnGpu is not null
        ? RoutedExpertsCuda.ScratchBytes(experts, f.Inputs[1], f.Inputs[3].Count, backward: true)
        : f.Inputs[3].Count * ((4L * (f.Inputs[1].Width + experts.Inner) * f.Inputs[1].Type.Size())
        + (3L * sizeof(float) * (experts.Lora is { } l ? l.GateA.Dim(1) : 0)));

    protected override void Plain(Frame f) => RoutedExpertsPlain.Backward(f, experts, dropoutKey, wantsParameters);

    protected override void Cuda(Frame f) => new RoutedExpertsCuda(experts, dropoutKey).Backward(f, offsets!, wantsParameters);

    protected override void Cpu(Frame f) => new ExpertRows(experts, dropoutKey, f.Inputs[4].ToInts(), f.Inputs[5].ToInts())
        .Backward(f.Inputs[0], f.Inputs[1], f.Inputs[2], new ExpertActivations(f.Inputs[6], f.Inputs[7], experts.Lora is null ? [] : f.Inputs[8..11]),
            f.Outputs[0], f.Outputs[1], wantsParameters ? f.Outputs[2..] : null);
}
