using System.Text.Json.Nodes;

using KtNotebooks.Ops;
using KtNotebooks.Tensors;

namespace KtNotebooks.Nn;

/// <summary>
/// What the routers of a window choose, collected in its forward pass; and the balance loss that its backward pass adds: coefficient · E · Σ_e f_e · P_e, f_e
/// the share of tokens that chose expert e and P_e the mean of its probability, both over all layers and tokens together (Switch Transformers, Fedus et al.
/// 2021, as transformers' load_balancing_loss_func pools it). Its gradient reaches what lies below a router, and the router where that is trained.
/// In DeepSeek's sequence-wise form (<see cref="SeqStarts"/>; DeepSeek-V2 2.1.2 with seq_aux, DeepSeek-V3 2.1.2 eq. 17 to 20) each layer has a loss of its own,
/// the mean over the sequences of coefficient · Σ_e f_e · P_e, f_e = E / (k · T) times the routes of the sequence's T tokens to e, P_e the mean of its score,
/// scores
/// normalised to a sum of one.
/// </summary>
/// <param name="coefficient">moe_aux_loss_coef; 0: routes are only counted.</param>
/// <param name="tokens">Of the window.</param>
/// <param name="zCoefficient">router_z_loss_coef: of the mean of (log Σ exp z)² over all layers and tokens (ST-MoE, Zoph et al. 2022); 0: none.</param>
public sealed class RoutingStep(double coefficient, int tokens, double zCoefficient = 0)
{
    private readonly Lock _lock = new();
    private readonly SortedDictionary<string, long[]> _counts = new(StringComparer.Ordinal);
    private double[] _probabilities = [];
    private double _squares; // Σ (log Σ exp z)²
    private readonly Dictionary<string, (long[] Counts, double[] Scores, int TopK)> _sequences = []; // [S · E] each

    /// <summary>[S+1] of the window: the balance loss is sequence-wise; null: pooled.</summary>
    public int[]? SeqStarts { get; init; }

    /// <summary>How many routes each expert of each layer has got.</summary>
    public IReadOnlyDictionary<string, long[]> Loads => _counts;

    /// <summary>The backward pass adds slopes of a sequence-wise loss.</summary>
    internal bool IsSequenceWise => SeqStarts is not null && coefficient > 0;

    /// <summary>Takes notes of some rows of a layer.</summary>
    /// <param name="path">Of the layer's experts.</param>
    /// <param name="logits">F32 [T, E].</param>
    /// <param name="indices">I32 [T, k].</param>
    /// <param name="firstRow">Number of the first row in the window.</param>
    /// <param name="scoring">How logits become scores.</param>
    public void Observe(string path, Tensor logits, Tensor indices, int firstRow, RouterScoring scoring)
    {
        ArgumentNullException.ThrowIfNull(logits);
        ArgumentNullException.ThrowIfNull(indices);
        using var chosen = indices.ToHost();
        double squares = 0;
        if (IsSequenceWise) ObserveSequences(path, logits, chosen, firstRow, scoring);
        var sums = Pools || zCoefficient > 0 ? Probabilities(logits, out squares) : [];
        lock (_lock)
        {
            if (!_counts.TryGetValue(path, out var counts)) _counts[path] = counts = new long[logits.Width];
            foreach (var e in chosen.Span<int>()) counts[e]++;
            _squares += squares;
            if (_probabilities.Length < sums.Length) _probabilities = new double[sums.Length];
            for (var e = 0; e < sums.Length; e++) _probabilities[e] += sums[e];
        }
    }

    /// <summary>What is noted decides gradients.</summary>
    internal bool HasLoss => coefficient > 0 || zCoefficient > 0;

    /// <summary>Of the experts, over all layers, and what a count adds to the slope ∂loss/∂p of every row; null: there is no balance loss.</summary>
    internal (int[] Counts, double Factor, double ZFactor)? Balance
    {
        get
        {
            if ((!Pools && zCoefficient <= 0) || _counts.Count == 0) return null;
            double rows = (double)_counts.Count * tokens;
            return ([.. Pooled.Select(count => (int)count)], (Pools ? coefficient : 0) * Pooled.Length / (rows * rows), 2 * zCoefficient / rows);
        }
    }

    private bool Pools => coefficient > 0 && SeqStarts is null;

    /// <summary>
    /// ∂/∂z of a layer's sequence-wise loss for some rows, F32 [T, E] where the logits are. With c_e the slope by a row's normalised score s'_e: softmax dz_e =
    /// s'_e
    /// (c_e − Σ c s'); sigmoid σ, s' = σ / Σ σ: dz_e = σ_e (1 − σ_e) / Σσ · (c_e − Σ c s').
    /// </summary>
    internal Tensor Slopes(string path, Tensor logits, int firstRow, RouterScoring scoring)
    {
        using var host = logits.ToHost();
        using var slopes = Tensor.Empty(DType.F32, host.Shape);
        var (E, of) = (host.Width, _sequences[path]);
        var (scores, raw) = (new double[E], new double[E]);
        for (var t = 0; t < host.Rows; t++)
        {
            var s = SequenceOf(firstRow + t);
            double length = SeqStarts![s + 1] - SeqStarts[s], all = Score(host.Row<float>(t), scoring, raw, scores), mean = 0;
            var unit = coefficient / (SeqStarts.Length - 1) * E / (of.TopK * length * length);
            for (var e = 0; e < E; e++) mean += unit * of.Counts[(s * E) + e] * scores[e];
            var row = slopes.Row<float>(t);
            for (var e = 0; e < E; e++)
            {
                var slope = (unit * of.Counts[(s * E) + e]) - mean;
                row[e] = (float)(scoring == RouterScoring.Sigmoid ? raw[e] * (1 - raw[e]) / all * slope : scores[e] * slope);
            }
        }
        return slopes.To(logits.Device);
    }

    private void ObserveSequences(string path, Tensor logits, Tensor chosen, int firstRow, RouterScoring scoring)
    {
        using var host = logits.ToHost();
        var (E, k) = (host.Width, chosen.Width);
        var (scores, raw) = (new double[E], new double[E]);
        lock (_lock)
        {
            if (!_sequences.TryGetValue(path, out var of))
                _sequences[path] = of = (new long[(SeqStarts!.Length - 1) * E], new double[(SeqStarts.Length - 1) * E], k);
            for (var t = 0; t < host.Rows; t++)
            {
                var s = SequenceOf(firstRow + t);
                Score(host.Row<float>(t), scoring, raw, scores);
                for (var e = 0; e < E; e++) of.Scores[(s * E) + e] += scores[e];
                foreach (var e in chosen.Row<int>(t)) of.Counts[(s * E) + e]++;
            }
        }
    }

    private int SequenceOf(int row)
    {
        var found = Array.BinarySearch(SeqStarts!, row);
        return found >= 0 ? Array.LastIndexOf(SeqStarts!, row) : ~found - 1; // an empty sequence begins where the next one does
    }

    /// <summary>Scores of a row before and after their sum is made one; returns the sum.</summary>
    private static double Score(ReadOnlySpan<float> z, RouterScoring scoring, double[] raw, double[] scores)
    {
        double max = scoring == RouterScoring.Sigmoid ? 0 : float.NegativeInfinity, sum = 0;
        if (scoring == RouterScoring.Softmax)
            foreach (var v in z) max = Math.Max(max, v);
        for (var e = 0; e < raw.Length; e++)
            sum += raw[e] = scoring == RouterScoring.Sigmoid ? 1 / (1 + Math.Exp(-z[e])) : Math.Exp(z[e] - max);
        for (var e = 0; e < raw.Length; e++) scores[e] = raw[e] / sum;
        return sum;
    }

    private double SequenceLoss => _sequences.Values.Sum(of =>
    {
        var (S, E, sum) = (SeqStarts!.Length - 1, of.Counts.Length / (SeqStarts.Length - 1), 0.0);
        for (var s = 0; s < S; s++)
        {
            double length = Math.Max(1, SeqStarts[s + 1] - SeqStarts[s]);
            for (var e = 0; e < E; e++) sum += E / (of.TopK * length) * of.Counts[(s * E) + e] * of.Scores[(s * E) + e] / length / S;
        }
        return sum;
    });

    /// <summary>What has been noted, for others who noted other rows of the same window.</summary>
    internal string Save() => new JsonObject
    {
        ["counts"] = new JsonObject(_counts.Select(c => KeyValuePair.Create(c.Key, (JsonNode?)new JsonArray([.. c.Value.Select(n => JsonValue.Create(n))])))),
        ["probabilities"] = new JsonArray([.. _probabilities.Select(p => JsonValue.Create(BitConverter.DoubleToInt64Bits(p)))]),
        ["squares"] = BitConverter.DoubleToInt64Bits(_squares),
    }.ToJsonString();

    /// <summary>Takes the sum of such notes, in their order, in place of its own.</summary>
    internal void Replace(IEnumerable<string> all)
    {
        static double Number(JsonNode? bits) => BitConverter.Int64BitsToDouble(bits!.GetValue<long>());
        _counts.Clear();
        (_probabilities, _squares) = ([], 0);
        foreach (var notes in all.Select(text => JsonNode.Parse(text)!))
        {
            foreach (var (path, counts) in notes["counts"]!.AsObject())
            {
                if (!_counts.TryGetValue(path, out var sums)) _counts[path] = sums = new long[counts!.AsArray().Count];
                for (var e = 0; e < sums.Length; e++) sums[e] += counts![e]!.GetValue<long>();
            }
            var probabilities = notes["probabilities"]!.AsArray();
            if (_probabilities.Length < probabilities.Count) _probabilities = new double[probabilities.Count];
            for (var e = 0; e < probabilities.Count; e++) _probabilities[e] += Number(probabilities[e]);
            _squares += Number(notes["squares"]);
        }
    }

    private long[] Pooled => _counts.Values.Aggregate(new long[_counts.Values.Max(c => c.Length)], (all, counts) =>
    {
        for (var e = 0; e < counts.Length; e++) all[e] += counts[e];
        return all;
    });

    /// <summary>
    /// moe/aux_loss: the balance loss without its coefficient, where it has one; moe/imbalance: how many times the mean the busiest expert of a layer has to
    /// do, the mean over the layers; moe/imbalance_worst_layer: that of the worst; moe/dead_experts: the share of experts that no token of the window chose.
    /// </summary>
    public IReadOnlyDictionary<string, double> Metrics
    {
        get
        {
            var metrics = new Dictionary<string, double>();
            if (_counts.Count == 0) return metrics;
            metrics["moe/imbalance"] = _counts.Values.Average(Imbalance);
            metrics["moe/imbalance_worst_layer"] = _counts.Values.Max(Imbalance);
            metrics["moe/dead_experts"] = _counts.Values.Average(c => c.Count(n => n == 0) / (double)c.Length);
            double rows = (double)_counts.Count * tokens;
            if (zCoefficient > 0) metrics["moe/z_loss"] = _squares / rows;
            if (coefficient <= 0) return metrics;
            if (SeqStarts is not null)
            {
                metrics["moe/aux_loss"] = SequenceLoss;
                return metrics;
            }
            var pooled = Pooled;
            metrics["moe/aux_loss"] = pooled.Length * pooled.Zip(_probabilities).Sum(p => p.First / rows * p.Second / rows);
            return metrics;
        }
    }

    private static double Imbalance(long[] counts) => counts.Max() / Math.Max(1e-9, counts.Average());

    /// <summary>Σ over the rows of softmax, [E].</summary>
    private static double[] Probabilities(Tensor logits, out double squares)
    {
        squares = 0;
        using var host = logits.ToHost();
        var (sums, row) = (new double[host.Width], new double[host.Width]);
        for (var t = 0; t < host.Rows; t++)
        {
            var z = host.Row<float>(t);
            double max = float.NegativeInfinity, sum = 0;
            foreach (var v in z) max = Math.Max(max, v);
            for (var e = 0; e < row.Length; e++) sum += row[e] = Math.Exp(z[e] - max);
            for (var e = 0; e < row.Length; e++) sums[e] += row[e] / sum;
            squares += Math.Pow(max + Math.Log(sum), 2);
        }
        return sums;
    }
}
