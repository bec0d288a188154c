using KtNotebooks.Autograd;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>Head sizes of multi-head latent attention: H heads, n without and r with rotary part, v values.</summary>
public readonly record struct MlaShape(int H, int Nope, int Rope, int Value)
{
    /// <summary>n + r, the width of a query or key head.</summary>
    public int Head => Nope + Rope;
}

/// <summary>
/// Turns MLA's projections into attention heads: the rotary part of each query head and the one shared rotary key are rotated by position, and the shared
/// key is copied into every head. q [T, H·(n+r)], kv [T, H·(n+v)] (key and value of a head side by side), kr [T, r] → Q [T, H, n+r], K [T, H, n+r], V [T,
/// H, v]; one float type. A pair is (2i, 2i+1): out = (a·cos − b·sin, a·sin + b·cos). Backward turns the other way and sums dkr over heads.
/// DeepSeek-V2, section 2.1.
/// </summary>
public sealed class MlaHeads(MlaShape shape, RotaryTable table, int[] positions) : Op
{
    private static readonly CudaProgram Program = new(nameof(MlaHeads), CudaProgram.Resource("Ops.MlaHeads.cu"));

    public static (Tensor Q, Tensor K, Tensor V) Apply(Tensor q, Tensor kv, Tensor kr, MlaShape shape, RotaryTable table, int[] positions)
    {
        var heads = new MlaHeads(shape, table, positions).Run(q, kv, kr);
        return (heads[0], heads[1], heads[2]);
    }

    private MlaShape Shape => shape;

    protected override Frame Prepare(Tensor[] inputs)
    {
        var (q, T) = (inputs[0], positions.Length);
        ExpectFloat(q, "q");
        Expect(q, "q", q.Type, T, shape.H * shape.Head);
        Expect(inputs[1], "kv", q.Type, T, shape.H * (shape.Nope + shape.Value));
        Expect(inputs[2], "kr", q.Type, T, shape.Rope);
        foreach (var position in positions)
            if (position < 0) throw Wrong($"position {position} is negative");
        if (table.Pairs * 2 != shape.Rope) throw Wrong($"the rotary table is for width {table.Pairs * 2}, the heads have {shape.Rope}");
        return new Frame(inputs, [Allocate(q, q.Type, T, shape.H, shape.Head), Allocate(q, q.Type, T, shape.H, shape.Head),
            Allocate(q, q.Type, T, shape.H, shape.Value)]);
    }

    protected override void Plain(Frame f)
    {
        var (q, kv, kr) = (f.Inputs[0], f.Inputs[1], f.Inputs[2]);
        using var Q = f.Outputs[0].View(q.Shape);
        using var K = f.Outputs[1].View(q.Shape);
        using var V = f.Outputs[2].View(q.Dim(0), shape.H * shape.Value);
        var (H, n, r, v, head) = (shape.H, shape.Nope, shape.Rope, shape.Value, shape.Head);
        var (cos, sin) = Angles();
        RowParallel.For(q.Rows, H * head * 2L, (first, last) =>
        {
            var (a, b, c) = (new float[q.Width], new float[kv.Width], new float[r]);
            var (x, y, z) = (new float[q.Width], new float[q.Width], new float[H * v]);
            for (var t = first; t < last; t++)
            {
                var query = FloatRows.Load(q, t, a);
                var keyValue = FloatRows.Load(kv, t, b);
                FloatRows.Load(kr, t, c).CopyTo(c);
                var angleCos = At(cos, t);
                var angleSin = At(sin, t);
                Rotate(c, c, angleCos, angleSin, 1);
                for (var h = 0; h < H; h++)
                {
                    query.Slice(h * head, n).CopyTo(x.AsSpan(h * head));
                    Rotate(query.Slice((h * head) + n, r), x.AsSpan((h * head) + n, r), angleCos, angleSin, 1);
                    keyValue.Slice(h * (n + v), n).CopyTo(y.AsSpan(h * head));
                    c.CopyTo(y.AsSpan((h * head) + n));
                    keyValue.Slice((h * (n + v)) + n, v).CopyTo(z.AsSpan(h * v));
                }
                FloatRows.Store(Q, t, x);
                FloatRows.Store(K, t, y);
                FloatRows.Store(V, t, z);
            }
        });
    }

    protected override void Cuda(Frame f) => Launch("mla_heads", f.Inputs[0], [.. f.Inputs, .. f.Outputs]);

    /// <summary>A launch whose tensors stand in the kernel's order: three that are read, three that are written.</summary>
    private void Launch(string entry, Tensor like, Tensor[] t)
    {
        var max = 0;
        foreach (var p in positions) max = Math.Max(max, p);
        var angles = table.On(like.Device, max + 1);
        using var at = Memory.Place(positions, like.Device);
        var packs = Packs.Of(shape.Nope | shape.Rope | shape.Value, like, like, t);
        Program.Kernel(like.Gpu(), entry, packs.Options).Launch(positions.Length, Math.Min(packs.Threads((long)shape.H * shape.Head), Packs.Block),
            t[0].Pointer, t[1].Pointer, t[2].Pointer, at.Pointer, angles.Pointer, t[3].Pointer, t[4].Pointer, t[5].Pointer, shape.H, shape.Nope, shape.Rope,
            shape.Value);
    }

    protected internal override Tensor?[] Backward(Frame f, Tensor?[] dOut)
    {
        Tensor Zero(int i) => Tensor.Zeros(f.Outputs[i].Type, f.Outputs[i].Device, f.Outputs[i].Shape);
        using var zeroQ = dOut[0] is null ? Zero(0) : null;
        using var zeroK = dOut[1] is null ? Zero(1) : null;
        using var zeroV = dOut[2] is null ? Zero(2) : null;
        return [.. new Grad(this).Run(dOut[0] ?? zeroQ!, dOut[1] ?? zeroK!, dOut[2] ?? zeroV!)];
    }

    private (ReadOnlyMemory<float> Cos, ReadOnlyMemory<float> Sin) Angles()
    {
        var max = 0;
        foreach (var p in positions) max = Math.Max(max, p);
        return table.Upto(max + 1);
    }

    private ReadOnlySpan<float> At(ReadOnlyMemory<float> angles, long t) => angles.Span.Slice(positions[t] * table.Pairs, table.Pairs);

    private static void Rotate(ReadOnlySpan<float> source, Span<float> target, ReadOnlySpan<float> cos, ReadOnlySpan<float> sin, float direction)
    {
        for (var i = 0; i < cos.Length; i++)
        {
            var (a, b, s) = (source[2 * i], source[(2 * i) + 1], direction * sin[i]);
            target[2 * i] = (a * cos[i]) - (b * s);
            target[(2 * i) + 1] = (a * s) + (b * cos[i]);
        }
    }

    /// <summary>Inputs dQ, dK, dV; outputs dq, dkv, dkr.</summary>
    private sealed class Grad(MlaHeads forward) : GradOp
    {
        protected override Frame Prepare(Tensor[] inputs)
        {
            var (dQ, s) = (inputs[0], forward.Shape);
            var T = dQ.Dim(0);
            return new Frame(inputs, [Allocate(dQ, dQ.Type, T, s.H * s.Head), Allocate(dQ, dQ.Type, T, s.H * (s.Nope + s.Value)),
                Allocate(dQ, dQ.Type, T, s.Rope)]);
        }

        protected override void Plain(Frame f)
        {
            var s = forward.Shape;
            var (H, n, r, v, head) = (s.H, s.Nope, s.Rope, s.Value, s.Head);
            var (dq, dkv, dkr) = (f.Outputs[0], f.Outputs[1], f.Outputs[2]);
            using var dQ = f.Inputs[0].View(dq.Shape);
            using var dK = f.Inputs[1].View(dq.Shape);
            using var dV = f.Inputs[2].View(dq.Dim(0), H * v);
            var (cos, sin) = forward.Angles();
            RowParallel.For(dq.Rows, H * head * 2L, (first, last) =>
            {
                var (a, b, c) = (new float[dq.Width], new float[dq.Width], new float[H * v]);
                var (x, y, z) = (new float[dq.Width], new float[dkv.Width], new float[r]);
                for (var t = first; t < last; t++)
                {
                    var query = FloatRows.Load(dQ, t, a);
                    var key = FloatRows.Load(dK, t, b);
                    var value = FloatRows.Load(dV, t, c);
                    var angleCos = forward.At(cos, t);
                    var angleSin = forward.At(sin, t);
                    Array.Clear(z);
                    for (var h = 0; h < H; h++)
                    {
                        query.Slice(h * head, n).CopyTo(x.AsSpan(h * head));
                        Rotate(query.Slice((h * head) + n, r), x.AsSpan((h * head) + n, r), angleCos, angleSin, -1);
                        key.Slice(h * head, n).CopyTo(y.AsSpan(h * (n + v)));
                        for (var i = 0; i < r; i++) z[i] += key[(h * head) + n + i];
                        value.Slice(h * v, v).CopyTo(y.AsSpan((h * (n + v)) + n));
                    }
                    Rotate(z, z, angleCos, angleSin, -1);
                    FloatRows.Store(dq, t, x);
                    FloatRows.Store(dkv, t, y);
                    FloatRows.Store(dkr, t, z);
                }
            });
        }

        protected override void Cuda(Frame f) => forward.Launch("mla_heads_grad", f.Inputs[0], [.. f.Inputs, .. f.Outputs]);
    }
}
