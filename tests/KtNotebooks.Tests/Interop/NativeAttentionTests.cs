using KtNotebooks.Interop;

using Xunit;

namespace KtNotebooks.Tests.Interop;

/// <summary>Block-diagonal causal attention, forward and backward, against softmax written out in double.</summary>
[Collection("cpu variant")]
public sealed unsafe class NativeAttentionTests
{
    private const double Eps = 1.1920929e-7;

    public static TheoryData<string> Variants => OnVariant.All;

    [Theory, MemberData(nameof(Variants))]
    public void Forward_and_backward_equal_the_definition(string variant)
    {
        using var on = new OnVariant(variant);
        var random = new Random(5);
        for (var type = 0; type < 2; type++)
        {
            Check(random, type, [1], [1], 1, 1, 1, 1);
            Check(random, type, [5, 0, 1, 17], [5, 0, 1, 17], 4, 2, 48, 24);
            Check(random, type, [3, 1, 0], [9, 200, 4], 2, 1, 16, 33); // a cache before the queries, and a sequence with a cache only
            Check(random, type, [97, 130], [97, 130], 2, 2, 192, 128); // several blocks of queries and of keys
            Check(random, type, [100], [300], 3, 3, 7, 5);
        }
    }

    [Theory, MemberData(nameof(Variants))]
    public void Large_scores_do_not_overflow(string variant)
    {
        using var on = new OnVariant(variant);
        int[] starts = [0, 40];
        using var q = new Numbers(40 * 8, Native.F32);
        using var v = new Numbers(40 * 8, Native.F32);
        using var result = new Numbers(40 * 8, Native.F32);
        using var lse = new Numbers(40, Native.F32);
        for (var i = 0; i < q.Count; i++)
            (q[i], v[i]) = (30 + i / 8, i / 8); // the score with a later key is larger by far: each row sees itself alone
        fixed (int* s = starts)
            Native.Ok(Native.kt_attention(1, s, s, 1, 1, 8, 8, 0, 1, q.Pointer, q.Pointer, v.Pointer, Native.F32, result.Pointer, lse.Floats));
        for (var i = 0; i < result.Count; i++)
            Assert.Equal(i / 8, result[i], 1e-5);
    }

    [Theory, MemberData(nameof(Variants))]
    public void Bits_depend_neither_on_the_run_nor_on_the_number_of_threads(string variant)
    {
        var random = new Random(9);
        int[] starts = [0, 150, 260];
        Numbers New(bool filled = false, int type = Native.BF16) => new(260 * 4 * 24, type, filled ? random : null);
        using Numbers q = New(true), k = New(true), v = New(true), dout = New(true), result = New(), dq = New(), dk = New(), dv = New();
        using var lse = new Numbers(260 * 4, Native.F32);
        byte[]? first = null;
        foreach (var threads in new[] { 1, 2, 2, 3 })
        {
            using var on = new OnVariant(variant, threads);
            fixed (int* s = starts)
            {
                Native.Ok(Native.kt_attention(2, s, s, 4, 4, 24, 24, 0, 0.2f, q.Pointer, k.Pointer, v.Pointer, q.Type, result.Pointer, lse.Floats));
                Native.Ok(Native.kt_attention_grad(2, s, s, 4, 4, 24, 24, 0, 0.2f, q.Pointer, k.Pointer, v.Pointer, result.Pointer, lse.Floats, dout.Pointer,
                    q.Type, dq.Pointer, dk.Pointer, dv.Pointer));
            }
            byte[] bits = [.. result.Bytes, .. lse.Bytes, .. dq.Bytes, .. dk.Bytes, .. dv.Bytes];
            Assert.Equal(first ??= bits, bits);
        }
    }

    private static void Check(Random random, int type, int[] queries, int[] keys, int h, int hk, int d, int dv)
    {
        int[] startsQ = Starts(queries), startsK = Starts(keys);
        int tq = startsQ[^1], tk = startsK[^1], group = h / hk;
        var scale = (float)(1 / Math.Sqrt(d));
        using Numbers q = new(tq * h * d, type, random), k = new(tk * hk * d, type, random), v = new(tk * hk * dv, type, random),
            dout = new(tq * h * dv, type, random);
        using Numbers result = new(tq * h * dv, type), lse = new(tq * h, Native.F32), gq = new(q.Count, type), gk = new(k.Count, type), gv = new(v.Count, type);
        fixed (int* sq = startsQ, sk = startsK)
        {
            Native.Ok(Native.kt_attention(queries.Length, sq, sk, h, hk, d, dv, 0, scale, q.Pointer, k.Pointer, v.Pointer, type, result.Pointer, lse.Floats));
            Native.Ok(Native.kt_attention_grad(queries.Length, sq, sk, h, hk, d, dv, 0, scale, q.Pointer, k.Pointer, v.Pointer, result.Pointer, lse.Floats,
                dout.Pointer, type, gq.Pointer, gk.Pointer, gv.Pointer));
        }
        // Values, and beside each the sum of magnitudes that its error is measured by.
        double[] rq = new double[q.Count], mq = new double[q.Count], rk = new double[k.Count], mk = new double[k.Count], rv = new double[v.Count],
            mv = new double[v.Count];
        string Where(string what) =>
            $"{what}, {Cpu.Variant} type {type} queries [{string.Join(' ', queries)}] keys [{string.Join(' ', keys)}] H{h}/{hk} D{d}/{dv}";
        double worst = 0; // of the relative errors of exp(score): ε · Σ|q||k|
        for (var s = 0; s < queries.Length; s++)
            for (var i = 0; i < queries[s]; i++)
                for (var head = 0; head < h; head++)
                {
                    int row = (startsQ[s] + i) * h + head, seen = keys[s] - queries[s] + i + 1;
                    int Key(int j) => (startsK[s] + j) * hk + head / group;
                    var scores = Enumerable.Range(0, seen).Select(j => Reference.Sum(d, l => scale * q[row * d + l], l => k[Key(j) * d + l])).ToArray();
                    var shaky = Eps * (8 + Math.Sqrt(d)) * scores.Max(x => x.Magnitude) + 4 * Eps;
                    worst = Math.Max(worst, shaky);
                    var top = scores.Max(x => x.Value);
                    var sum = scores.Sum(x => Math.Exp(x.Value - top));
                    var expectedLse = top + Math.Log(sum);
                    Assert.True(Math.Abs(lse[row] - expectedLse) <= shaky + 4 * Eps * Math.Abs(expectedLse),
                        $"{Where("lse")}: {lse[row]} instead of {expectedLse}");
                    // Backward is defined on the stored out and lse.
                    var delta = Reference.Sum(dv, l => result[row * dv + l], l => dout[row * dv + l]);
                    for (var l = 0; l < dv; l++)
                    {
                        var o = Reference.Sum(seen, j => Math.Exp(scores[j].Value - expectedLse), j => v[Key(j) * dv + l]);
                        Near(result, row * dv + l, o.Value, (2 * shaky + Eps * (8 + Math.Sqrt(seen))) * o.Magnitude, () => Where("out"));
                    }
                    for (var j = 0; j < seen; j++)
                    {
                        var p = Math.Exp(scores[j].Value - lse[row]);
                        var dp = Reference.Sum(dv, l => dout[row * dv + l], l => v[Key(j) * dv + l]);
                        double ds = p * (dp.Value - delta.Value) * scale, size = p * (dp.Magnitude + delta.Magnitude) * scale;
                        for (var l = 0; l < d; l++)
                        {
                            Add(rq, mq, row * d + l, ds * k[Key(j) * d + l], size * k[Key(j) * d + l]);
                            Add(rk, mk, Key(j) * d + l, ds * q[row * d + l], size * q[row * d + l]);
                        }
                        for (var l = 0; l < dv; l++)
                            Add(rv, mv, Key(j) * dv + l, p * dout[row * dv + l], p * dout[row * dv + l]);
                    }
                }
        var relative = 2 * worst + Eps * (16 + Math.Sqrt(Math.Max(tq * group, tk)) + Math.Sqrt(dv));
        for (var i = 0; i < q.Count; i++)
            Near(gq, i, rq[i], relative * mq[i], () => Where("dq"));
        for (var i = 0; i < k.Count; i++)
            Near(gk, i, rk[i], relative * mk[i], () => Where("dk"));
        for (var i = 0; i < v.Count; i++)
            Near(gv, i, rv[i], relative * mv[i], () => Where("dv"));
    }

    private static int[] Starts(int[] lengths) => [0, .. lengths.Select((_, i) => lengths.Take(i + 1).Sum())];

    private static void Add(double[] values, double[] magnitudes, int i, double value, double magnitude)
    {
        values[i] += value;
        magnitudes[i] += Math.Abs(magnitude);
    }

    private static void Near(Numbers actual, int i, double expected, double limit, Func<string> where)
    {
        if (actual.Type == Native.BF16)
            limit += Math.Abs(expected) / 256 * (1 + 1e-3);
        if (!(Math.Abs(actual[i] - expected) <= limit + 1e-30))
            Assert.Fail($"{where()}: [{i}] is {actual[i]:g9}, expected {expected:g9}, error {Math.Abs(actual[i] - expected):g3} > limit {limit:g3}");
    }
}
