using System.Numerics.Tensors;

using KtNotebooks.Autograd;
using KtNotebooks.Interop;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>
/// Which rows attend to which: sequence s owns query rows [Queries[s], Queries[s+1]) and key rows [Keys[s], Keys[s+1]). Query j of a sequence with Lq
/// queries and Lk keys sees its keys 0 … Lk − Lq + j: the first Lk − Lq keys come from a cache.
/// </summary>
public sealed record Spans(int[] Queries, int[] Keys)
{
    /// <summary>A query sees the last so many of these keys alone, its own among them; 0: all.</summary>
    public int Window { get; init; }

    public int Count => Queries.Length - 1;

    /// <summary>Every sequence sees itself alone: training, and prompts without a cache.</summary>
    public static Spans Self(int[] starts) => new(starts, starts);
}

/// <summary>
/// Block-diagonal causal attention: out = softmax(scale · q kᵀ) v inside each sequence. q [Tq, H, D]; k [Tk, Hk, D]; v [Tk, Hk, Dv]; out [Tq, H, Dv]; one
/// float type; query head h reads key head h / (H/Hk). Saves lse [Tq, H] F32, the log-sum-exp of the scaled scores. Dao et al. 2022 for the recomputation
/// in backward. With sinks [H] F32, frozen (gpt-oss), the softmax has one logit more, whose value is zero: out · σ(lse − sink), and lse with it. Backward
/// is the same with these two.
/// </summary>
public sealed unsafe class Attention(Spans spans, float scale, Tensor? sinks = null) : Op
{
    private Spans Spans => spans;

    private int[] QueryStarts => spans.Queries;

    private int[] KeyStarts => spans.Keys;

    private float Scale => scale;

    public static Tensor Apply(Tensor q, Tensor k, Tensor v, Spans spans, float scale, Tensor? sinks = null) =>
        new Attention(spans, scale, sinks).Run(q, k, v)[0];

    protected override Frame Prepare(Tensor[] inputs)
    {
        var (q, k, v) = (inputs[0], inputs[1], inputs[2]);
        ExpectFloat(q, "q");
        if (q.Rank != 3 || k.Rank != 3 || v.Rank != 3) throw Wrong($"q, k, v must be [T, heads, width], but are {q}, {k}, {v}");
        if (k.Dim(1) == 0 || q.Dim(1) % k.Dim(1) != 0) throw Wrong($"q's {q.Dim(1)} heads must be a multiple of k's {k.Dim(1)}");
        Expect(k, "k", q.Type, k.Dim(0), k.Dim(1), q.Dim(2));
        Expect(v, "v", q.Type, k.Dim(0), k.Dim(1), v.Dim(2));
        if (spans.Window < 0) throw Wrong($"the window must be positive, or 0 for none, but is {spans.Window}");
        if (sinks is not null) Expect(sinks, "sinks", DType.F32, q.Dim(1));
        CheckStarts("query", spans.Queries, q.Dim(0));
        CheckStarts("key", spans.Keys, k.Dim(0));
        if (spans.Queries.Length != spans.Keys.Length) throw Wrong($"queries are cut into {spans.Count} sequences, keys into {spans.Keys.Length - 1}");
        for (var s = 0; s < spans.Count; s++)
            if (spans.Keys[s + 1] - spans.Keys[s] < spans.Queries[s + 1] - spans.Queries[s]) throw Wrong($"sequence {s} has fewer keys than queries");
        return new Frame(inputs, [Allocate(q, q.Type, q.Dim(0), q.Dim(1), v.Dim(2))], Allocate(q, DType.F32, q.Dim(0), q.Dim(1)));
    }

    protected override void Plain(Frame f)
    {
        var (H, Hk, D, Dv) = Sizes(f.Inputs[0], f.Inputs[1], f.Inputs[2]);
        var (q, k, v) = (f.Inputs[0].ToFloats(), f.Inputs[1].ToFloats(), f.Inputs[2].ToFloats());
        var (o, lse) = (new float[f.Outputs[0].Count], new float[f.Saved[0].Count]);
        ForEachQuery(H, (s, i, h, keys) =>
        {
            var p = Scores(q, k, i, h, s, keys, H, Hk, D, out var log);
            lse[(i * H) + h] = (float)log;
            for (var d = 0; d < Dv; d++)
            {
                double sum = 0;
                for (var j = 0; j < keys; j++) sum += p[j] * v[((((spans.Keys[s] + j) * Hk) + (h / (H / Hk))) * Dv) + d];
                o[(((i * H) + h) * Dv) + d] = (float)sum;
            }
        });
        f.Outputs[0].Store(o);
        f.Saved[0].Store(lse);
    }

    protected override void Cpu(Frame f)
    {
        if (Interop.Cpu.IsNative) ByNative(f);
        else Managed(f);
        if (sinks is not null) Sink(f.Outputs[0], f.Saved[0], sinks);
    }

    private void ByNative(Frame f)
    {
        var (H, Hk, D, Dv) = Sizes(f.Inputs[0], f.Inputs[1], f.Inputs[2]);
        fixed (int* starts = spans.Queries, keys = spans.Keys)
        {
            Native.Ok(Native.kt_attention(spans.Count, starts, keys, H, Hk, D, Dv, spans.Window, scale, (void*)f.Inputs[0].Pointer, (void*)f.Inputs[1].Pointer,
                (void*)f.Inputs[2].Pointer, f.Inputs[0].Type == DType.F32 ? 0 : 1, (void*)f.Outputs[0].Pointer, (float*)f.Saved[0].Pointer));
        }
    }

    protected override void Cuda(Frame f)
    {
        AttentionKernels.Forward(spans, scale, f.Inputs[0], f.Inputs[1], f.Inputs[2], f.Outputs[0], f.Saved[0]);
        if (sinks is not null) AttentionKernels.Sink(f.Outputs[0], f.Saved[0], sinks);
    }

    protected internal override Tensor?[] Backward(Frame f, Tensor?[] dOut) =>
        [.. new Grad(this).Run(dOut[0]!, f.Inputs[0], f.Inputs[1], f.Inputs[2], f.Outputs[0], f.Saved[0])];

    /// <summary>The fallback: a row of scores at a time, vectorised over the head width.</summary>
    private void Managed(Frame f)
    {
        var (H, Hk, D, Dv) = Sizes(f.Inputs[0], f.Inputs[1], f.Inputs[2]);
        var (q, k, v) = (f.Inputs[0].ToFloats(), f.Inputs[1].ToFloats(), f.Inputs[2].ToFloats());
        var (o, lse) = (new float[f.Outputs[0].Count], f.Saved[0]);
        for (var s = 0; s < spans.Count; s++)
        {
            var (first, count, start, cached) = Of(s);
            RowParallel.For(count, (long)H * (cached + count) * D, (from, to) =>
            {
                var p = new float[cached + count];
                for (var i = (int)from; i < to; i++)
                    for (var h = 0; h < H; h++)
                    {
                        var (row, head, keys) = (((first + i) * H) + h, h / (H / Hk), cached + i + 1);
                        var low = FirstSeen(keys);
                        for (var j = low; j < keys; j++)
                            p[j] = scale * TensorPrimitives.Dot(q.AsSpan(row * D, D), k.AsSpan((((start + j) * Hk) + head) * D, D));
                        var max = TensorPrimitives.Max<float>(p.AsSpan(low, keys - low));
                        double sum = 0;
                        for (var j = low; j < keys; j++) sum += p[j] = MathF.Exp(p[j] - max);
                        lse.Span<float>()[row] = max + (float)Math.Log(sum);
                        var target = o.AsSpan(row * Dv, Dv);
                        for (var j = low; j < keys; j++)
                            TensorPrimitives.MultiplyAdd(v.AsSpan((((start + j) * Hk) + head) * Dv, Dv), p[j] / (float)sum, target, target);
                    }
            });
        }
        f.Outputs[0].Store(o);
    }

    /// <summary>out · σ(lse − sink) and log(exp(lse) + exp(sink)), in place.</summary>
    internal static void Sink(Tensor o, Tensor lse, Tensor sinks) => RowParallel.For(o.Rows, o.Width, (from, to) =>
    {
        var logs = lse.Span<float>();
        var sink = sinks.Span<float>();
        var scratch = new float[o.Width];
        for (var row = from; row < to; row++)
        {
            ref var log = ref logs[(int)row];
            var more = (double)sink[(int)(row % sink.Length)] - log;
            var added = more > 0 ? more + Math.Log(1 + Math.Exp(-more)) : Math.Log(1 + Math.Exp(more));
            log += (float)added;
            var target = FloatRows.Target(o, row, scratch);
            TensorPrimitives.Multiply(FloatRows.Load(o, row, scratch), (float)Math.Exp(-added), target);
            FloatRows.Store(o, row, target);
        }
    });

    /// <summary>Of keys 0 … visible − 1, the first that the window leaves.</summary>
    private int FirstSeen(int visible) => spans.Window == 0 ? 0 : Math.Max(0, visible - spans.Window);

    private (int First, int Count, int Keys, int Cached) Of(int s)
    {
        var count = spans.Queries[s + 1] - spans.Queries[s];
        return (spans.Queries[s], count, spans.Keys[s], spans.Keys[s + 1] - spans.Keys[s] - count);
    }

    private static (int H, int Hk, int D, int Dv) Sizes(Tensor q, Tensor k, Tensor v) => ((int)q.Dim(1), (int)k.Dim(1), q.Width, v.Width);

    private void CheckStarts(string what, int[] starts, long rows)
    {
        if (starts.Length == 0 || starts[0] != 0 || starts[^1] != rows)
            throw Wrong($"{what} starts must run from 0 to {rows}, but are [{string.Join(", ", starts.Take(8))}{(starts.Length > 8 ? ", …" : "")}]");
        for (var s = 1; s < starts.Length; s++)
            if (starts[s] < starts[s - 1]) throw Wrong($"{what} starts must not fall, but start {s} is {starts[s]} after {starts[s - 1]}");
    }

    /// <summary>body(sequence, query row, head, visible keys).</summary>
    private void ForEachQuery(int H, Action<int, int, int, int> body)
    {
        for (var s = 0; s < spans.Count; s++)
        {
            var (first, count, _, cached) = Of(s);
            for (var i = 0; i < count; i++)
                for (var h = 0; h < H; h++) body(s, first + i, h, cached + i + 1);
        }
    }

    /// <summary>Probabilities of one query over its visible keys, in double.</summary>
    private double[] Scores(float[] q, float[] k, int i, int h, int s, int keys, int H, int Hk, int D, out double log)
    {
        var p = new double[keys];
        var low = FirstSeen(keys);
        for (var j = low; j < keys; j++)
            for (var d = 0; d < D; d++) p[j] += (double)scale * q[(((i * H) + h) * D) + d] * k[((((spans.Keys[s] + j) * Hk) + (h / (H / Hk))) * D) + d];
        var max = p.Skip(low).Max();
        double? sink = sinks?.Span<float>()[h];
        if (sink > max) max = sink.Value;
        var sum = sink is { } more ? Math.Exp(more - max) : 0;
        for (var j = low; j < keys; j++) sum += p[j] = Math.Exp(p[j] - max);
        for (var j = 0; j < keys; j++) p[j] /= sum;
        log = max + Math.Log(sum);
        return p;
    }

    /// <summary>
    /// P recomputed from lse; dV = Pᵀ dO ; dS = P ∘ (dO Vᵀ − rowsum(dO ∘ O)) ; dQ = scale · dS K ; dK = scale · dSᵀ Q. Inputs dO, q, k, v, O, lse; outputs
    /// dq, dk, dv.
    /// </summary>
    private sealed class Grad(Attention forward) : GradOp
    {
        protected override Frame Prepare(Tensor[] inputs) => new(inputs, [.. inputs[1..4].Select(t => Allocate(t, t.Type, t.Shape))]);

        protected override void Plain(Frame f)
        {
            var (H, Hk, D, Dv) = Sizes(f.Inputs[1], f.Inputs[2], f.Inputs[3]);
            var (dO, q, k, v) = (f.Inputs[0].ToFloats(), f.Inputs[1].ToFloats(), f.Inputs[2].ToFloats(), f.Inputs[3].ToFloats());
            var (dq, dk, dv) = (new double[q.Length], new double[k.Length], new double[v.Length]);
            var (keyStarts, scale) = (forward.KeyStarts, forward.Scale);
            forward.ForEachQuery(H, (s, i, h, keys) =>
            {
                var p = forward.Scores(q, k, i, h, s, keys, H, Hk, D, out _);
                var dp = new double[keys];
                double mean = 0;
                for (var j = 0; j < keys; j++)
                {
                    var row = ((keyStarts[s] + j) * Hk) + (h / (H / Hk));
                    for (var d = 0; d < Dv; d++)
                    {
                        var g = dO[(((i * H) + h) * Dv) + d];
                        dp[j] += (double)g * v[(row * Dv) + d];
                        dv[(row * Dv) + d] += p[j] * g;
                    }
                    mean += p[j] * dp[j];
                }
                for (var j = 0; j < keys; j++)
                {
                    var row = ((keyStarts[s] + j) * Hk) + (h / (H / Hk));
                    var ds = scale * p[j] * (dp[j] - mean);
                    for (var d = 0; d < D; d++)
                    {
                        dq[(((i * H) + h) * D) + d] += ds * k[(row * D) + d];
                        dk[(row * D) + d] += ds * q[(((i * H) + h) * D) + d];
                    }
                }
            });
            f.Outputs[0].Store(Array.ConvertAll(dq, x => (float)x));
            f.Outputs[1].Store(Array.ConvertAll(dk, x => (float)x));
            f.Outputs[2].Store(Array.ConvertAll(dv, x => (float)x));
        }

        protected override void Cpu(Frame f)
        {
            if (!Interop.Cpu.IsNative)
            {
                Managed(f);
                return;
            }
            var (H, Hk, D, Dv) = Sizes(f.Inputs[1], f.Inputs[2], f.Inputs[3]);
            fixed (int* starts = forward.QueryStarts, keys = forward.KeyStarts)
            {
                Native.Ok(Native.kt_attention_grad(forward.QueryStarts.Length - 1, starts, keys, H, Hk, D, Dv, forward.Spans.Window, forward.Scale,
                    (void*)f.Inputs[1].Pointer, (void*)f.Inputs[2].Pointer, (void*)f.Inputs[3].Pointer, (void*)f.Inputs[4].Pointer, (float*)f.Inputs[5].Pointer,
                    (void*)f.Inputs[0].Pointer,
                    f.Inputs[1].Type == DType.F32 ? 0 : 1, (void*)f.Outputs[0].Pointer, (void*)f.Outputs[1].Pointer, (void*)f.Outputs[2].Pointer));
            }
        }

        protected override void Cuda(Frame f) =>
            AttentionKernels.Backward(forward.Spans, forward.Scale, f.Inputs[0], f.Inputs[1], f.Inputs[2], f.Inputs[3], f.Inputs[4], f.Inputs[5], f.Outputs[0],
                f.Outputs[1], f.Outputs[2]);

        /// <summary>Parallel over key heads, which own their dK, dV and the dQ of their query heads.</summary>
        private void Managed(Frame f)
        {
            var (H, Hk, D, Dv) = Sizes(f.Inputs[1], f.Inputs[2], f.Inputs[3]);
            var (dO, q, k, v) = (f.Inputs[0].ToFloats(), f.Inputs[1].ToFloats(), f.Inputs[2].ToFloats(), f.Inputs[3].ToFloats());
            var (o, lse) = (f.Inputs[4].ToFloats(), f.Inputs[5].ToFloats());
            var (dq, dk, dv) = (new float[q.Length], new float[k.Length], new float[v.Length]);
            var (group, scale) = (H / Hk, forward.Scale);
            RowParallel.For(Hk, q.Length, (from, to) =>
            {
                for (var head = (int)from; head < to; head++)
                    for (var s = 0; s + 1 < forward.QueryStarts.Length; s++)
                    {
                        var (first, count, start, cached) = forward.Of(s);
                        for (var i = 0; i < count; i++)
                            for (var h = head * group; h < (head + 1) * group; h++)
                            {
                                var row = ((first + i) * H) + h;
                                var g = dO.AsSpan(row * Dv, Dv);
                                var mean = TensorPrimitives.Dot(g, o.AsSpan(row * Dv, Dv));
                                var query = q.AsSpan(row * D, D);
                                for (var j = forward.FirstSeen(cached + i + 1); j <= cached + i; j++)
                                {
                                    var at = ((start + j) * Hk) + head;
                                    var key = k.AsSpan(at * D, D);
                                    var p = MathF.Exp((scale * TensorPrimitives.Dot<float>(query, key)) - lse[row]);
                                    var ds = scale * p * (TensorPrimitives.Dot<float>(g, v.AsSpan(at * Dv, Dv)) - mean);
                                    TensorPrimitives.MultiplyAdd(g, p, dv.AsSpan(at * Dv, Dv), dv.AsSpan(at * Dv, Dv));
                                    TensorPrimitives.MultiplyAdd(key, ds, dq.AsSpan(row * D, D), dq.AsSpan(row * D, D));
                                    TensorPrimitives.MultiplyAdd(query, ds, dk.AsSpan(at * D, D), dk.AsSpan(at * D, D));
                                }
                            }
                    }
            });
            f.Outputs[0].Store(dq);
            f.Outputs[1].Store(dk);
            f.Outputs[2].Store(dv);
        }
    }
}
