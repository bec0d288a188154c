using System.Numerics.Tensors;

using KtNotebooks.Autograd;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>
/// Gradient of <see cref="RoutedExperts"/>. With dh' = down_eᵀ dy[t] (not yet weighted):
/// dweight = dh' · h ; dh = weight · dh' ; (dg, du) from SwiGLU ; dx[t] = Σ_routes gate_eᵀ dg + up_eᵀ du ; parameter gradients as in GroupedMatmul.
/// The down projection's output is not needed again, so the forward does not keep it.
/// Inputs dy, x, weights, indices, offsets, routes, g, u [, pGate, pUp, pDown, then the trained tensors], on a card the sorted row of each route in the place of g, u and p; outputs dx, dweights [, gradients of the trained tensors].
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
    protected override long ScratchBytes(Frame f) => experts.OnCard is not null ? RoutedExpertsCuda.ScratchBytes(experts, f.Inputs[1], f.Inputs[3].Count, backward: true) : f.Inputs[3].Count * ((4L * (f.Inputs[1].Width + experts.Width) * f.Inputs[1].Type.Size()) + (3L * sizeof(float) * (experts.Lora is { } l ? l.GateA.Dim(1) : 0)));

    protected override void Plain(Frame f) => RoutedExpertsPlain.Backward(f, experts, dropoutKey, wantsParameters);

    protected override void Cuda(Frame f) => new RoutedExpertsCuda(experts, dropoutKey).Backward(f, offsets!, wantsParameters);

    protected override void Cpu(Frame f)
    {
        var (dy, x, weights) = (f.Inputs[0], f.Inputs[1], f.Inputs[2]);
        var (g, u, lora) = (f.Inputs[6], f.Inputs[7], experts.Lora);
        var (offsets, routes) = (f.Inputs[4].ToInts(), f.Inputs[5].ToInts());
        var k = weights.Width;
        var gradients = wantsParameters ? f.Outputs[2..] : null;

        using var dys = Routes.GatherTokens(dy, routes, k);
        using var dh = Allocate(g, g.Type, g.Shape);
        using var h = Allocate(g, g.Type, g.Shape);
        SwiGlu.Forward(g, u, h);
        using var qDown = LowRank(lora?.DownA, routes.Length);
        BackProject(offsets, routes, dys, experts.Down, lora?.DownA, lora?.DownB, 2, qDown, dh);
        var rowWeights = new float[routes.Length];
        WeightGrad(dh, h, routes, weights, f.Outputs[1], rowWeights);
        if (wantsParameters)
        {
            ScaleRows(dys, rowWeights); // from here on the gradient of the weighted output
            if (qDown is not null) ScaleRows(qDown, rowWeights);
            ParameterGrad(offsets, routes, h, dys, 2, f, qDown, gradients!);
        }

        using var dg = Allocate(g, g.Type, g.Shape);
        using var du = Allocate(g, g.Type, g.Shape);
        SwiGlu.Backward(dh, g, u, dg, du, rowWeights);
        using var dxs = Allocate(x, x.Type, routes.Length, x.Width);
        using var dxUp = Allocate(x, x.Type, routes.Length, x.Width);
        using var qGate = LowRank(lora?.GateA, routes.Length);
        using var qUp = LowRank(lora?.UpA, routes.Length);
        BackProject(offsets, routes, dg, experts.Gate, lora?.GateA, lora?.GateB, 0, qGate, dxs);
        BackProject(offsets, routes, du, experts.Up, lora?.UpA, lora?.UpB, 1, qUp, dxUp);
        GradientSum.AddInto(dxs, dxUp);
        Routes.Combine(dxs, routes, null, f.Outputs[0]);
        if (!wantsParameters) return;
        using var xs = Routes.GatherTokens(x, routes, k);
        ParameterGrad(offsets, routes, xs, dg, 0, f, qGate, gradients!);
        ParameterGrad(offsets, routes, xs, du, 1, f, qUp, gradients!);
    }

    private static Tensor? LowRank(Tensor? a, int rows) => a is null ? null : Allocate(a, DType.F32, rows, a.Dim(1));

    /// <summary>dInput = Wᵀ dOutput + m∘(Aᵀ q), q = scale · Bᵀ dOutput.</summary>
    private void BackProject(int[] offsets, int[] routes, Tensor dOutput, Matrices w, Tensor? a, Tensor? b, int projection, Tensor? q, Tensor dInput)
    {
        if (a is null || b is null)
        {
            GroupedMatmul.InputGrad(offsets, dOutput, w, null, null, 0, null, dInput, null);
            return;
        }
        var mask = RoutedExperts.Mask(experts, dropoutKey, projection);
        using var low = mask.Active ? Allocate(dInput, dInput.Type, dInput.Shape) : null;
        GroupedMatmul.InputGrad(offsets, dOutput, w, Matrices.Stack(a), Matrices.Stack(b), experts.Lora!.Scale, q, dInput, low);
        if (low is null) return;
        mask.Apply(low, low, routes);
        GradientSum.AddInto(dInput, low);
    }

    private void ParameterGrad(int[] offsets, int[] routes, Tensor input, Tensor dOutput, int projection, Frame f, Tensor? q, Tensor[] gradients)
    {
        if (experts.Lora is null)
        {
            GroupedMatmul.WeightGrad(offsets, input, dOutput, Matrices.Stack(gradients[projection]));
            return;
        }
        using var masked = Routes.Masked(input, routes, RoutedExperts.Mask(experts, dropoutKey, projection));
        GroupedMatmul.LoraGrad(offsets, masked ?? input, f.Inputs[8 + projection], dOutput, q!, experts.Lora.Scale, Matrices.Stack(gradients[2 * projection]), Matrices.Stack(gradients[(2 * projection) + 1]));
    }

    /// <summary>dweights[route] = dh'[i] · h[i]; rowWeights[i] = weights[route of i].</summary>
    private static void WeightGrad(Tensor dh, Tensor h, int[] routes, Tensor weights, Tensor dWeights, float[] rowWeights) => RowParallel.For(routes.Length, h.Width, (first, last) =>
    {
        var (a, b) = (new float[h.Width], new float[h.Width]);
        for (var i = first; i < last; i++)
        {
            rowWeights[i] = weights.Span<float>()[routes[i]];
            dWeights.Span<float>()[routes[i]] = TensorPrimitives.Dot(FloatRows.Load(dh, i, a), FloatRows.Load(h, i, b));
        }
    });

    private static void ScaleRows(Tensor rows, float[] scale) => RowParallel.For(rows.Rows, rows.Width, (first, last) =>
    {
        var scratch = new float[rows.Width];
        for (var i = first; i < last; i++)
        {
            var target = FloatRows.Target(rows, i, scratch);
            TensorPrimitives.Multiply(FloatRows.Load(rows, i, scratch), scale[i], target);
            FloatRows.Store(rows, i, target);
        }
    });
}
