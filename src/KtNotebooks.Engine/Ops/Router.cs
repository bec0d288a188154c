using KtNotebooks.Autograd;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>How logits become scores, and what goes with it.</summary>
public enum RouterScoring
{
    /// <summary>DeepSeek-V2, Qwen3: softmax over all experts; a group counts as much as its best expert.</summary>
    Softmax,

    /// <summary>
    /// DeepSeek-V3, Kimi-K2 (`noaux_tc`): a sigmoid each; a correction bias is added for the choice alone; a group counts as much as its two best experts
    /// together.
    /// </summary>
    Sigmoid,
}

/// <summary>How a router turns scores into weights.</summary>
/// <param name="TopK">k experts a token.</param>
/// <param name="Normalise">Divide the k weights by their sum.</param>
/// <param name="Scale">routed_scaling_factor.</param>
/// <param name="Balance">α of the load-balancing loss α · Σ_e f_e · P_e (Fedus et al. 2021; DeepSeek's aux_loss_alpha); 0 in fine-tuning. Only its gradient
/// is taken. Softmax alone.</param>
/// <param name="Scoring">softmax or sigmoid.</param>
/// <param name="Groups">n_group: the experts lie in groups of E / n_group neighbours; 1: no groups.</param>
/// <param name="KeptGroups">topk_group: experts of the best groups alone may be chosen.</param>
public readonly record struct RouterSettings(int TopK, bool Normalise, float Scale, float Balance = 0, RouterScoring Scoring = RouterScoring.Softmax,
    int Groups = 1, int KeptGroups = 1)
{
    /// <summary>
    /// In place of <see cref="Balance"/>: ds_e += factor · count_e, with counts of more rows than the op sees; and dz_e += zFactor · log Σ_j exp z_j · s_e, the
    /// slope of ½ zFactor · (log Σ exp z)² (the z-loss of Zoph et al. 2022). Softmax alone.
    /// </summary>
    public (int[] Counts, double Factor, double ZFactor)? Pooled { get; init; }
}

/// <summary>
/// s = softmax(z) with c = z, which has the same order on every device, or s = sigmoid(z) with c = s + bias; the k largest c of each row, largest first
/// (ties: the lower expert), give indices, and weights = scale · s [/ (Σ_k s + 1e-20)]: the bias changes the choice and never a weight. With groups, only
/// experts of the <see cref="RouterSettings.KeptGroups"/> best groups are chosen from (ties: the lower group); others are out even where every c left is
/// negative, as in DeepSeek's inference code (an early Hugging Face port set them to 0 instead).
/// z [T, E] F32; bias [E] F32, frozen, sigmoid alone; weights F32 [T, k]; indices I32 [T, k].
/// With ds zero for experts not chosen: softmax dz_e = s_e · (ds_e − Σ_j s_j · ds_j), where the balance term adds ds_e += α · f_e / T, f_e = E / (k·T) ·
/// (tokens that chose e); sigmoid dz_e = ds_e · s_e · (1 − s_e). DeepSeek-V2 2.1.2 and DeepSeek-V3 2.1.2 (arXiv 2405.04434, 2412.19437).
/// </summary>
public sealed class Router(RouterSettings settings) : Op
{
    private const double Tiny = 1e-20;

    /// <summary>Tokens of a block on a card, a warp each; and the groups that a warp has shared memory for.</summary>
    private const int Warps = 4, MaxGroups = 128;

    private static readonly CudaProgram Program = new(nameof(Router),
        $"#define MAX_EXPERTS {RouteKernels.MaxExperts}\n#define MAX_GROUPS {MaxGroups}\n#define WARPS {Warps}\n{CudaProgram.Resource("Ops.Router.cu")}");

    public static (Tensor Weights, Tensor Indices) Apply(Tensor logits, RouterSettings settings, Tensor? bias = null)
    {
        var router = new Router(settings);
        var outputs = bias is null ? router.Run(logits) : router.Run(logits, bias);
        return (outputs[0], outputs[1]);
    }

    protected override Frame Prepare(Tensor[] inputs)
    {
        var (z, s) = (inputs[0], settings);
        if (z.Type != DType.F32 || z.Rank != 2) throw Wrong($"logits must be F32[T, E], but is {z}");
        if (s.TopK < 1 || s.TopK > z.Width) throw Wrong($"top-k must be in 1 … {z.Width}, the number of experts, but is {s.TopK}");
        if (s.Groups < 1 || z.Width % s.Groups != 0) throw Wrong($"{z.Width} experts cannot be cut into {s.Groups} groups of one size");
        if (s.KeptGroups < 1 || s.KeptGroups > s.Groups) throw Wrong($"kept groups must be in 1 … {s.Groups}, the number of groups, but is {s.KeptGroups}");
        if (s.TopK > z.Width / s.Groups * s.KeptGroups)
            throw Wrong($"{s.KeptGroups} groups of {z.Width / s.Groups} experts do not hold the {s.TopK} to be chosen");
        if (s.Scoring == RouterScoring.Sigmoid && s.Groups > 1 && z.Width / s.Groups < 2)
            throw Wrong("groups are scored by their two best experts, but have one each");
        if (s.Pooled is { Counts.Length: var counted } && counted != z.Width) throw Wrong($"pooled counts must be of {z.Width} experts, but are of {counted}");
        if (s.Scoring == RouterScoring.Sigmoid && (s.Balance > 0 || s.Pooled is not null)) throw Wrong("the balance term is defined for softmax scores alone");
        if (inputs.Length > 1 && s.Scoring != RouterScoring.Sigmoid) throw Wrong("a correction bias goes with sigmoid scores alone");
        if (inputs.Length > 1) Expect(inputs[1], "bias", DType.F32, z.Width);
        return new Frame(inputs, [Allocate(z, DType.F32, z.Rows, s.TopK), Allocate(z, DType.I32, z.Rows, s.TopK)]);
    }

    protected override void Plain(Frame f)
    {
        var (z, bias, weights, indices) = (f.Inputs[0], f.Inputs.Length > 1 ? f.Inputs[1] : null, f.Outputs[0], f.Outputs[1]);
        var (E, k, sigmoid) = (z.Width, settings.TopK, settings.Scoring == RouterScoring.Sigmoid);
        RowParallel.For(z.Rows, E * 8L, (first, last) =>
        {
            var (scores, choice, open) = (new double[E], new double[E], new bool[E]);
            var (groups, left) = (new double[settings.Groups], new bool[settings.Groups]);
            for (var row = first; row < last; row++)
            {
                Score(settings.Scoring, z.Row<float>(row), scores);
                for (var e = 0; e < E; e++) choice[e] = sigmoid ? scores[e] + (bias?.Span<float>()[e] ?? 0) : z.Row<float>(row)[e];
                Open(choice, groups, left, open);
                var w = weights.Row<float>(row);
                var at = indices.Row<int>(row);
                double sum = 0;
                for (var j = 0; j < k; j++)
                {
                    at[j] = Best(choice, open);
                    open[at[j]] = false;
                    sum += scores[at[j]];
                }
                var scale = settings.Normalise ? settings.Scale / (sum + Tiny) : settings.Scale;
                for (var j = 0; j < k; j++) w[j] = (float)(scores[at[j]] * scale);
            }
        });
    }

    protected override void Cuda(Frame f)
    {
        var (z, s) = (f.Inputs[0], settings);
        if (z.Width > RouteKernels.MaxExperts || s.Groups > MaxGroups)
            throw new NotSupportedException($"[Router] a card routes to up to {RouteKernels.MaxExperts} experts in up "
                + $"to {MaxGroups} groups, not {z.Width} in {s.Groups}");
        Program.Kernel(z.Gpu(), "route", "").Launch((z.Rows + Warps - 1) / Warps, 32 * Warps, z.Pointer, f.Inputs.Length > 1 ? f.Inputs[1].Pointer
            : 0, f.Outputs[0].Pointer, f.Outputs[1].Pointer,
            z.Rows, z.Width, s.TopK, s.Scoring == RouterScoring.Sigmoid ? 1 : 0, s.Normalise ? 1 : 0, s.Scale, s.Groups, s.KeptGroups);
    }

    protected internal override Tensor?[] Backward(Frame f, Tensor?[] dOut)
    {
        var zero = dOut[0] is null ? Tensor.Zeros(DType.F32, f.Inputs[0].Device, f.Outputs[0].Shape) : null;
        using (zero)
        {
            var dz = new Grad(settings).Run(dOut[0] ?? zero!, f.Inputs[0], f.Outputs[1])[0];
            return f.Inputs.Length > 1 ? [dz, null] : [dz];
        }
    }

    private static void Score(RouterScoring scoring, ReadOnlySpan<float> z, Span<double> s)
    {
        if (scoring == RouterScoring.Sigmoid)
        {
            for (var e = 0; e < z.Length; e++) s[e] = 1 / (1 + Math.Exp(-(double)z[e]));
            return;
        }
        double max = double.NegativeInfinity, sum = 0;
        foreach (var v in z) max = Math.Max(max, v);
        for (var e = 0; e < z.Length; e++) sum += s[e] = Math.Exp(z[e] - max);
        for (var e = 0; e < z.Length; e++) s[e] /= sum;
    }

    /// <summary>The largest of those that are open; the first of equals.</summary>
    private static int Best(ReadOnlySpan<double> values, ReadOnlySpan<bool> open)
    {
        var best = -1;
        for (var i = 0; i < values.Length; i++)
            if (open[i] && (best < 0 || values[i] > values[best])) best = i;
        return best;
    }

    /// <summary>Opens the experts that may be chosen: all, or those of the best groups.</summary>
    private void Open(ReadOnlySpan<double> choice, Span<double> groups, Span<bool> left, Span<bool> open)
    {
        open.Fill(settings.Groups == 1);
        if (settings.Groups == 1) return;
        var size = choice.Length / settings.Groups;
        for (var g = 0; g < groups.Length; g++)
        {
            double first = double.NegativeInfinity, second = double.NegativeInfinity;
            foreach (var c in choice.Slice(g * size, size))
            {
                if (c > first) (first, second) = (c, first);
                else if (c > second) second = c;
            }
            groups[g] = settings.Scoring == RouterScoring.Sigmoid ? first + second : first;
        }
        left.Fill(true);
        for (var n = 0; n < settings.KeptGroups; n++)
        {
            var best = Best(groups, left);
            left[best] = false;
            open.Slice(best * size, size).Fill(true);
        }
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
            var zFactor = settings.Pooled?.ZFactor ?? 0;
            if (settings.Pooled is (var counts, var factor, _))
                for (var e = 0; e < E; e++) balance[e] = factor * counts[e];
            RowParallel.For(T, E * 8L, (first, last) =>
            {
                var (s, ds) = (new double[E], new double[E]);
                for (var row = first; row < last; row++)
                {
                    Score(settings.Scoring, z.Row<float>(row), s);
                    balance.CopyTo(ds, 0);
                    var g = dw.Row<float>(row);
                    var at = indices.Row<int>(row);
                    if (settings.Normalise)
                    {
                        // w_j = scale · s_j / S: dS collects what every weight loses when the sum grows
                        double sum = Tiny, dot = 0;
                        for (var j = 0; j < k; j++) sum += s[at[j]];
                        for (var j = 0; j < k; j++) dot += g[j] * s[at[j]];
                        for (var j = 0; j < k; j++) ds[at[j]] += settings.Scale * ((g[j] / sum) - (dot / (sum * sum)));
                    }
                    else
                    {
                        for (var j = 0; j < k; j++) ds[at[j]] += settings.Scale * g[j];
                    }
                    var target = dz.Row<float>(row);
                    if (settings.Scoring == RouterScoring.Sigmoid)
                    {
                        // 1 − σ(z) = 1 / (1 + e^z), also where σ(z) is 1
                        for (var e = 0; e < E; e++) target[e] = (float)(ds[e] * s[e] / (1 + Math.Exp(z.Row<float>(row)[e])));
                        continue;
                    }
                    double mean = 0;
                    for (var e = 0; e < E; e++) mean += s[e] * ds[e];
                    var slope = zFactor == 0 ? 0 : zFactor * LogSum(z.Row<float>(row));
                    for (var e = 0; e < E; e++) target[e] = (float)(s[e] * (ds[e] - mean + slope));
                }
            });
        }

        protected override void Cuda(Frame f)
        {
            var (dw, z, indices, s) = (f.Inputs[0], f.Inputs[1], f.Inputs[2], settings);
            using var offsets = s.Pooled is { Counts: var counts } ? Memory.Place(Offsets(counts), z.Device) : s.Balance > 0 ? Counted(indices, z.Width) : null;
            var balance = (float)(s.Pooled?.Factor ?? s.Balance * z.Width / ((double)s.TopK * z.Rows * z.Rows));
            Program.Kernel(z.Gpu(), "route_grad", "")
                .Launch((z.Rows + Warps - 1) / Warps, 32 * Warps, dw.Pointer, z.Pointer, indices.Pointer, offsets?.Pointer ?? 0, f.Outputs[0].Pointer,
                z.Rows, z.Width, s.TopK, s.Scoring == RouterScoring.Sigmoid ? 1 : 0, s.Normalise ? 1 : 0, s.Scale, balance, (float)(s.Pooled?.ZFactor ?? 0));
        }

        private static double LogSum(ReadOnlySpan<float> z)
        {
            double max = float.NegativeInfinity, sum = 0;
            foreach (var v in z) max = Math.Max(max, v);
            foreach (var v in z) sum += Math.Exp(v - max);
            return max + Math.Log(sum);
        }

        private static int[] Offsets(int[] counts)
        {
            var offsets = new int[counts.Length + 1];
            for (var e = 0; e < counts.Length; e++) offsets[e + 1] = offsets[e] + counts[e];
            return offsets;
        }

        /// <summary>I32 [E + 1], whose differences say how many tokens chose each expert.</summary>
        private static Tensor Counted(Tensor indices, int experts)
        {
            var offsets = Tensor.Empty(DType.I32, indices.Device, experts + 1);
            using var routes = Tensor.Empty(DType.I32, indices.Device, indices.Count);
            using var rowOf = Tensor.Empty(DType.I32, indices.Device, indices.Count);
            RouteKernels.Sort(indices, experts, offsets, routes, rowOf);
            return offsets;
        }
    }
}
