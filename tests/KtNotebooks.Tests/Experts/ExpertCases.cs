using KtNotebooks.Experts;
using KtNotebooks.Formats;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Ops;

using static KtNotebooks.Tests.Ops.Input;

namespace KtNotebooks.Tests.Experts;

/// <summary>
/// Cases of the router and of the routed experts: frozen with low-rank pairs, trained whole, one tensor an expert, experts that no token chose.
/// </summary>
public static class ExpertCases
{
    private const int E = 5;
    private const int D = 11;
    private const int I = 7;
    private const int K = 2;

    /// <summary>
    /// BF16 intermediates with low-rank pairs: g, u, h and the result, and on a card, whose tensor cores multiply BF16, also A, B and A·input of the first
    /// two projections and of the third.
    /// </summary>
    private const int WithLora = 4 + 6;

    /// <summary>Expert 3 gets no token; expert 0 most.</summary>
    private static readonly int[] Chosen = [0, 1, 2, 0, 0, 4, 1, 0, 0, 2, 4, 2];

    public static IEnumerable<OpCase> All() => [.. Routers(), .. Experts()];

    private static IEnumerable<OpCase> Routers()
    {
        foreach (var (T, experts, settings) in ((int, int, RouterSettings)[])
            [(1, 1, new(1, false, 1)), (6, 8, new(2, false, 1)), (6, 8, new(3, true, 2.5f)), (5, 9, new(9, true, 1)), (6, 8, new(2, false, 1, Balance: 0.3f)),
                (33, 64, new(6, false, 16)),
             (6, 12, new(3, false, 16, Groups: 4, KeptGroups: 2)), (7, 6, new(2, true, 1, Groups: 6, KeptGroups: 2)),
             (33, 160, new(6, false, 16, Groups: 8, KeptGroups: 3))])
            yield return RouterCase(T, experts, settings, Distinct(T, experts), null);
        var pooled = new RouterSettings(2, false, 1) { Pooled = ([5, 0, 40, 2, 1, 9, 3, 7], 0.01, 0.2) };
        yield return RouterCase(6, 8, pooled, Distinct(6, 8), null, "balanced by counts of other rows, z-loss");
        // A bias that outweighs the scores: a weight taken from score + bias, or a choice by the score, shows up, and no step of the slope test changes the
        // choice. (The reference numbers of V3 have small ones.)
        foreach (var (T, experts, settings) in ((int, int, RouterSettings)[])
            [(1, 2, Sigmoid(1, false, 1, 1, 1)), (6, 8, Sigmoid(3, false, 2.5f, 1, 1)), (6, 16, Sigmoid(4, true, 2.5f, 4, 2)),
                (9, 7, Sigmoid(7, true, 1, 1, 1)), (33, 256, Sigmoid(8, true, 2.5f, 8, 4)), (5, 384, Sigmoid(8, true, 2.827f, 1, 1))])
        {
            yield return RouterCase(T, experts, settings, Distinct(T, experts), null);
            yield return RouterCase(T, experts, settings, Distinct(T, experts),
                [.. Enumerable.Range(0, experts).Select(e => MathF.Pow(e * 11 % experts, 1.3f) - 2)]);
        }
        // All equal: the lower experts of the lower groups (RouterTests says which).
        yield return RouterCase(3, 8, new(2, true, 1, Groups: 4, KeptGroups: 2), new float[24], null, "all equal") with { Smooth = false };
        yield return RouterCase(3, 8, Sigmoid(3, true, 1, 4, 2), new float[24], new float[8], "all equal") with { Smooth = false };
        // Every choice score is below 0: experts outside the kept groups must stay out.
        yield return RouterCase(2, 8, Sigmoid(3, true, 1, 4, 2), Distinct(2, 8), [-3, -3, -2, -2, -5, -5, -2.5f, -2.5f], "all below zero");
    }

    private static RouterSettings Sigmoid(int k, bool normalise, float scale, int groups, int kept) =>
        new(k, normalise, scale, 0, RouterScoring.Sigmoid, groups, kept);

    private static OpCase RouterCase(int T, int experts, RouterSettings settings, float[] logits, float[]? bias, string? setting = null)
    {
        var name = $"{T} tokens, {settings.TopK} of {experts}{(settings.Scoring == RouterScoring.Sigmoid ? ", sigmoid" : "")}"
            + $"{(settings.Groups > 1 ? $", {settings.KeptGroups} of {settings.Groups} groups" : "")}{(bias is null ? "" : ", bias")}"
            + $"{(settings.Normalise ? ", normalised" : "")}{(settings.Balance > 0 ? ", balanced" : "")}{(setting is null ? "" : ", " + setting)}";
        Input[] inputs = [F32(T, experts) with { Floats = logits }];
        if (bias is not null) inputs = [.. inputs, F32(experts).Frozen with { Floats = bias }];
        return new OpCase(typeof(Router), name, experts, inputs, x =>
        {
            var (weights, indices) = Router.Apply(x[0], settings, x.ElementAtOrDefault(1));
            return [weights, indices];
        }, settings.Pooled is { } pooled ? x => PooledLoss(x[0], pooled) : settings.Balance > 0 ? x => BalanceLoss(x[0], settings) : null);
    }

    private static IEnumerable<OpCase> Experts()
    {
        const int T = 6;
        foreach (var type in (DType[])[DType.F32, DType.BF16])
        {
            Input[] common = [Of(type, T, D), F32(T, K), I32(Chosen, T, K)];
            Input[] frozen = [Of(type, E, I, D).Frozen with { Scale = 0.5f }, Of(type, E, I, D).Frozen with { Scale = 0.5f },
                Of(type, E, D, I).Frozen with { Scale = 0.5f }];
            yield return new OpCase(typeof(RoutedExperts), $"{type} frozen", 4 * (D + I), [.. common, .. frozen],
                x => [RoutedExperts.Apply(x[0], x[1], x[2], Stacked(x))])
            { Roundings = 4 };
            Input[] Each(params long[] shape) => [.. Enumerable.Repeat(Of(type, shape).Frozen with { Scale = 0.5f }, E)];
            yield return new OpCase(typeof(RoutedExperts), $"{type} frozen, a tensor each", 4 * (D + I),
                [.. common, .. Each(I, D), .. Each(I, D), .. Each(D, I)],
                x => [RoutedExperts.Apply(x[0], x[1], x[2], new ExpertSet(Matrices.Each(x[3..8]), Matrices.Each(x[8..13]), Matrices.Each(x[13..18])))])
            { Roundings = 4 };
            foreach (var (r, dropout) in ((int, float)[])[(1, 0), (3, 0.25f), (8, 0)])
                yield return new OpCase(typeof(RoutedExperts), $"{type} low rank {r}{(dropout > 0 ? ", dropout" : "")}", 4 * (D + I + r),
                    [.. common, .. frozen, F32(E, r, D), F32(E, I, r), F32(E, r, D), F32(E, I, r), F32(E, r, I), F32(E, D, r)],
                    x => [RoutedExperts.Apply(x[0], x[1], x[2],
                        Stacked(x) with { Lora = new ExpertLora(x[6], x[7], x[8], x[9], x[10], x[11], 0.5f, dropout) }, dropoutKey: 11)],
                        Together: [6, 7, 8, 9, 10, 11])
                { Roundings = WithLora };
        }
        foreach (var type in (DType[])[DType.F32, DType.BF16])
            foreach (var (format, d, i, scale) in ((StorageFormat, int, int, float)[])[(StorageFormat.Fp8, 133, 130, 0.15f), (StorageFormat.Int8, D, I, 0.006f),
                (StorageFormat.Int4, 64, 32, 0.05f)])
                foreach (var r in (int[])[0, 3])
                {
                    Input[] Bank(int n, int k) => [.. Enumerable.Repeat(Codes(format.DataType, format.DataShape(n, k)), E),
                        .. Enumerable.Repeat(Scales(format.ScaleType, scale, format.ScaleShape(n, k)), E)];
                    Input[] lora = r == 0 ? [] : [.. ((long[][])[[E, r, d], [E, i, r], [E, r, d], [E, i, r], [E, r, i], [E, d, r]]).Select(shape =>
                        F32(shape) with { Scale = 0.2f })];
                    Matrices Low(Tensor[] x, int at, int n, int k) => Matrices.Each(format, x[at..(at + E)], x[(at + E)..(at + (2 * E))], n, k);
                    yield return new OpCase(typeof(RoutedExperts), $"{type} {format}{(r > 0 ? $", low rank {r}" : "")}", 4 * (d + i + r),
                        [Of(type, T, d), F32(T, K), I32(Chosen, T, K), .. Bank(i, d), .. Bank(i, d), .. Bank(d, i), .. lora],
                        x => [RoutedExperts.Apply(x[0], x[1], x[2],
                            new ExpertSet(Low(x, 3, i, d), Low(x, 13, i, d), Low(x, 23, d, i), r == 0 ? null
                                : new ExpertLora(x[33], x[34], x[35], x[36], x[37], x[38], 0.5f)))],
                        Together: r == 0 ? null : [33, 34, 35, 36, 37, 38])
                    { Roundings = r == 0 ? 4 : WithLora };
                }
        foreach (var type in (DType[])[DType.F32, DType.BF16])
            foreach (var (r, limit) in ((int, float)[])[(0, 2), (3, 2), (0, 30), (3, 30)])
            {
                // gpt-oss's activation: many elements pass the first limit, where the slope jumps, none the second
                Input[] inputs = [Of(type, T, D), F32(T, K), I32(Chosen, T, K), Of(type, E, I, D).Frozen, Of(type, E, I, D).Frozen, Of(type, E, D, I).Frozen];
                Input[] lora = r == 0 ? [] : [F32(E, r, D), F32(E, I, r), F32(E, r, D), F32(E, I, r), F32(E, r, I), F32(E, D, r)];
                yield return new OpCase(typeof(RoutedExperts), $"{type} clamped at {limit}, with biases{(r > 0 ? $", low rank {r}" : "")}", 4 * (D + I + r),
                    [.. inputs, F32(E, 2 * I).Frozen, .. lora],
                    x => [RoutedExperts.Apply(x[0], x[1], x[2], Stacked(x) with
                    {
                        Glu = new ClampedSwiGlu(x[6], limit),
                        Lora = r == 0 ? null : new ExpertLora(x[7], x[8], x[9], x[10], x[11], x[12], 0.5f),
                    })], Together: r == 0 ? null : [7, 8, 9, 10, 11, 12])
                { Roundings = r == 0 ? 4 : WithLora, Smooth = limit > 2 };
            }
        foreach (var type in (DType[])[DType.F32, DType.BF16])
            yield return new OpCase(typeof(ExpertBias), $"{type}", 4 * D, [Of(type, T, D), F32(T, K), I32(Chosen, T, K), F32(E, D).Frozen],
                x => [ExpertBias.Apply(x[0], x[1], x[2], new DeviceCopies(x[3]))]);
        yield return new OpCase(typeof(RoutedExperts), "trained whole", 4 * (D + I),
            [F32(T, D), F32(T, K), I32(Chosen, T, K), F32(E, I, D), F32(E, I, D), F32(E, D, I)],
            x => [RoutedExperts.Apply(x[0], x[1], x[2], Stacked(x))], Together: [3, 4, 5]);
    }

    private static ExpertSet Stacked(Tensor[] x) => new(Matrices.Stack(x[3]), Matrices.Stack(x[4]), Matrices.Stack(x[5]));

    /// <summary>Logits 0.1 apart, each row in an order of its own: the choice does not change within the steps of the slope test.</summary>
    private static float[] Distinct(int rows, int width)
    {
        var logits = new float[rows * width];
        for (var t = 0; t < rows; t++)
        {
            var order = Enumerable.Range(0, width).OrderBy(e => ((e * 37) + (t * 13) + 5) * 7919 % 104729).ToArray();
            for (var e = 0; e < width; e++) logits[(t * width) + e] = 0.1f * order[e];
        }
        return logits;
    }

    /// <summary>factor · Σ_t Σ_e count_e · p_e + ½ zFactor · Σ_t (log Σ_e exp z_e)², p the probabilities of row t.</summary>
    private static double PooledLoss(Tensor logits, (int[] Counts, double Factor, double ZFactor) pooled)
    {
        var (counts, factor, zFactor) = pooled;
        var z = logits.ToFloats();
        double loss = 0;
        for (var t = 0; t < logits.Rows; t++)
        {
            double[] row = [.. z[(t * counts.Length)..((t + 1) * counts.Length)].Select(v => Math.Exp(v))];
            loss += (factor * row.Zip(counts).Sum(p => p.First / row.Sum() * p.Second)) + (zFactor / 2 * Math.Pow(Math.Log(row.Sum()), 2));
        }
        return loss;
    }

    /// <summary>α · Σ_e f_e · P_e, f_e = E / (k·T) · (tokens that chose e), P_e the mean probability of e.</summary>
    private static double BalanceLoss(Tensor logits, RouterSettings settings)
    {
        var (z, T, experts) = (logits.ToFloats(), logits.Rows, logits.Width);
        var (f, p) = (new double[experts], new double[experts]);
        for (var t = 0; t < T; t++)
        {
            var row = z.AsSpan(t * experts, experts).ToArray();
            foreach (var e in Enumerable.Range(0, experts).OrderByDescending(e => row[e]).Take(settings.TopK)) f[e] += (double)experts / (settings.TopK * T);
            var sum = row.Sum(v => Math.Exp(v));
            for (var e = 0; e < experts; e++) p[e] += Math.Exp(row[e]) / sum / T;
        }
        return settings.Balance * f.Zip(p, (a, b) => a * b).Sum();
    }
}
