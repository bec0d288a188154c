using KtNotebooks.Ops;
using KtNotebooks.Tensors;

using static KtNotebooks.Tests.Ops.Input;

namespace KtNotebooks.Tests.Ops;

/// <summary>
/// The cases of every op: one row or element, odd lengths, tails after full vectors, both float types, every setting. Small, because definitions are slow.
/// </summary>
public static class OpCases
{
    private static readonly DType[] Both = [DType.F32, DType.BF16];

    public static IReadOnlyList<OpCase> All { get; } = [.. Pointwise(), .. Norms(), .. Linears(), .. Tokens(), .. Attentions(), .. Experts.ExpertCases.All()];

    public static OpCase Named(string name) => All.Single(c => c.Name == name);

    private static IEnumerable<OpCase> Pointwise()
    {
        foreach (var type in Both)
        {
            foreach (long[] shape in (long[][])[[1], [3, 7], [5, 33], [2, 3, 16], [70, 257]])
            {
                var text = Text(type, shape);
                yield return new OpCase(typeof(Add), text, 1, [Of(type, shape), Of(type, shape)], x => [Add.Apply(x[0], x[1])]);
                yield return new OpCase(typeof(Add), text + ", three", 1, [Of(type, shape), Of(type, shape), Of(type, shape)],
                    x => [Add.Apply(x[0], x[1], x[2])]);
                yield return new OpCase(typeof(AddBias), text, (int)shape[0], [Of(type, shape), F32(shape[^1])], x => [AddBias.Apply(x[0], x[1])]);
                yield return new OpCase(typeof(SwiGlu), text, 4, [Of(type, shape), Of(type, shape)], x => [SwiGlu.Apply(x[0], x[1])]);
            }
            // between devices: ExpertExecutorTests
            yield return new OpCase(typeof(Transfer), $"{type} to its own device", 1, [Of(type, 3, 5)], x => [new Transfer(x[0].Device).Run(x[0])[0]]);
            foreach (long[] shape in (long[][])[[3, 2, 5], [1, 1, 1], [0, 2, 3]])
                yield return new OpCase(typeof(Flatten), Text(type, shape), 1, [Of(type, shape)], x => [Flatten.Apply(x[0])]);
            foreach (var (width, n) in ((int, int)[])[(2, 1), (7, 3), (40, 32)])
                yield return new OpCase(typeof(SplitColumns), $"{type} {width} at {n}", 1, [Of(type, 3, width)], x =>
                {
                    var (a, b) = SplitColumns.Apply(x[0], n);
                    return [a, b];
                });
        }
    }

    private static IEnumerable<OpCase> Norms()
    {
        foreach (var type in Both)
            foreach (long[] shape in (long[][])[[1, 1], [3, 7], [2, 16], [2, 3, 31], [5, 64], [130, 8], [3, 1027], [2, 4096]])
                yield return new OpCase(typeof(RmsNorm), Text(type, shape), (int)Math.Max(shape[^1], shape[0]), [Of(type, shape), F32(shape[^1])],
                    x => [RmsNorm.Apply(x[0], x[1], 1e-6f)])
                { Terms = shape[^1] == 1 ? 4 : 0 }; // of one column, dx cancels
    }

    private static IEnumerable<OpCase> Linears()
    {
        var sizes = ((long R, long K, long N)[])[(1, 1, 1), (3, 5, 7), (17, 33, 9), (40, 64, 48), (5, 130, 66)];
        foreach (var (x, w) in ((DType, DType)[])[(DType.F32, DType.F32), (DType.BF16, DType.BF16), (DType.F32, DType.BF16), (DType.BF16, DType.F32)])
            foreach (var (R, K, N) in sizes)
                yield return new OpCase(typeof(Linear), $"{x} x, {w} W, {R}×{K}→{N}", (int)Math.Max(R, Math.Max(K, N)), [Of(x, R, K), Of(w, N, K)],
                    t => [Linear.Apply(t[0], t[1])]);
        yield return new OpCase(typeof(Linear), "BF16 to F32 logits, 3-D", 24, [BF16(2, 3, 24), BF16(10, 24)], t => [Linear.Apply(t[0], t[1], DType.F32)]);
        foreach (var type in Both)
            foreach (var (R, K, N, r) in ((int, int, int, int)[])[(1, 3, 2, 1), (17, 33, 9, 3), (40, 64, 48, 8), (6, 130, 66, 16)])
                foreach (var mask in (DropoutMask[])[DropoutMask.None, new(0.25f, 7, FirstRow: 5)])
                    yield return new OpCase(typeof(Linear), $"{type} low rank {r}, {R}×{K}→{N}{(mask.Active ? ", dropout" : "")}", Math.Max(R, Math.Max(K, N))
                        + r,
                        [Of(type, R, K), Of(type, N, K).Frozen, F32(r, K) with { Scale = 0.5f }, F32(N, r) with { Scale = 0.5f }],
                        t => [Linear.Apply(t[0], t[1], t[2], t[3], 1.5f, mask)], Together: [2, 3])
                    { Roundings = 4 }; // A, B, p and the low-rank term
        foreach (var type in Both) // the term's value is Σ x · g
            yield return new OpCase(typeof(AddSlope), Text(type, [5, 9]), 2, [Of(type, 5, 9), F32(5, 9).Frozen], t => [AddSlope.Apply(t[0], t[1])],
                t => t[0].ToFloats().Zip(t[1].ToFloats()).Sum(v => (double)v.First * v.Second));
        foreach (var type in Both)
            foreach (var (R, N) in ((int, int)[])[(1, 1), (5, 9), (17, 64)])
                yield return new OpCase(typeof(ScaleColumns), Text(type, [R, N]), R, [Of(type, R, N), F32(N),
                    F32(N).Frozen with { Floats = [.. Enumerable.Range(0, N).Select(n => 1 + (n * 0.3f % 2))] }], t => [ScaleColumns.Apply(t[0], t[1], t[2])])
                { Roundings = 2 };
        // A, B, p and the low-rank term
        yield return new OpCase(typeof(Linear), "F32 x, frozen BF16 W, low rank 4", 20, [F32(6, 20), BF16(12, 20).Frozen, F32(4, 20), F32(12, 4)],
            t => [Linear.Apply(t[0], t[1], t[2], t[3], 0.5f)], Together: [2, 3])
        { Roundings = 4 };
    }

    private static IEnumerable<OpCase> Tokens()
    {
        int[] rows = [4, 0, 2];
        int[] ids = [3, 0, 3, 6, 3];
        foreach (var type in Both)
        {
            yield return new OpCase(typeof(GatherRows), Text(type, [6, 5]), 1, [Of(type, 6, 5)], x => [GatherRows.Apply(x[0], rows)]);
            yield return new OpCase(typeof(GatherRows), $"{type}, no row", 1, [Of(type, 6, 5)], x => [GatherRows.Apply(x[0], [])]);
            foreach (var width in (int[])[1, 9, 32])
                yield return new OpCase(typeof(EmbeddingLookup), $"{type} width {width}, repeated ids", 5, [Of(type, 7, width), I32(ids, ids.Length)],
                    x => [EmbeddingLookup.Apply(x[0], x[1])]);
            foreach (var (R, V) in ((int, int)[])[(1, 2), (5, 17), (40, 1000)])
            {
                var targets = Enumerable.Range(0, R).Select(r => r % 4 == 3 ? CrossEntropy.Ignore : r * 7 % V).ToArray();
                var weights = Enumerable.Range(0, R).Select(r => 1f / (r + 2)).ToArray();
                // softmax − 1 cancels
                yield return new OpCase(typeof(CrossEntropy), $"{Text(type, [R, V])}, some rows ignored", R + V, [Of(type, R, V) with { Scale = 3 }],
                    x => [CrossEntropy.Apply(x[0], targets, weights)])
                { Terms = weights[0] };
            }
        }
        yield return new OpCase(typeof(EmbeddingLookup), "BF16 table to F32 rows", 5, [BF16(7, 12), I32(ids, ids.Length)],
            x => [EmbeddingLookup.Apply(x[0], x[1], DType.F32)]);
    }

    private static IEnumerable<OpCase> Attentions()
    {
        var spans = ((string Text, Spans Spans, int Tq, int Tk)[])
        [
            ("one token", Spans.Self([0, 1]), 1, 1), ("three sequences, one empty", Spans.Self([0, 3, 3, 8]), 8, 8),
            ("cached keys", new Spans([0, 2, 3], [0, 5, 9]), 3, 9), ("one of 37", Spans.Self([0, 37]), 37, 37),
        ];
        foreach (var type in Both)
        {
            foreach (var (text, s, Tq, Tk) in spans)
                foreach (var (H, Hk, D, Dv) in ((int, int, int, int)[])[(1, 1, 5, 5), (4, 2, 16, 16), (2, 2, 24, 16)])
                    yield return new OpCase(typeof(Attention), $"{type} {text}, heads {H}/{Hk} × {D}/{Dv}", (Tk * H / Hk)
                        + D, [Of(type, Tq, H, D), Of(type, Tk, Hk, D), Of(type, Tk, Hk, Dv)],
                        x => [Attention.Apply(x[0], x[1], x[2], s, 1 / MathF.Sqrt(D))])
                    { Roundings = 4, Terms = Tk == 1 ? 1 : 0 }; // one key: dq and dk cancel
            foreach (var (text, s, Tq, Tk) in spans)
                foreach (var (window, sinks) in ((int, bool)[])[(1, false), (4, false), (4, true), (0, true), (30, true)])
                    yield return new OpCase(typeof(Attention), $"{type} {text}, window {window}{(sinks ? ", sinks" : "")}", (Tk * 2) + 16,
                        [Of(type, Tq, 4, 16), Of(type, Tk, 2, 16), Of(type, Tk, 2, 16), F32(4).Frozen],
                        x => [Attention.Apply(x[0], x[1], x[2], s with { Window = window }, 0.25f, sinks ? x[3] : null)])
                    { Roundings = sinks ? 8 : 4, Terms = Tk == 1 || window == 1 ? 1 : 0 };
            yield return new OpCase(typeof(Attention), $"{type} MLA's head sizes", 210, [Of(type, 9, 2, 192), Of(type, 9, 2, 192), Of(type, 9, 2, 128)],
                x => [Attention.Apply(x[0], x[1], x[2], Spans.Self([0, 4, 9]), 0.07f)])
            { Roundings = 4 };
            foreach (var yarn in (YarnSettings?[])[null, new YarnSettings(40, 64, 32, 1, 0.707, 0.5)])
            {
                var shape = new MlaShape(H: 3, Nope: 5, Rope: 8, Value: 7);
                var table = new RotaryTable(8, 10000, yarn);
                yield return new OpCase(typeof(MlaHeads), $"{type}{(yarn is null ? "" : " YaRN")}", shape.H
                    + 2, [Of(type, 4, 3 * 13), Of(type, 4, 3 * 12), Of(type, 4, 8)], x =>
                {
                    var (q, k, v) = MlaHeads.Apply(x[0], x[1], x[2], shape, table, [0, 1, 0, 100]);
                    return [q, k, v];
                });
            }
            foreach (var (H, Hk, d, yarn) in ((int, int, int, YarnSettings?)[])[(1, 1, 2, null), (4, 2, 6, null),
                (3, 1, 10, new YarnSettings(4, 64, 32, 1, 1, 0)), (8, 2, 128, null)])
            {
                var (shape, table) = (new GqaShape(H, Hk, d), new RotaryTable(d, 1e6, yarn));
                yield return new OpCase(typeof(GqaHeads), $"{type} heads {H}/{Hk} × {d}{(yarn is null ? "" : ", YaRN")}", (H * 4)
                    + d, [Of(type, 4, H * d), Of(type, 4, Hk * d), Of(type, 4, Hk * d), F32(d), F32(d)], x =>
                {
                    var (q, k, v) = GqaHeads.Apply(x[0], x[1], x[2], x[3], x[4], shape, table, [0, 1, 0, 100], 1e-6f);
                    return [q, k, v];
                })
                { Terms = d == 2 ? 4 : 0 }; // of two columns, dx nearly cancels
            }
            // A part of a head turns, or heads are not normalised.
            foreach (var (H, Hk, d, turning) in ((int, int, int, int)[])[(1, 1, 4, 2), (4, 2, 6, 6), (3, 1, 10, 4), (8, 2, 128, 64), (2, 1, 96, 64)])
            {
                var (shape, table) = (new GqaShape(H, Hk, d), new RotaryTable(turning, 1e6));
                Input[] heads = [Of(type, 4, H * d), Of(type, 4, Hk * d), Of(type, 4, Hk * d)];
                yield return new OpCase(typeof(GqaHeads), $"{type} heads {H}/{Hk} × {d}, {turning} turn", (H * 4) + d, [.. heads, F32(d), F32(d)], x =>
                {
                    var (q, k, v) = GqaHeads.Apply(x[0], x[1], x[2], x[3], x[4], shape, table, [0, 1, 0, 100], 1e-6f);
                    return [q, k, v];
                });
                yield return new OpCase(typeof(GqaHeads), $"{type} heads {H}/{Hk} × {d}, {turning} turn, no norm", (H * 4) + d, heads, x =>
                {
                    var (q, k, v) = GqaHeads.Apply(x[0], x[1], x[2], null, null, shape, table, [0, 1, 0, 100], 1e-6f);
                    return [q, k, v];
                });
            }
        }
    }

    private static string Text(DType type, long[] shape) => $"{type}[{string.Join(", ", shape)}]";
}
