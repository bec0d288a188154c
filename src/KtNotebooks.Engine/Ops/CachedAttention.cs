using System.Numerics.Tensors;

using KtNotebooks.Autograd;
using KtNotebooks.Interop;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>
/// Attention of new rows on a paged cache, which is read where it lies: out[t, h] = softmax(scale · q[t, h] kᵀ) v. q [T, H, D]; k [C, Hk, D] and
/// v [C, Hk, Dv], or k alone, whose first Dv columns are the values (latent attention; Hk = 1 there); C rows in pages as <see cref="PageTable"/> says; query
/// j of a sequence with L queries and n keys sees its keys 0 … n − L + j, with a window the last of them alone; sinks as in
/// <see cref="Attention"/>; out [T, H, Dv]. One float type; inference only.
/// FLOPs: 2 · pairs · H · (D + Dv). On the CPU a key is read once for all heads that share it, and a row's bits depend on its own keys alone.
/// </summary>
internal sealed unsafe class CachedAttention(int[] seqStarts, PageTable table, int Dv, float scale, int window = 0, Tensor? sinks = null) : InferenceOp
{
    /// <summary>Where what a card must know is made once for all layers; null: by every op for itself.</summary>
    private PassLists? Lists { get; init; }

    public static Tensor Apply(Tensor q, Tensor k, Tensor v, int[] seqStarts, PageTable table, float scale, int window = 0, Tensor? sinks = null,
        PassLists? lists = null) => new CachedAttention(seqStarts, table, v.Width, scale, window, sinks) { Lists = lists }.Run(q, k, v)[0];

    /// <summary>Values are the first columns of the keys.</summary>
    public static Tensor Latent(Tensor q, Tensor c, int[] seqStarts, PageTable table, int columns, float scale, PassLists? lists = null) =>
        new CachedAttention(seqStarts, table, columns, scale) { Lists = lists }.Run(q, c)[0];

    protected override Frame Prepare(Tensor[] inputs)
    {
        var (q, k, v) = (inputs[0], inputs[1], inputs[^1]);
        ExpectFloat(q, "q");
        if (q.Rank != 3 || k.Rank != 3) throw Wrong($"q and k must be [T, heads, width], but are {q} and {k}");
        if (k.Dim(1) == 0 || q.Dim(1) % k.Dim(1) != 0) throw Wrong($"q's {q.Dim(1)} heads must be a multiple of k's {k.Dim(1)}");
        Expect(k, "k", q.Type, k.Dim(0), k.Dim(1), q.Width);
        if (inputs.Length > 2) Expect(v, "v", q.Type, k.Dim(0), k.Dim(1), Dv);
        else if (Dv < 1 || Dv > q.Width || k.Dim(1) != 1) throw Wrong($"{Dv} columns of one key head must be values, but k is {k}");
        for (var s = 0; s + 1 < seqStarts.Length; s++)
            if (table.Counts[s] < seqStarts[s + 1] - seqStarts[s])
                throw Wrong($"sequence {s} has {seqStarts[s + 1] - seqStarts[s]} queries, but {table.Counts[s]} keys");
        foreach (var page in table.Pages)
            if (page < 0 || (page + 1L) * PageTable.Rows > k.Dim(0)) throw Wrong($"page {page} is not in {k}");
        if (sinks is not null) Expect(sinks, "sinks", DType.F32, q.Dim(1));
        return new Frame(inputs, [Allocate(q, q.Type, q.Dim(0), q.Dim(1), Dv)], Allocate(q, DType.F32, q.Dim(0), q.Dim(1)));
    }

    protected override void Plain(Frame f)
    {
        var (q, k, v) = (f.Inputs[0].ToFloats(), f.Inputs[1].ToFloats(), f.Inputs[^1].ToFloats());
        var (H, Hk, D, pitch) = ((int)f.Inputs[0].Dim(1), (int)f.Inputs[1].Dim(1), f.Inputs[0].Width, f.Inputs[^1].Width);
        var o = new float[f.Outputs[0].Count];
        ForEachQuery((s, t, keys) =>
        {
            for (var h = 0; h < H; h++)
            {
                var (p, head, low) = (new double[keys], h / (H / Hk), FirstSeen(keys));
                for (var j = low; j < keys; j++)
                    for (var d = 0; d < D; d++) p[j] += (double)scale * q[(((t * H) + h) * D) + d] * k[(((table.RowOf(s, j) * Hk) + head) * D) + d];
                double? sink = sinks?.Span<float>()[h];
                var max = Math.Max(p.Skip(low).Max(), sink ?? double.NegativeInfinity);
                var sum = p.Skip(low).Sum(x => Math.Exp(x - max)) + (sink is { } more ? Math.Exp(more - max) : 0);
                for (var d = 0; d < Dv; d++)
                {
                    double value = 0;
                    for (var j = low; j < keys; j++) value += Math.Exp(p[j] - max) / sum * v[(((table.RowOf(s, j) * Hk) + head) * pitch) + d];
                    o[(((t * H) + h) * Dv) + d] = (float)value;
                }
            }
        });
        f.Outputs[0].Store(o);
    }

    protected override void Cpu(Frame f)
    {
        if (Interop.Cpu.IsNative) ByNative(f);
        else Managed(f);
        if (sinks is not null) Attention.Sink(f.Outputs[0], f.Saved[0], sinks);
    }

    private void ByNative(Frame f)
    {
        var (q, k, v) = (f.Inputs[0], f.Inputs[1], f.Inputs[^1]);
        fixed (int* starts = seqStarts, counts = table.Counts, first = table.FirstPage, pages = table.Pages)
        {
            Native.Ok(Native.kt_attention_cached(seqStarts.Length - 1, starts, counts, first, pages, PageTable.Rows, (int)q.Dim(1), (int)k.Dim(1), q.Width, Dv,
                window, scale, (void*)q.Pointer, (void*)k.Pointer, k.Dim(1) * k.Width, (void*)v.Pointer, v.Dim(1) * v.Width, q.Type == DType.F32 ? 0 : 1,
                (void*)f.Outputs[0].Pointer, (float*)f.Saved[0].Pointer));
        }
    }

    protected override void Cuda(Frame f)
    {
        if (Lists is { } shared) AttentionKernels.Cached(shared, scale, window, f.Inputs[0], f.Inputs[1], f.Inputs[^1], f.Outputs[0], f.Saved[0]);
        else
        {
            using var own = new PassLists(new PassRows([], seqStarts, table));
            AttentionKernels.Cached(own, scale, window, f.Inputs[0], f.Inputs[1], f.Inputs[^1], f.Outputs[0], f.Saved[0]);
        }
        if (sinks is not null) AttentionKernels.Sink(f.Outputs[0], f.Saved[0], sinks);
    }

    /// <summary>Of keys 0 … visible − 1, the first that the window leaves.</summary>
    private int FirstSeen(int visible) => window == 0 ? 0 : Math.Max(0, visible - window);

    /// <summary>The fallback: a row of scores at a time, vectorised over the head width.</summary>
    private void Managed(Frame f)
    {
        var (H, Hk, D) = ((int)f.Inputs[0].Dim(1), (int)f.Inputs[1].Dim(1), f.Inputs[0].Width);
        using var q = f.Inputs[0].View(f.Inputs[0].Dim(0) * H, D);
        using var o = f.Outputs[0].View(q.Rows, Dv);
        var (k, v) = (f.Inputs[1], f.Inputs[^1]); // their rows are [C · Hk]
        for (var s = 0; s + 1 < seqStarts.Length; s++)
        {
            var (first, count, cached, sequence) = (seqStarts[s], seqStarts[s + 1] - seqStarts[s], table.Counts[s] - seqStarts[s + 1] + seqStarts[s], s);
            RowParallel.For((long)count * H, (long)table.Counts[s] * D, (from, to) =>
            {
                var (p, query, row, sum) = (new float[table.Counts[sequence]], new float[D], new float[Math.Max(D, v.Width)], new float[Dv]);
                for (var i = from; i < to; i++)
                {
                    var (head, at) = ((int)(i % H) / (H / Hk), (first * (long)H) + i);
                    var keys = cached + (int)(i / H) + 1;
                    var low = FirstSeen(keys);
                    var seen = p.AsSpan(low, keys - low);
                    var x = FloatRows.Load(q, at, query);
                    for (var j = 0; j < seen.Length; j++)
                        seen[j] = scale * TensorPrimitives.Dot(x, FloatRows.Load(k, (table.RowOf(sequence, low + j) * Hk) + head, row));
                    var max = TensorPrimitives.Max<float>(seen);
                    TensorPrimitives.Subtract(seen, max, seen);
                    TensorPrimitives.Exp<float>(seen, seen);
                    var total = TensorPrimitives.Sum<float>(seen);
                    f.Saved[0].Span<float>()[(int)at] = max + MathF.Log(total);
                    TensorPrimitives.Divide(seen, total, seen);
                    Array.Clear(sum);
                    for (var j = 0; j < seen.Length; j++)
                        TensorPrimitives.MultiplyAdd(FloatRows.Load(v, (table.RowOf(sequence, low + j) * Hk) + head, row)[..Dv], seen[j], sum, sum);
                    FloatRows.Store(o, at, sum);
                }
            });
        }
    }

    /// <summary>body(sequence, query row, visible keys).</summary>
    private void ForEachQuery(Action<int, int, int> body)
    {
        for (var s = 0; s + 1 < seqStarts.Length; s++)
            for (var t = seqStarts[s]; t < seqStarts[s + 1]; t++) body(s, t, table.Counts[s] - (seqStarts[s + 1] - t) + 1);
    }
}
