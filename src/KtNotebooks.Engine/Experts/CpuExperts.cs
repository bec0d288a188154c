using System.Numerics.Tensors;

using KtNotebooks.Formats;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>The CPU computes, with the experts where they lie. One for all banks: it holds nothing.</summary>
internal sealed class CpuExperts : IExpertExecutor
{
    public static CpuExperts Instance { get; } = new();

    /// <summary>Forward: rows gathered for the experts [R, D] and h [R, I]. Backward: dy, both parts of dx and x by route [R, D]; h, dh, dg, du [R, I]; q
    /// of three projections [R, r].</summary>
    public long ScratchBytes(ExpertCall call, bool backward)
    {
        var row = (call.X.Width + call.Experts.Inner) * call.X.Type.Size();
        return !backward ? (long)call.Routes * row : call.Routes * ((4L * row) + (3L * sizeof(float) * (call.Experts.Lora is { } l ? l.GateA.Dim(1) : 0)));
    }

    public ExpertState NewState(ExpertCall call) => call is { ValueUnused: true, Kept: var (states, bank) }
        && states.Take(bank, call.Key.FirstRoute) is HostState kept ? kept : new HostState(Tensor.Empty(DType.I32, call.X.Device, call.Experts.Count + 1),
        Tensor.Empty(DType.I32, call.X.Device, call.Routes), ExpertActivations.Of(call.Experts, call.X, call.Routes));

    public void Forward(ExpertCall call, ExpertState state, Tensor y)
    {
        var host = (HostState)state;
        if (host.IsOf(call.Indices))
        {
            Memory.Clear(y); // nobody reads it
            return;
        }
        var offsets = Routes.Sort(call.Indices, call.Experts.Count, state.Offsets, state.Routes);
        new ExpertRows(call.Experts, call.Key, offsets, state.Routes.ToInts()).Forward(call.X, call.Weights, host.Kept, y, call.ValueUnused);
        if (call is { ValueUnused: false, Kept: var (states, bank) }) states.Keep(bank, call.Key.FirstRoute, host.Filled());
    }

    public void Backward(ExpertCall call, ExpertState state, Tensor dy, ExpertGradients to) =>
        new ExpertRows(call.Experts, call.Key, state.Offsets.ToInts(), state.Routes.ToInts())
            .Backward(dy, call.X, call.Weights, ((HostState)state).Kept, to.X, to.Weights, to.Trained);

    public void Dispose()
    {
    }
}

/// <summary>What the CPU keeps for the gradient. Freed when all who hold it have let go: an op's frame, and what waits for the backward pass.</summary>
internal sealed class HostState(Tensor offsets, Tensor routes, ExpertActivations kept) : ExpertState(offsets, routes)
{
    private int _holders = 1;
    private bool _isFilled;

    public ExpertActivations Kept => kept;

    internal override IEnumerable<Tensor> Tensors => [.. base.Tensors, kept.Gate, kept.Up, .. kept.P];

    /// <summary>For one more holder, who will find the activations in it.</summary>
    public HostState Filled()
    {
        _isFilled = true;
        Interlocked.Increment(ref _holders);
        return this;
    }

    /// <summary>Whether it is filled, for these choices: a pass that is computed again must have made them again.</summary>
    public bool IsOf(Tensor indices)
    {
        if (!_isFilled) return false;
        var chosen = indices.Span<int>();
        var starts = Offsets.Span<int>();
        var sorted = Routes.Span<int>();
        for (var e = 0; e + 1 < starts.Length; e++)
            for (var i = starts[e]; i < starts[e + 1]; i++)
                if (chosen[sorted[i]] != e) return false;
        return true;
    }

    public override void Dispose()
    {
        if (Interlocked.Decrement(ref _holders) > 0) return;
        base.Dispose();
        kept.Dispose();
    }
}

/// <summary>Of R sorted rows: g, u [R, I] and, with low-rank pairs, p = A·input F32 [R, r] of gate, up and down.</summary>
internal sealed record ExpertActivations(Tensor Gate, Tensor Up, Tensor[] P) : IDisposable
{
    public static ExpertActivations Of(ExpertSet experts, Tensor like, int rows) => new(Tensor.Empty(like.Type, like.Device, rows, experts.Inner),
        Tensor.Empty(like.Type, like.Device, rows, experts.Inner), experts.Lora is { } l
            ? [.. ((Tensor[])[l.GateA, l.UpA, l.DownA]).Select(a => Tensor.Empty(DType.F32, like.Device, rows, a.Dim(1)))] : []);

    public void Dispose()
    {
        foreach (var tensor in (Tensor[])[Gate, Up, .. P]) tensor.Dispose();
    }
}

/// <summary>
/// <see cref="RoutedExperts"/> and its gradient on the CPU for routes that are sorted by expert: all experts of a set, or those of a share of it. Rows
/// [offsets[e], offsets[e+1]) belong to expert e; routes[i] = t·k + j is the route of row i, by which rows find their token, their weight and their dropout
/// mask, so a share computes what the whole would.
/// </summary>
internal sealed class ExpertRows(ExpertSet experts, RouteKey key, int[] offsets, int[] routes)
{
    /// <summary>
    /// y[t] = Σ over the routes that are here, F32 or like x; tokens without one get zeros. valueUnused: only the activations are filled, y is zeros.
    /// </summary>
    public void Forward(Tensor x, Tensor weights, ExpertActivations saved, Tensor y, bool valueUnused)
    {
        if (NativeExperts.Take(experts, key, x))
        {
            new NativeExperts(experts, offsets, routes).Forward(x, weights, saved, y, valueUnused);
            return;
        }
        var lora = experts.Lora;
        using var xs = Routes.GatherTokens(x, routes, weights.Width);
        Project(xs, experts.Gate, lora?.GateA, lora?.GateB, 0, saved, saved.Gate);
        Project(xs, experts.Up, lora?.UpA, lora?.UpB, 1, saved, saved.Up);
        using var h = Tensor.Empty(saved.Gate.Type, saved.Gate.Shape);
        Activate(saved.Gate, saved.Up, h);
        if (valueUnused)
        {
            if (lora is not null) LowRankInput(h, lora.DownA, 2, saved);
            Memory.Clear(y);
            return;
        }
        Project(h, experts.Down, lora?.DownA, lora?.DownB, 2, saved, xs);
        Routes.Combine(xs, routes, weights.Width, weights, y);
    }

    /// <summary>
    /// Fills dx [T, D] with the sum over the routes that are here, dWeights at these routes, and the gradients of the trained tensors (null: none is
    /// wanted).
    /// </summary>
    public void Backward(Tensor dy, Tensor x, Tensor weights, ExpertActivations saved, Tensor dx, Tensor dWeights, Tensor[]? gradients)
    {
        if (NativeExperts.Take(experts, key, x))
        {
            new NativeExperts(experts, offsets, routes).Backward(dy, x, weights, saved, dx, dWeights, gradients);
            return;
        }
        var (g, u, lora) = (saved.Gate, saved.Up, experts.Lora);
        var k = weights.Width;
        using var dys = Routes.GatherTokens(dy, routes, k);
        using var dh = Tensor.Empty(g.Type, g.Shape);
        using var h = Tensor.Empty(g.Type, g.Shape);
        Activate(g, u, h);
        using var qDown = LowRank(lora?.DownA);
        BackProject(dys, experts.Down, lora?.DownA, lora?.DownB, 2, qDown, dh);
        var rowWeights = new float[routes.Length];
        WeightGrad(routes, dh, h, weights, dWeights, rowWeights);
        if (gradients is not null)
        {
            ScaleRows(dys, rowWeights); // from here on the gradient of the weighted output
            if (qDown is not null) ScaleRows(qDown, rowWeights);
            ParameterGrad(h, dys, 2, saved, qDown, gradients);
        }

        using var dg = Tensor.Empty(g.Type, g.Shape);
        using var du = Tensor.Empty(g.Type, g.Shape);
        if (experts.Glu is { } glu) glu.Backward(dh, g, u, dg, du, rowWeights, offsets);
        else SwiGlu.Backward(dh, g, u, dg, du, rowWeights);
        using var dxs = Tensor.Empty(x.Type, routes.Length, x.Width);
        using var dxUp = Tensor.Empty(x.Type, routes.Length, x.Width);
        using var qGate = LowRank(lora?.GateA);
        using var qUp = LowRank(lora?.UpA);
        BackProject(dg, experts.Gate, lora?.GateA, lora?.GateB, 0, qGate, dxs);
        BackProject(du, experts.Up, lora?.UpA, lora?.UpB, 1, qUp, dxUp);
        Autograd.GradientSum.AddInto(dxs, dxUp);
        Routes.Combine(dxs, routes, k, null, dx);
        if (gradients is null) return;
        using var xs = Routes.GatherTokens(x, routes, k);
        ParameterGrad(xs, dg, 0, saved, qGate, gradients);
        ParameterGrad(xs, du, 1, saved, qUp, gradients);
    }

    private void Activate(Tensor g, Tensor u, Tensor h)
    {
        if (experts.Glu is { } glu) glu.Forward(g, u, h, offsets);
        else SwiGlu.Forward(g, u, h);
    }

    private DropoutMask Mask(int projection) => key.Mask(experts, projection);

    private void Project(Tensor input, Matrices w, Tensor? a, Tensor? b, int projection, ExpertActivations saved, Tensor output)
    {
        if (a is null || b is null)
        {
            GroupedMatmul.Forward(offsets, input, null, w, null, null, 0, null, output);
            return;
        }
        using var masked = Routes.Masked(input, routes, Mask(projection));
        GroupedMatmul.Forward(offsets, input, masked, w, Matrices.Stack(a), Matrices.Stack(b), experts.Lora!.Scale, saved.P[projection], output);
    }

    /// <summary>p = A·input alone, for the backward of a projection whose output nobody reads.</summary>
    private void LowRankInput(Tensor input, Tensor a, int projection, ExpertActivations saved)
    {
        using var masked = Routes.Masked(input, routes, Mask(projection));
        GroupedMatmul.Forward(offsets, masked ?? input, null, Matrices.Stack(a), null, null, 0, null, saved.P[projection]);
    }

    private Tensor? LowRank(Tensor? a) => a is null ? null : Tensor.Empty(DType.F32, routes.Length, a.Dim(1));

    /// <summary>dInput = Wᵀ dOutput + m∘(Aᵀ q), q = scale · Bᵀ dOutput.</summary>
    private void BackProject(Tensor dOutput, Matrices w, Tensor? a, Tensor? b, int projection, Tensor? q, Tensor dInput)
    {
        if (a is null || b is null)
        {
            GroupedMatmul.InputGrad(offsets, dOutput, w, null, null, 0, null, dInput, null);
            return;
        }
        var mask = Mask(projection);
        using var low = mask.Active ? Tensor.Empty(dInput.Type, dInput.Shape) : null;
        GroupedMatmul.InputGrad(offsets, dOutput, w, Matrices.Stack(a), Matrices.Stack(b), experts.Lora!.Scale, q, dInput, low);
        if (low is null) return;
        mask.Apply(low, low, routes);
        Autograd.GradientSum.AddInto(dInput, low);
    }

    private void ParameterGrad(Tensor input, Tensor dOutput, int projection, ExpertActivations saved, Tensor? q, Tensor[] gradients)
    {
        if (experts.Lora is null)
        {
            GroupedMatmul.WeightGrad(offsets, input, dOutput, Matrices.Stack(gradients[projection]));
            return;
        }
        using var masked = Routes.Masked(input, routes, Mask(projection));
        GroupedMatmul.LoraGrad(offsets, masked ?? input, saved.P[projection], dOutput, q!, experts.Lora.Scale, Matrices.Stack(gradients[2 * projection]),
            Matrices.Stack(gradients[(2 * projection) + 1]));
    }

    /// <summary>dweights[route] = dh'[i] · h[i]; rowWeights[i] = weights[route of i].</summary>
    internal static void WeightGrad(int[] routes, Tensor dh, Tensor h, Tensor weights, Tensor dWeights, float[] rowWeights) =>
        RowParallel.For(routes.Length, h.Width, (first, last) =>
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
