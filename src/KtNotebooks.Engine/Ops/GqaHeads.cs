using System.Numerics;

using KtNotebooks.Autograd;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>Head sizes of grouped-query attention: H query heads share Hk heads of keys and values, all d wide.</summary>
public readonly record struct GqaShape(int H, int Hk, int Head);

/// <summary>
/// Turns grouped-query attention's projections into heads: every query and key head is RMS-normalised over its d elements, weighted, and rotated by
/// position; values are passed on. q [T, H·d], k [T, Hk·d], v [T, Hk·d], one float type; wq, wk [d] F32 → Q [T, H, d], K [T, Hk, d], V [T, Hk, d].
/// n_i = x_i · rstd · w_i, rstd = 1 / √(mean x² + eps); a pair is (i, i + d/2), the two halves of a head (GPT-NeoX's form, not DeepSeek's neighbours): out
/// = (a·cos − b·sin, b·cos + a·sin). Backward turns back (g), then dx_i = rstd · (g_i·w_i − x_i·rstd² · mean_j(g_j·w_j·x_j)), dw_i = Σ over rows and heads
/// of g_i·x_i·rstd. Saves rstd of q [T, H] and of k [T, Hk], F32. Qwen3 technical report (arXiv 2505.09388), section 2.
/// </summary>
public sealed class GqaHeads(GqaShape shape, RotaryTable table, int[] positions, float eps) : Op
{
    private static readonly CudaProgram Program = new(nameof(GqaHeads), CudaProgram.Resource("Ops.GqaHeads.cu"));

    private GqaShape Shape => shape;

    private RotaryTable Table => table;

    private int[] Positions => positions;

    public static (Tensor Q, Tensor K, Tensor V) Apply(Tensor q, Tensor k, Tensor v, Tensor wq, Tensor wk, GqaShape shape, RotaryTable table, int[] positions,
        float eps)
    {
        var heads = new GqaHeads(shape, table, positions, eps).Run(q, k, v, wq, wk);
        return (heads[0], heads[1], heads[2]);
    }

    protected override Frame Prepare(Tensor[] inputs)
    {
        var (q, T, d) = (inputs[0], positions.Length, shape.Head);
        ExpectFloat(q, "q");
        Expect(q, "q", q.Type, T, shape.H * d);
        Expect(inputs[1], "k", q.Type, T, shape.Hk * d);
        Expect(inputs[2], "v", q.Type, T, shape.Hk * d);
        Expect(inputs[3], "wq", DType.F32, d);
        Expect(inputs[4], "wk", DType.F32, d);
        foreach (var position in positions)
            if (position < 0) throw Wrong($"position {position} is negative");
        if (table.Pairs * 2 != d) throw Wrong($"the rotary table is for width {table.Pairs * 2}, the heads have {d}");
        return new Frame(inputs, [Allocate(q, q.Type, T, shape.H, d), Allocate(q, q.Type, T, shape.Hk, d), Allocate(q, q.Type, T, shape.Hk, d)],
            Allocate(q, DType.F32, T, shape.H), Allocate(q, DType.F32, T, shape.Hk));
    }

    protected override void Plain(Frame f)
    {
        Heads(f.Inputs[0], f.Inputs[3], f.Outputs[0], f.Saved[0]);
        Heads(f.Inputs[1], f.Inputs[4], f.Outputs[1], f.Saved[1]);
        Memory.Copy(f.Inputs[2], f.Outputs[2]);
    }

    protected override void Cuda(Frame f)
    {
        var (q, k, wq, wk, Q, K) = (f.Inputs[0], f.Inputs[1], f.Inputs[3], f.Inputs[4], f.Outputs[0], f.Outputs[1]);
        using var at = Memory.Place(positions, q.Device);
        var packs = Packs.Of(shape.Head / 2, q, q, k, Q, K);
        var (lanes, blocks) = Layout(packs);
        Program.Kernel(q.Card(), "gqa_heads", packs.Options)
            .Launch(blocks, Packs.Block, q.Pointer, k.Pointer, wq.Pointer, wk.Pointer, at.Pointer, OnCard(q.Device).Pointer, Q.Pointer, K.Pointer,
            f.Saved[0].Pointer, f.Saved[1].Pointer, (long)positions.Length, shape.H, shape.Hk, shape.Head / 2, lanes, eps);
        Memory.Copy(f.Inputs[2], f.Outputs[2]);
    }

    /// <summary>Lanes of a head, a power of two up to 32 that has a pack of each half or more; and blocks for all heads of q and k.</summary>
    private (int Lanes, long Blocks) Layout(Packs packs)
    {
        var lanes = Math.Min(32, (int)BitOperations.RoundUpToPowerOf2((uint)packs.In(shape.Head / 2)));
        return (lanes, (((long)positions.Length * (shape.H + shape.Hk) * lanes) + Packs.Block - 1) / Packs.Block);
    }

    private Tensor OnCard(Device device)
    {
        var max = 0;
        foreach (var p in positions) max = Math.Max(max, p);
        return table.On(device, max + 1);
    }

    protected internal override Tensor?[] Backward(Frame f, Tensor?[] dOut)
    {
        Tensor Zero(int i) => Tensor.Zeros(f.Outputs[i].Type, f.Outputs[i].Device, f.Outputs[i].Shape);
        using var zeroQ = dOut[0] is null ? Zero(0) : null;
        using var zeroK = dOut[1] is null ? Zero(1) : null;
        using var zeroV = dOut[2] is null ? Zero(2) : null;
        var weights = f.Needs(3) || f.Needs(4);
        var d = new Grad(this, weights).Run(dOut[0] ?? zeroQ!, dOut[1] ?? zeroK!, dOut[2] ?? zeroV!, f.Inputs[0], f.Inputs[1], f.Inputs[3], f.Inputs[4],
            f.Saved[0], f.Saved[1]);
        return weights ? [.. d] : [.. d, null, null];
    }

    /// <summary>cos and sin of a row's position, [d/2] each.</summary>
    private static (ReadOnlyMemory<float> Cos, ReadOnlyMemory<float> Sin) Angles(RotaryTable table, int[] positions)
    {
        var max = 0;
        foreach (var p in positions) max = Math.Max(max, p);
        return table.Upto(max + 1);
    }

    /// <summary>x [T, heads·d] normalised, weighted and rotated into y [T, heads, d].</summary>
    private void Heads(Tensor x, Tensor w, Tensor y, Tensor rstd)
    {
        var (d, heads, half) = (shape.Head, x.Width / shape.Head, shape.Head / 2);
        var (cos, sin) = Angles(table, positions);
        using var flat = y.View(x.Shape);
        RowParallel.For(x.Rows, x.Width * 4L, (first, last) =>
        {
            var (a, b) = (new float[x.Width], new float[x.Width]);
            var W = w.Span<float>();
            for (var t = first; t < last; t++)
            {
                var row = FloatRows.Load(x, t, a);
                var target = FloatRows.Target(flat, t, b);
                var c = cos.Span.Slice(positions[t] * half, half);
                var s = sin.Span.Slice(positions[t] * half, half);
                for (var h = 0; h < heads; h++)
                {
                    var head = row.Slice(h * d, d);
                    var turned = target.Slice(h * d, d);
                    double squares = 0;
                    foreach (var value in head) squares += (double)value * value;
                    var scale = 1 / Math.Sqrt((squares / d) + eps);
                    rstd.Row<float>(t)[h] = (float)scale;
                    for (var i = 0; i < half; i++)
                    {
                        var (lower, upper) = (head[i] * scale * W[i], head[i + half] * scale * W[i + half]);
                        turned[i] = (float)((lower * c[i]) - (upper * s[i]));
                        turned[i + half] = (float)((upper * c[i]) + (lower * s[i]));
                    }
                }
                FloatRows.Store(flat, t, target);
            }
        });
    }

    /// <summary>Inputs dQ, dK, dV, q, k, wq, wk, rstd of q, rstd of k; outputs dq, dk, dv and, if wanted, dwq, dwk.</summary>
    private sealed class Grad(GqaHeads forward, bool wantsWeights) : GradOp
    {
        protected override Frame Prepare(Tensor[] inputs)
        {
            var (q, k, w) = (inputs[3], inputs[4], inputs[5]);
            Tensor[] rows = [Allocate(q, q.Type, q.Shape), Allocate(k, k.Type, k.Shape), Allocate(k, k.Type, k.Shape)];
            return new Frame(inputs, wantsWeights ? [.. rows, Allocate(w, DType.F32, w.Shape), Allocate(w, DType.F32, w.Shape)] : rows);
        }

        protected override void Plain(Frame f)
        {
            Heads(f.Inputs[0], f.Inputs[3], f.Inputs[5], f.Inputs[7], f.Outputs[0], wantsWeights ? f.Outputs[3] : null);
            Heads(f.Inputs[1], f.Inputs[4], f.Inputs[6], f.Inputs[8], f.Outputs[1], wantsWeights ? f.Outputs[4] : null);
            Memory.Copy(f.Inputs[2], f.Outputs[2]);
        }

        protected override void Cuda(Frame f)
        {
            var (s, q, k, dQ, dK, dq, dk) = (forward.Shape, f.Inputs[3], f.Inputs[4], f.Inputs[0], f.Inputs[1], f.Outputs[0], f.Outputs[1]);
            var angles = forward.OnCard(q.Device);
            using var at = Memory.Place(forward.Positions, q.Device);
            var packs = Packs.Of(s.Head / 2, q, q, k, dQ, dK, dq, dk);
            var (lanes, blocks) = forward.Layout(packs);
            Program.Kernel(q.Card(), "gqa_heads_grad", packs.Options)
                .Launch(blocks, Packs.Block, dQ.Pointer, dK.Pointer, q.Pointer, k.Pointer, f.Inputs[5].Pointer, f.Inputs[6].Pointer, f.Inputs[7].Pointer,
                f.Inputs[8].Pointer, at.Pointer, angles.Pointer, dq.Pointer, dk.Pointer, (long)forward.Positions.Length, s.H, s.Hk, s.Head / 2, lanes);
            Memory.Copy(f.Inputs[2], f.Outputs[2]);
            if (!wantsWeights) return;
            WeightGrad(dQ, q, f.Inputs[7], at, angles, s.H, f.Outputs[3]);
            WeightGrad(dK, k, f.Inputs[8], at, angles, s.Hk, f.Outputs[4]);
        }

        private static void WeightGrad(Tensor dy, Tensor x, Tensor rstd, Tensor positions, Tensor angles, int heads, Tensor dw)
        {
            const int Columns = 128;
            var (card, T, d) = (x.Card(), x.Rows, dw.Width);
            var blocks = (d + Columns - 1) / Columns;
            // Enough blocks to fill the card, at least eight tokens each.
            var groups = Math.Clamp(card.Multiprocessors * 8 / blocks, 1, Math.Max(1, (T + 7) / 8));
            using var partial = Allocate(x, DType.F32, groups, d);
            var options = Packs.Of(1, x, x).Options;
            Program.Kernel(card, "gqa_heads_dw_groups", options)
                .Launch((blocks, groups), Columns, dy.Pointer, x.Pointer, rstd.Pointer, positions.Pointer, angles.Pointer, partial.Pointer, T, heads, d / 2,
                    (T + groups - 1) / groups);
            Program.Kernel(card, "gqa_heads_dw", options).Launch(blocks, Columns, partial.Pointer, dw.Pointer, d, groups);
        }

        private void Heads(Tensor dy, Tensor x, Tensor w, Tensor rstd, Tensor dx, Tensor? dw)
        {
            var (d, heads, half) = (forward.Shape.Head, x.Width / forward.Shape.Head, forward.Shape.Head / 2);
            var (cos, sin) = Angles(forward.Table, forward.Positions);
            using var flat = dy.View(x.Shape);
            // A row's share of dw, so that the sum over rows is taken in their order whatever the number of threads.
            var shares = dw is null ? null : new double[x.Rows, d];
            RowParallel.For(x.Rows, x.Width * 4L, (first, last) =>
            {
                var (a, b, c) = (new float[x.Width], new float[x.Width], new float[x.Width]);
                var g = new double[d];
                var W = w.Span<float>();
                for (var t = first; t < last; t++)
                {
                    var up = FloatRows.Load(flat, t, a);
                    var row = FloatRows.Load(x, t, b);
                    var target = FloatRows.Target(dx, t, c);
                    var angleCos = cos.Span.Slice(forward.Positions[t] * half, half);
                    var angleSin = sin.Span.Slice(forward.Positions[t] * half, half);
                    for (var h = 0; h < heads; h++)
                    {
                        var (at, scale) = (h * d, (double)rstd.Row<float>(t)[h]);
                        for (var i = 0; i < half; i++)
                        {
                            var (lower, upper) = ((double)up[at + i], (double)up[at + i + half]);
                            g[i] = (lower * angleCos[i]) + (upper * angleSin[i]);
                            g[i + half] = (upper * angleCos[i]) - (lower * angleSin[i]);
                        }
                        double mean = 0;
                        for (var i = 0; i < d; i++) mean += g[i] * W[i] * row[at + i];
                        mean /= d;
                        for (var i = 0; i < d; i++)
                        {
                            target[at + i] = (float)(scale * ((g[i] * W[i]) - (row[at + i] * scale * scale * mean)));
                            if (shares is not null) shares[t, i] += g[i] * row[at + i] * scale;
                        }
                    }
                    FloatRows.Store(dx, t, target);
                }
            });
            if (dw is null) return;
            var sums = new double[d];
            for (var t = 0; t < x.Rows; t++)
                for (var i = 0; i < d; i++) sums[i] += shares![t, i];
            dw.Store(Array.ConvertAll(sums, v => (float)v));
        }
    }
}
