using System.Numerics;

using KtNotebooks.Autograd;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>Head sizes of grouped-query attention: H query heads share Hk heads of keys and values, all d wide.</summary>
public readonly record struct GqaShape(int H, int Hk, int Head);

/// <summary>
/// Turns grouped-query attention's projections into heads: every query and key head is RMS-normalised over its d elements and weighted, if there are
/// weights, and rotated by position; values are passed on. q [T, H·d], k [T, Hk·d], v [T, Hk·d], one float type; wq, wk [d] F32, both or none → Q [T, H, d],
/// K [T, Hk, d], V [T, Hk, d]. n_i = x_i · rstd · w_i, rstd = 1 / √(mean x² + eps), or n = x; the first r elements turn, r the table's width, usually all; a
/// pair is (i, i + r/2), the two halves of what turns (GPT-NeoX's form, not DeepSeek's neighbours): out = (a·cos − b·sin, b·cos + a·sin); what lies behind r
/// stays (GLM's partial_rotary_factor). Backward turns back (g), then dx_i = rstd · (g_i·w_i − x_i·rstd² · mean_j(g_j·w_j·x_j)), dw_i = Σ over rows and
/// heads of g_i·x_i·rstd. Saves rstd of q [T, H] and of k [T, Hk], F32, where there are weights. Qwen3 technical report (arXiv 2505.09388), section 2.
/// </summary>
public sealed class GqaHeads(GqaShape shape, RotaryTable table, int[] positions, float eps) : Op
{
    private static readonly CudaProgram Program = new(nameof(GqaHeads), CudaProgram.Resource("Ops.GqaHeads.cu"));

    /// <summary>Where the positions are told to a card, once for all layers; null: by every op for itself.</summary>
    private PassLists? Lists { get; init; }

    private GqaShape Shape => shape;

    private RotaryTable Table => table;

    private int[] Positions => positions;

    public static (Tensor Q, Tensor K, Tensor V) Apply(Tensor q, Tensor k, Tensor v, Tensor? wq, Tensor? wk, GqaShape shape, RotaryTable table,
        int[] positions, float eps) => Apply(q, k, v, wq, wk, shape, table, positions, eps, null);

    internal static (Tensor Q, Tensor K, Tensor V) Apply(Tensor q, Tensor k, Tensor v, Tensor? wq, Tensor? wk, GqaShape shape, RotaryTable table,
        int[] positions, float eps, PassLists? lists)
    {
        var op = new GqaHeads(shape, table, positions, eps) { Lists = lists };
        var heads = wq is null || wk is null ? op.Run(q, k, v) : op.Run(q, k, v, wq, wk);
        return (heads[0], heads[1], heads[2]);
    }

    protected override Frame Prepare(Tensor[] inputs)
    {
        var (q, T, d) = (inputs[0], positions.Length, shape.Head);
        ExpectFloat(q, "q");
        Expect(q, "q", q.Type, T, shape.H * d);
        Expect(inputs[1], "k", q.Type, T, shape.Hk * d);
        Expect(inputs[2], "v", q.Type, T, shape.Hk * d);
        var norms = inputs.Length > 3;
        if (norms) Expect(inputs[3], "wq", DType.F32, d);
        if (norms) Expect(inputs[4], "wk", DType.F32, d);
        foreach (var position in positions)
            if (position < 0) throw Wrong($"position {position} is negative");
        if (table.Pairs * 2 > d) throw Wrong($"the rotary table is for width {table.Pairs * 2}, the heads have {d}");
        Tensor[] outputs = [Allocate(q, q.Type, T, shape.H, d), Allocate(q, q.Type, T, shape.Hk, d), Allocate(q, q.Type, T, shape.Hk, d)];
        return norms ? new Frame(inputs, outputs, Allocate(q, DType.F32, T, shape.H), Allocate(q, DType.F32, T, shape.Hk)) : new Frame(inputs, outputs);
    }

    protected override void Plain(Frame f)
    {
        var norms = f.Inputs.Length > 3;
        Heads(f.Inputs[0], norms ? f.Inputs[3] : null, f.Outputs[0], norms ? f.Saved[0] : null);
        Heads(f.Inputs[1], norms ? f.Inputs[4] : null, f.Outputs[1], norms ? f.Saved[1] : null);
        Memory.Copy(f.Inputs[2], f.Outputs[2]);
    }

    protected override void Cuda(Frame f)
    {
        var (q, k, Q, K, norms) = (f.Inputs[0], f.Inputs[1], f.Outputs[0], f.Outputs[1], f.Inputs.Length > 3);
        using var at = PositionsOn(q.Device);
        var packs = Packs.Of(table.Pairs | shape.Head, q, q, k, Q, K);
        var (lanes, blocks) = Layout(packs);
        Program.Kernel(q.Gpu(), "gqa_heads", packs.Options)
            .Launch(blocks, Packs.Block, q.Pointer, k.Pointer, norms ? f.Inputs[3].Pointer : 0, norms ? f.Inputs[4].Pointer : 0, at.Pointer,
            OnGpu(q.Device).Pointer, Q.Pointer, K.Pointer, norms ? f.Saved[0].Pointer : 0, norms ? f.Saved[1].Pointer : 0, (long)positions.Length, shape.H,
            shape.Hk, table.Pairs, shape.Head, lanes, eps);
        Memory.Copy(f.Inputs[2], f.Outputs[2]);
    }

    /// <summary>Lanes of a head, a power of two up to 32 with a pack or more of each half or of what stays; and blocks for all heads.</summary>
    private (int Lanes, long Blocks) Layout(Packs packs)
    {
        var most = Math.Max(packs.In(table.Pairs), packs.In(shape.Head - (2 * table.Pairs)));
        var lanes = Math.Min(32, (int)BitOperations.RoundUpToPowerOf2((uint)most));
        return (lanes, (((long)positions.Length * (shape.H + shape.Hk) * lanes) + Packs.Block - 1) / Packs.Block);
    }

    private Tensor PositionsOn(Device device) => Lists is { } l ? l.On(device, "positions", r => r.Positions).Alias() : Memory.Place(positions, device);

    private Tensor OnGpu(Device device)
    {
        if (Lists is { } l) return table.On(device, l.Rows.Longest);
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
        if (f.Inputs.Length == 3) return [.. new Grad(this, false).Run(dOut[0] ?? zeroQ!, dOut[1] ?? zeroK!, dOut[2] ?? zeroV!)];
        var weights = f.Needs(3) || f.Needs(4);
        var d = new Grad(this, weights).Run(dOut[0] ?? zeroQ!, dOut[1] ?? zeroK!, dOut[2] ?? zeroV!, f.Inputs[0], f.Inputs[1], f.Inputs[3], f.Inputs[4],
            f.Saved[0], f.Saved[1]);
        return weights ? [.. d] : [.. d, null, null];
    }

    /// <summary>cos and sin of a row's position, [r/2] each.</summary>
    private static (ReadOnlyMemory<float> Cos, ReadOnlyMemory<float> Sin) Angles(RotaryTable table, int[] positions)
    {
        var max = 0;
        foreach (var p in positions) max = Math.Max(max, p);
        return table.Upto(max + 1);
    }

    /// <summary>x [T, heads·d] normalised, weighted and rotated into y [T, heads, d].</summary>
    private void Heads(Tensor x, Tensor? w, Tensor y, Tensor? rstd)
    {
        var (d, heads, half) = (shape.Head, x.Width / shape.Head, table.Pairs);
        var (cos, sin) = Angles(table, positions);
        using var flat = y.View(x.Shape);
        RowParallel.For(x.Rows, x.Width * 4L, (first, last) =>
        {
            var (a, b, n) = (new float[x.Width], new float[x.Width], new double[d]);
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
                    for (var i = 0; i < d; i++) n[i] = head[i];
                    if (w is not null)
                    {
                        double squares = 0;
                        foreach (var value in head) squares += (double)value * value;
                        var scale = 1 / Math.Sqrt((squares / d) + eps);
                        rstd!.Row<float>(t)[h] = (float)scale;
                        for (var i = 0; i < d; i++) n[i] *= scale * w.Span<float>()[i];
                    }
                    for (var i = 0; i < half; i++)
                    {
                        turned[i] = (float)((n[i] * c[i]) - (n[i + half] * s[i]));
                        turned[i + half] = (float)((n[i + half] * c[i]) + (n[i] * s[i]));
                    }
                    for (var i = 2 * half; i < d; i++) turned[i] = (float)n[i];
                }
                FloatRows.Store(flat, t, target);
            }
        });
    }

    /// <summary>Inputs dQ, dK, dV and, with weights, q, k, wq, wk, rstd of q, rstd of k; outputs dq, dk, dv and, if wanted, dwq, dwk.</summary>
    private sealed class Grad(GqaHeads forward, bool wantsWeights) : GradOp
    {
        protected override Frame Prepare(Tensor[] inputs)
        {
            var (dQ, s, T) = (inputs[0], forward.Shape, forward.Positions.Length);
            Tensor Rows(int heads) => Allocate(dQ, dQ.Type, T, heads * s.Head);
            Tensor[] rows = [Rows(s.H), Rows(s.Hk), Rows(s.Hk)];
            if (!wantsWeights) return new Frame(inputs, rows);
            var w = inputs[5];
            return new Frame(inputs, [.. rows, Allocate(w, DType.F32, w.Shape), Allocate(w, DType.F32, w.Shape)]);
        }

        protected override void Plain(Frame f)
        {
            var norms = f.Inputs.Length > 3;
            Heads(f.Inputs[0], norms ? (f.Inputs[3], f.Inputs[5], f.Inputs[7]) : null, f.Outputs[0], wantsWeights ? f.Outputs[3] : null);
            Heads(f.Inputs[1], norms ? (f.Inputs[4], f.Inputs[6], f.Inputs[8]) : null, f.Outputs[1], wantsWeights ? f.Outputs[4] : null);
            Memory.Copy(f.Inputs[2], f.Outputs[2]);
        }

        protected override void Cuda(Frame f)
        {
            var (s, pairs, dQ, dK, dq, dk) = (forward.Shape, forward.Table.Pairs, f.Inputs[0], f.Inputs[1], f.Outputs[0], f.Outputs[1]);
            var (q, k) = f.Inputs.Length > 3 ? (f.Inputs[3], f.Inputs[4]) : (null, null);
            nint Of(int input) => q is null ? 0 : f.Inputs[input].Pointer;
            var angles = forward.OnGpu(dQ.Device);
            using var at = forward.PositionsOn(dQ.Device);
            var packs = Packs.Of(pairs | s.Head, dQ, dQ, q, k, dK, dq, dk);
            var (lanes, blocks) = forward.Layout(packs);
            Program.Kernel(dQ.Gpu(), "gqa_heads_grad", packs.Options)
                .Launch(blocks, Packs.Block, dQ.Pointer, dK.Pointer, Of(3), Of(4), Of(5), Of(6), Of(7), Of(8), at.Pointer, angles.Pointer, dq.Pointer,
                    dk.Pointer, (long)forward.Positions.Length, s.H, s.Hk, pairs, s.Head, lanes);
            Memory.Copy(f.Inputs[2], f.Outputs[2]);
            if (!wantsWeights) return;
            WeightGrad(dQ, q!, f.Inputs[7], at, angles, s.H, pairs, f.Outputs[3]);
            WeightGrad(dK, k!, f.Inputs[8], at, angles, s.Hk, pairs, f.Outputs[4]);
        }

        private static void WeightGrad(Tensor dy, Tensor x, Tensor rstd, Tensor positions, Tensor angles, int heads, int pairs, Tensor dw)
        {
            const int Columns = 128;
            var (card, T, d) = (x.Gpu(), x.Rows, dw.Width);
            var blocks = (d + Columns - 1) / Columns;
            // Enough blocks to fill the card, at least eight tokens each.
            var groups = Math.Clamp(card.Multiprocessors * 8 / blocks, 1, Math.Max(1, (T + 7) / 8));
            using var partial = Allocate(x, DType.F32, groups, d);
            var options = Packs.Of(1, x, x).Options;
            Program.Kernel(card, "gqa_heads_dw_groups", options)
                .Launch((blocks, groups), Columns, dy.Pointer, x.Pointer, rstd.Pointer, positions.Pointer, angles.Pointer, partial.Pointer, T, heads, pairs, d,
                    (T + groups - 1) / groups);
            Program.Kernel(card, "gqa_heads_dw", options).Launch(blocks, Columns, partial.Pointer, dw.Pointer, d, groups);
        }

        private void Heads(Tensor dy, (Tensor X, Tensor W, Tensor Rstd)? normed, Tensor dx, Tensor? dw)
        {
            var (d, heads, half) = (forward.Shape.Head, dx.Width / forward.Shape.Head, forward.Table.Pairs);
            var (cos, sin) = Angles(forward.Table, forward.Positions);
            using var flat = dy.View(dx.Shape);
            // A row's share of dw, so that the sum over rows is taken in their order whatever the number of threads.
            var shares = dw is null ? null : new double[dx.Rows, d];
            RowParallel.For(dx.Rows, dx.Width * 4L, (first, last) =>
            {
                var (a, b, c) = (new float[dx.Width], new float[dx.Width], new float[dx.Width]);
                var g = new double[d];
                for (var t = first; t < last; t++)
                {
                    var up = FloatRows.Load(flat, t, a);
                    var row = normed is { X: var x } ? FloatRows.Load(x, t, b) : default;
                    var target = FloatRows.Target(dx, t, c);
                    var angleCos = cos.Span.Slice(forward.Positions[t] * half, half);
                    var angleSin = sin.Span.Slice(forward.Positions[t] * half, half);
                    for (var h = 0; h < heads; h++)
                    {
                        var at = h * d;
                        for (var i = 0; i < half; i++)
                        {
                            var (lower, upper) = ((double)up[at + i], (double)up[at + i + half]);
                            g[i] = (lower * angleCos[i]) + (upper * angleSin[i]);
                            g[i + half] = (upper * angleCos[i]) - (lower * angleSin[i]);
                        }
                        for (var i = 2 * half; i < d; i++) g[i] = up[at + i];
                        if (normed is not { W: var w, Rstd: var rstd })
                        {
                            for (var i = 0; i < d; i++) target[at + i] = (float)g[i];
                            continue;
                        }
                        var W = w.Span<float>();
                        var scale = (double)rstd.Row<float>(t)[h];
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
            for (var t = 0; t < dx.Rows; t++)
                for (var i = 0; i < d; i++) sums[i] += shares![t, i];
            dw.Store(Array.ConvertAll(sums, v => (float)v));
        }
    }
}
