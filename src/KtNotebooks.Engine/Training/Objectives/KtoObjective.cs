using System.Text.Json.Nodes;

using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Nn;
using KtNotebooks.Tokenizers;

namespace KtNotebooks.Training.Objectives;

/// <summary>
/// stage: kto. Kahneman-Tversky optimization (Ethayarajh et al. 2024): answers that are wanted or not, alone. With d = s − r, the log p of an answer by
/// policy and reference: L = λ_w (1 − σ(β(d − z))) of a wanted one, λ_u (1 − σ(β(z − d))) of an unwanted one, the mean over the rows. z is the mean of d
/// over the window's mismatched answers (each question with another row's answer), at least 0; no gradient goes through it. pref_ftx adds, as LLaMA-Factory
/// does, γ · n / n_w times the mean over the wanted answers of their mean cross-entropy, of n rows n_w being wanted. A row is two sequences: the answer, and
/// the mismatched one, whose rows weigh nothing.
/// </summary>
/// <param name="beta">β, pref_beta.</param>
/// <param name="wanted">λ_w, kto_chosen_weight.</param>
/// <param name="unwanted">λ_u, kto_rejected_weight.</param>
/// <param name="supervised">pref_ftx.</param>
public sealed class KtoObjective(double beta, double wanted = 1, double unwanted = 1, double supervised = 0) : ITrainingObjective
{
    public static KtoObjective Read(Settings c)
    {
        ArgumentNullException.ThrowIfNull(c);
        PairKeys.RequireAnswers(c, "kto", "answers that are wanted or not");
        c.Ignore("lora_dropout", PairKeys.NoDropout("kto"));
        double Weight(string key) => c.Number(key) is > 0 and var weight ? weight : throw c.Wrong(key, "above 0");
        return new KtoObjective(PairKeys.Beta(c), Weight("kto_chosen_weight"), Weight("kto_rejected_weight"), PairKeys.Supervised(c));
    }

    public string Stage => "kto";

    public IEnumerable<(string Key, JsonNode? Value)> Identity =>
    [
        ("stage", Stage), ("pref_beta", beta), ("kto_chosen_weight", wanted), ("kto_rejected_weight", unwanted), ("pref_ftx", supervised),
    ];

    public bool HasDropout => false;

    public IReadOnlyList<string> Metrics => ["rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected", "kl"];

    public RowEncoder Encoder(DataSettings data, Tokenizer tokenizer) => new LikingEncoder(data, tokenizer);

    public int Count(EncodedExample row) => 1;

    public int Together => ITrainingObjective.WholeWindow;

    public Scores Needs => Scores.PolicyAndReference;

    public RowWeights Weigh(TokenBatch part, PartScores scores)
    {
        ArgumentNullException.ThrowIfNull(part);
        ArgumentNullException.ThrowIfNull(scores);
        var rows = part.Sequences / 2;
        double Ratio(int sequence) => part.Sum(scores.Policy, sequence) - part.Sum(scores.Reference, sequence);
        var z = Math.Max(0, Enumerable.Range(0, rows).Average(row => Ratio((2 * row) + 1)));

        var weights = new float[part.Tokens];
        double loss = 0;
        var rarity = rows / Math.Max(1.0, Enumerable.Range(0, rows).Count(row => part.Tags[2 * row] == LikingEncoder.Wanted));
        Dictionary<string, (double Sum, int Count)> sums = [];
        void Add(string name, double value) => sums[name] = (sums.GetValueOrDefault(name).Sum + value, sums.GetValueOrDefault(name).Count + 1);
        for (var row = 0; row < rows; row++)
        {
            var (share, ratio, logp) = (part.ShareOf(2 * row, (2 * row) + 1), Ratio(2 * row), part.Sum(scores.Policy, 2 * row));
            var isWanted = part.Tags[2 * row] == LikingEncoder.Wanted;
            var (weight, sign, word) = isWanted ? (wanted, 1, "chosen") : (unwanted, -1, "rejected");
            var value = Logistic.Of(sign * beta * (ratio - z));
            loss += share * weight * (1 - value);
            var slope = share * weight * sign * beta * value * (1 - value);
            if (isWanted && supervised > 0)
            {
                var each = share * supervised * rarity * rarity / Math.Max(1, part.TargetsOf(2 * row));
                loss -= each * logp;
                slope += each;
            }
            part.Fill(weights, 2 * row, slope);
            Add("rewards/" + word, beta * ratio);
            Add("logps/" + word, logp);
        }
        var metrics = sums.ToDictionary(s => s.Key, s => s.Value.Sum / s.Value.Count);
        metrics["kl"] = z;
        if (metrics.TryGetValue("rewards/chosen", out var good) && metrics.TryGetValue("rewards/rejected", out var bad))
            metrics["rewards/margins"] = good - bad;
        return new RowWeights(weights, loss, metrics);
    }
}
