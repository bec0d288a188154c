using System.Numerics.Tensors;

using KtNotebooks.Autograd;
using KtNotebooks.Formats;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>
/// Attention of all heads on one row a token, key and value in one: out[t, h] = softmax(scale · q[t, h] cᵀ) c[:, :R]. q [T, H, W]; c [C, W], of which
/// sequence s owns rows [begins[s], begins[s] + counts[s]); query j of a sequence with L queries sees its rows 0 … counts − L + j; out [T, H, R], R ≤ W.
/// One float type. Inference only. FLOPs: 2 · pairs · H · (W + R); c is read once for all heads on a CPU.
/// </summary>
internal sealed class LatentAttention(int[] seqStarts, int[] begins, int[] counts, int R, float scale) : InferenceOp
{
    private const long ScoresAtOnce = 1 << 20;

    public static Tensor Apply(Tensor q, Tensor c, int[] seqStarts, int[] begins, int[] counts, int R, float scale) =>
        new LatentAttention(seqStarts, begins, counts, R, scale).Run(q, c)[0];

    protected override Frame Prepare(Tensor[] inputs)
    {
        var (q, c) = (inputs[0], inputs[1]);
        ExpectFloat(q, "q");
        if (q.Rank != 3) throw Wrong($"q must be [T, H, W], but is {q}");
        Expect(c, "c", q.Type, c.Dim(0), q.Width);
        if (R < 1 || R > q.Width) throw Wrong($"R must be in 1 … {q.Width}, but is {R}");
        for (var s = 0; s + 1 < seqStarts.Length; s++)
            if (counts[s] < seqStarts[s + 1] - seqStarts[s] || begins[s] < 0 || begins[s] + counts[s] > c.Dim(0))
                throw Wrong($"sequence {s} has {seqStarts[s + 1] - seqStarts[s]} queries and rows {begins[s]} … {begins[s] + counts[s]} of {c}");
        return new Frame(inputs, [Allocate(q, q.Type, q.Dim(0), q.Dim(1), R)]);
    }

    protected override void Plain(Frame f)
    {
        var (q, c, H, W) = (f.Inputs[0].ToFloats(), f.Inputs[1].ToFloats(), (int)f.Inputs[0].Dim(1), f.Inputs[0].Width);
        var o = new float[f.Outputs[0].Count];
        for (var s = 0; s + 1 < seqStarts.Length; s++)
            for (var t = seqStarts[s]; t < seqStarts[s + 1]; t++)
                for (var h = 0; h < H; h++)
                {
                    var p = new double[counts[s] - (seqStarts[s + 1] - t) + 1];
                    for (var j = 0; j < p.Length; j++)
                        for (var d = 0; d < W; d++) p[j] += (double)scale * q[(((t * H) + h) * W) + d] * c[((begins[s] + j) * W) + d];
                    var max = p.Max();
                    var sum = p.Sum(x => Math.Exp(x - max));
                    for (var d = 0; d < R; d++)
                    {
                        double value = 0;
                        for (var j = 0; j < p.Length; j++) value += Math.Exp(p[j] - max) / sum * c[((begins[s] + j) * W) + d];
                        o[(((t * H) + h) * R) + d] = (float)value;
                    }
                }
        f.Outputs[0].Store(o);
    }

    /// <summary>
    /// Two products a block of queries, in which all heads are rows of one matrix: scores = q cᵀ, and P c, whose last W − R columns nobody wants.
    /// </summary>
    protected override void Cpu(Frame f)
    {
        var (q, c, H, W) = (f.Inputs[0], f.Inputs[1], (int)f.Inputs[0].Dim(1), f.Inputs[0].Width);
        using var queries = q.View(q.Dim(0) * H, W);
        using var o = f.Outputs[0].View(q.Dim(0) * H, R);
        for (var s = 0; s + 1 < seqStarts.Length; s++)
        {
            var (first, count) = (seqStarts[s], seqStarts[s + 1] - seqStarts[s]);
            var step = (int)Math.Max(1, ScoresAtOnce / ((long)H * Math.Max(1, counts[s])));
            for (var from = 0; from < count; from += step)
            {
                var rows = Math.Min(step, count - from);
                var seen = counts[s] - count + from + rows;
                using var x = queries.Slice((long)(first + from) * H, (long)rows * H);
                using var keys = c.Slice(begins[s], seen);
                using var scores = Allocate(q, DType.F32, rows * H, seen);
                GroupedMatmul.Forward([0, rows * H], x, null, Matrices.One(keys), null, null, 0, null, scores);
                RowParallel.For(rows * H, seen, (a, b) =>
                {
                    for (var i = a; i < b; i++) Softmax(scores.Row<float>(i), seen - rows + (int)(i / H) + 1);
                });
                using var p = scores.To(q.Type);
                using var wide = Allocate(q, q.Type, rows * H, W);
                GroupedMatmul.InputGrad([0, rows * H], p, Matrices.One(keys), null, null, 0, null, wide, null);
                using var target = o.Slice((long)(first + from) * H, (long)rows * H);
                Columns.Copy(wide, 0, target, 0, R);
            }
        }
    }

    protected override void Cuda(Frame f) => AttentionKernels.Latent(seqStarts, begins, counts, scale, f.Inputs[0], f.Inputs[1], f.Outputs[0]);

    /// <summary>Probabilities of the first keys, zero behind them.</summary>
    private void Softmax(Span<float> row, int visible)
    {
        var seen = row[..visible];
        TensorPrimitives.Multiply(seen, scale, seen);
        TensorPrimitives.Subtract(seen, TensorPrimitives.Max<float>(seen), seen);
        TensorPrimitives.Exp<float>(seen, seen);
        TensorPrimitives.Divide(seen, TensorPrimitives.Sum<float>(seen), seen);
        row[visible..].Clear();
    }
}
