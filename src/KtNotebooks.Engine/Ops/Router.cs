using KtNotebooks.Autograd;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>How a router turns scores into weights.</summary>
/// <param name="TopK">k experts a token.</param>
/// <param name="Normalise">Divide the k weights by their sum.</param>
/// <param name="Scale">routed_scaling_factor.</param>
/// <param name="Balance">α of the load-balancing loss α · Σ_e f_e · P_e (Fedus et al. 2021; DeepSeek's aux_loss_alpha); 0 in fine-tuning. Only its gradient is taken.</param>
public readonly record struct RouterSettings(int TopK, bool Normalise, float Scale, float Balance = 0);

/// <summary>
/// s = softmax(z); the k largest s of each row, largest first (ties: the lower expert), give indices and weights = scale · s [/ Σ_k s].
/// z [T, E] F32; weights F32 [T, k]; indices I32 [T, k].
/// dz_e = s_e · (ds_e − Σ_j s_j · ds_j), ds zero for experts not chosen, plus the balance term ds_e += α · f_e / T with f_e = E / (k·T) · (tokens that chose e).
/// </summary>
public sealed class Router(RouterSettings settings) : Op
{
    public static (Tensor Weights, Tensor Indices) Apply(Tensor logits, RouterSettings settings)
    {
        var outputs = new Router(settings).Run(logits);
        return (outputs[0], outputs[1]);
    }

    protected override Frame Prepare(Tensor[] inputs)
    {
        var z = inputs[0];
        if (z.Type != DType.F32 || z.Rank != 2) throw Wrong($"logits must be F32[T, E], but is {z}");
        if (settings.TopK < 1 || settings.TopK > z.Width) throw Wrong($"top-k must be in 1 … {z.Width}, the number of experts, but is {settings.TopK}");
        return new Frame(inputs, [Allocate(z, DType.F32, z.Rows, settings.TopK), Allocate(z, DType.I32, z.Rows, settings.TopK)]);
    }

    protected override void Plain(Frame f)
    {
        var (z, weights, indices) = (f.Inputs[0], f.Outputs[0], f.Outputs[1]);
        var (E, k) = (z.Width, settings.TopK);
        RowParallel.For(z.Rows, E * 8L, (first, last) =>
        {
            var (scores, chosen) = (new double[E], new bool[E]);
            for (var row = first; row < last; row++)
            {
                Softmax(z.Row<float>(row), scores);
                Array.Clear(chosen);
                var w = weights.Row<float>(row);
                var at = indices.Row<int>(row);
                double sum = 0;
                for (var j = 0; j < k; j++)
                {
                    var best = -1;
                    for (var e = 0; e < E; e++)
                        if (!chosen[e] && (best < 0 || scores[e] > scores[best])) best = e;
                    chosen[best] = true;
                    at[j] = best;
                    sum += scores[best];
                }
                var scale = settings.Normalise ? settings.Scale / sum : settings.Scale;
                for (var j = 0; j < k; j++) w[j] = (float)(scores[at[j]] * scale);
            }
        });
    }

    protected internal override Tensor?[] Backward(Frame f, Tensor?[] dOut)
    {
        var zero = dOut[0] is null ? Tensor.Zeros(DType.F32, f.Inputs[0].Device, f.Outputs[0].Shape) : null;
        using (zero) return [.. new Grad(settings).Run(dOut[0] ?? zero!, f.Inputs[0], f.Outputs[1])];
    }

    private static void Softmax(ReadOnlySpan<float> z, Span<double> s)
    {
        double max = double.NegativeInfinity, sum = 0;
        foreach (var v in z) max = Math.Max(max, v);
        for (var e = 0; e < z.Length; e++) sum += s[e] = Math.Exp(z[e] - max);
        for (var e = 0; e < z.Length; e++) s[e] /= sum;
    }

    /// <summary>Inputs dWeights [T, k], z [T, E], indices [T, k]; output dz.</summary>
    private sealed class Grad(RouterSettings settings) : GradOp
    {
        protected override Frame Prepare(Tensor[] inputs) => new(inputs, [Allocate(inputs[1], DType.F32, inputs[1].Shape)]);

        protected override void Plain(Frame f)
        {
            var (dw, z, indices, dz) = (f.Inputs[0], f.Inputs[1], f.Inputs[2], f.Outputs[0]);
            var (T, E, k) = (z.Rows, z.Width, settings.TopK);
            var balance = new double[E];
            if (settings.Balance > 0)
                foreach (var e in indices.Span<int>()) balance[e] += settings.Balance * E / ((double)k * T * T);
            RowParallel.For(T, E * 8L, (first, last) =>
            {
                var (s, ds) = (new double[E], new double[E]);
                for (var row = first; row < last; row++)
                {
                    Softmax(z.Row<float>(row), s);
                    balance.CopyTo(ds, 0);
                    var g = dw.Row<float>(row);
                    var at = indices.Row<int>(row);
                    if (settings.Normalise)
                    {
                        // w_j = scale · s_j / S: dS collects what every weight loses when the sum grows
                        double sum = 0, dot = 0;
                        for (var j = 0; j < k; j++) sum += s[at[j]];
                        for (var j = 0; j < k; j++) dot += g[j] * s[at[j]];
                        for (var j = 0; j < k; j++) ds[at[j]] += settings.Scale * ((g[j] / sum) - (dot / (sum * sum)));
                    }
                    else
                    {
                        for (var j = 0; j < k; j++) ds[at[j]] += settings.Scale * g[j];
                    }
                    double mean = 0;
                    for (var e = 0; e < E; e++) mean += s[e] * ds[e];
                    var target = dz.Row<float>(row);
                    for (var e = 0; e < E; e++) target[e] = (float)(s[e] * (ds[e] - mean));
                }
            });
        }
    }
}
