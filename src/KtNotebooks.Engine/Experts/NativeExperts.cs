using KtNotebooks.Formats;
using KtNotebooks.Interop;
using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>
/// What <see cref="ExpertRows"/> computes, in two native calls (kt.h: kt_experts_forward, kt_experts_grad): rows are gathered where they are packed, gate and
/// up meet the same packed rows, h is never stored by the forward. For BF16 rows, SwiGLU and frozen experts without dropout; everything else goes by single
/// products.
/// </summary>
internal sealed unsafe class NativeExperts
{
    private readonly ExpertSet _experts;
    private readonly int[] _offsets, _routes;

    public NativeExperts(ExpertSet experts, int[] offsets, int[] routes) => (_experts, _offsets, _routes) = (experts, offsets, routes);

    private int R => _routes.Length;

    /// <summary>Whether these rows are for it.</summary>
    public static bool Take(ExpertSet experts, RouteKey key, Tensor x) =>
        Cpu.IsNative && x.Type == DType.BF16 && experts.Glu is null && (experts.Lora is not null || experts.Trained.Length == 0)
        && experts.Gate.Type != DType.F32 && !key.Mask(experts, 0).Active;

    /// <inheritdoc cref="ExpertRows.Forward"/>
    public void Forward(Tensor x, Tensor weights, ExpertActivations saved, Tensor y, bool valueUnused)
    {
        using var rows = valueUnused ? null : Tensor.Empty(DType.BF16, R, x.Width);
        Call(x, weights.Width, experts => Native.Ok(Native.kt_experts_forward((Native.Experts*)experts, (void*)x.Pointer, (float*)weights.Pointer,
            (void*)saved.Gate.Pointer, (void*)saved.Up.Pointer, Of(saved.P, 0), Of(saved.P, 1), Of(saved.P, 2), rows is null ? null : (void*)rows.Pointer,
            rows is null ? null : (void*)y.Pointer, Code(y.Type))));
        if (valueUnused) Memory.Clear(y);
    }

    /// <inheritdoc cref="ExpertRows.Backward"/>
    public void Backward(Tensor dy, Tensor x, Tensor weights, ExpertActivations saved, Tensor dx, Tensor dWeights, Tensor[]? gradients)
    {
        var I = _experts.Inner;
        using var rows = Tensor.Empty(DType.BF16, R, x.Width);
        using var h = Tensor.Empty(DType.BF16, R, I);
        using var dh = Tensor.Empty(DType.BF16, R, I);
        using var du = Tensor.Empty(DType.BF16, R, I);
        Tensor[] q = [.. saved.P.Select(p => Tensor.Empty(DType.F32, p.Shape))];
        try
        {
            nint[][] to = [.. (gradients ?? []).Select(g => Matrices.Stack(g).Pointers())];
            fixed (nint* aGate = At(to, 0), bGate = At(to, 1), aUp = At(to, 2), bUp = At(to, 3), aDown = At(to, 4), bDown = At(to, 5))
            {
                var work = new Native.ExpertsBackward
                {
                    Rows = (void*)rows.Pointer,
                    H = (void*)h.Pointer,
                    Dh = (void*)dh.Pointer,
                    Du = (void*)du.Pointer,
                    QGate = Of(q, 0),
                    QUp = Of(q, 1),
                    QDown = Of(q, 2),
                    DAGate = aGate,
                    DBGate = bGate,
                    DAUp = aUp,
                    DBUp = bUp,
                    DADown = aDown,
                    DBDown = bDown,
                };
                var at = (nint)(&work);
                Call(x, weights.Width, experts => Native.Ok(Native.kt_experts_grad((Native.Experts*)experts, (void*)dy.Pointer, (void*)x.Pointer,
                    (float*)weights.Pointer, (void*)saved.Gate.Pointer, (void*)saved.Up.Pointer, Of(saved.P, 0), Of(saved.P, 1), Of(saved.P, 2),
                    (Native.ExpertsBackward*)at, (void*)dx.Pointer, Code(dx.Type), (float*)dWeights.Pointer)));
            }
        }
        finally
        {
            foreach (var tensor in q) tensor.Dispose();
        }
    }

    /// <summary>Calls with the address of the experts, everything in it pinned.</summary>
    private void Call(Tensor x, int topK, Action<nint> call)
    {
        var lora = _experts.Lora;
        fixed (int* offsets = _offsets, routes = _routes)
        fixed (nint* gate = _experts.Gate.Pointers(), gateScales = _experts.Gate.ScalesPointers(), up = _experts.Up.Pointers(),
            upScales = _experts.Up.ScalesPointers(), down = _experts.Down.Pointers(), downScales = _experts.Down.ScalesPointers())
        fixed (nint* gateA = Stacked(lora?.GateA), gateB = Stacked(lora?.GateB), upA = Stacked(lora?.UpA), upB = Stacked(lora?.UpB),
            downA = Stacked(lora?.DownA), downB = Stacked(lora?.DownB))
        {
            var experts = new Native.Experts
            {
                Count = _experts.Count,
                TopK = topK,
                T = x.Rows,
                D = x.Width,
                I = _experts.Inner,
                Offsets = offsets,
                Routes = routes,
                Gate = new() { W = gate, ScalesW = gateScales, A = gateA, B = gateB, TypeW = _experts.Gate.NativeCode, Rank = Rank(lora?.GateA) },
                Up = new() { W = up, ScalesW = upScales, A = upA, B = upB, TypeW = _experts.Up.NativeCode, Rank = Rank(lora?.UpA) },
                Down = new() { W = down, ScalesW = downScales, A = downA, B = downB, TypeW = _experts.Down.NativeCode, Rank = Rank(lora?.DownA) },
                Scale = lora?.Scale ?? 0,
            };
            call((nint)(&experts));
        }
    }

    private static int Rank(Tensor? a) => a is null ? 0 : checked((int)a.Dim(1));

    private static nint[]? Stacked(Tensor? pair) => pair is null ? null : Matrices.Stack(pair).Pointers();

    private static nint[]? At(nint[][] arrays, int i) => arrays.Length == 0 ? null : arrays[i];

    private static float* Of(Tensor[] tensors, int i) => tensors.Length == 0 ? null : (float*)tensors[i].Pointer;

    private static int Code(DType type) => type == DType.F32 ? Native.F32 : Native.BF16;
}
