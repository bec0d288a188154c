using System.Text.Json.Nodes;

using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Nn;
using KtNotebooks.Tokenizers;

namespace KtNotebooks.Training.Objectives;

/// <summary>What the keys of preferences say.</summary>
/// <param name="Loss">pref_loss.</param>
/// <param name="Beta">β, pref_beta.</param>
/// <param name="Smoothing">ε, dpo_label_smoothing: the share of pairs that are taken to be the wrong way round.</param>
/// <param name="Supervised">pref_ftx: the share of the chosen answer's own mean cross-entropy.</param>
/// <param name="Gamma">simpo_gamma.</param>
/// <param name="LongTail">ld_alpha; null: 1.</param>
public sealed record PreferenceSettings(string Loss = "sigmoid", double Beta = 0.1, double Smoothing = 0, double Supervised = 0, double Gamma = 0.5,
    double? LongTail = null);

/// <summary>
/// stage: dpo. Pairs of a chosen and a rejected answer, with the loss that pref_loss names (<see cref="PairLosses"/>), the mean over the pairs, plus
/// pref_ftx times the chosen answer's mean cross-entropy. With ld_alpha the policy's log p of an answer's tokens beyond the length of the shorter one count
/// so much less (LD-DPO, Liu et al. 2024). The reference is the base without its adapter.
/// </summary>
public sealed class DpoObjective(PreferenceSettings settings) : ITrainingObjective
{
    private readonly PairLoss _loss = PairLosses.Get(settings.Loss, settings.Beta, settings.Smoothing, settings.Gamma);

    public static DpoObjective Read(Settings c)
    {
        ArgumentNullException.ThrowIfNull(c);
        PairKeys.RequireAnswers(c, "dpo");
        var (loss, smoothing, tail) = (c.OneOf("pref_loss"), c.Number("dpo_label_smoothing"), c.MaybeNumber("ld_alpha"));
        if (smoothing is < 0 or >= 0.5) throw c.Wrong("dpo_label_smoothing", "in [0, 0.5)");
        if (smoothing > 0 && loss != "sigmoid") throw c.Wrong("dpo_label_smoothing", $"0 with pref_loss: {loss}: it belongs to sigmoid");
        if (tail is <= 0 or > 1) throw c.Wrong("ld_alpha", "in (0, 1]");
        if (loss != "simpo") c.Ignore("simpo_gamma", $"it belongs to pref_loss: simpo, not {loss}");
        var objective = new DpoObjective(new PreferenceSettings(loss, PairKeys.Beta(c), smoothing, PairKeys.Supervised(c), c.Number("simpo_gamma"), tail));
        if (!objective.HasDropout) c.Ignore("lora_dropout", PairKeys.NoDropout("dpo"));
        return objective;
    }

    public string Stage => "dpo";

    public IEnumerable<(string Key, JsonNode? Value)> Identity =>
    [
        ("stage", Stage), ("pref_loss", settings.Loss), ("pref_beta", settings.Beta), ("dpo_label_smoothing", settings.Smoothing),
        ("pref_ftx", settings.Supervised), ("simpo_gamma", _loss.Name == "simpo" ? settings.Gamma : null), ("ld_alpha", settings.LongTail),
    ];

    public bool HasDropout => !_loss.HasReference;

    public IReadOnlyList<string> Metrics =>
        [.. PairMetrics.Rewards, "logps/chosen", "logps/rejected", .. _loss.Name == "orpo" ? ["sft_loss", "odds_ratio_loss"] : Array.Empty<string>()];

    public RowEncoder Encoder(DataSettings data, Tokenizer tokenizer) => new PairEncoder(data, tokenizer);

    /// <summary>A row is a pair, however long.</summary>
    public int Count(EncodedExample row) => 1;

    public int Together => _loss.OfWindow ? ITrainingObjective.WholeWindow : 2;

    public Scores Needs => _loss.HasReference ? Scores.PolicyAndReference : Scores.Policy;

    public RowWeights Weigh(TokenBatch part, PartScores scores)
    {
        ArgumentNullException.ThrowIfNull(part);
        ArgumentNullException.ThrowIfNull(scores);
        var (factors, pairs) = (Factors(part), part.Sequences / 2);
        double Score(int sequence, bool reference)
        {
            double sum = 0;
            var rows = reference ? scores.Reference : scores.Policy;
            for (var t = part.SeqStarts[sequence]; t < part.SeqStarts[sequence + 1]; t++) sum += rows[t] * (reference ? 1 : factors[t]);
            return _loss.OfMeans ? sum / Length(sequence) : sum;
        }
        double Length(int sequence) => Math.Max(1, part.TargetsOf(sequence));

        PairScores[] all = [.. Enumerable.Range(0, pairs).Select(p => new PairScores(Score(2 * p, false), Score((2 * p) + 1, false),
            _loss.HasReference ? Score(2 * p, true) : 0, _loss.HasReference ? Score((2 * p) + 1, true) : 0))];
        var slopes = _loss.Of(all);
        var weights = new float[part.Tokens];
        var sums = new PairMetrics();
        double loss = 0;
        for (var p = 0; p < pairs; p++)
        {
            var (share, pair, slope) = (part.ShareOf(2 * p, (2 * p) + 2), all[p], slopes[p]);
            var mean = _loss.OfMeans ? pair.Chosen : pair.Chosen / Length(2 * p);
            loss += share * (slope.Loss - (settings.Supervised * mean));
            Fill(2 * p, share * ((-slope.Chosen / (_loss.OfMeans ? Length(2 * p) : 1)) + (settings.Supervised / Length(2 * p))));
            Fill((2 * p) + 1, share * -slope.Rejected / (_loss.OfMeans ? Length((2 * p) + 1) : 1));
            sums.Add(share, settings.Beta * (pair.Chosen - pair.ReferenceChosen), settings.Beta * (pair.Rejected - pair.ReferenceRejected));
            sums.Add("logps/chosen", share * pair.Chosen);
            sums.Add("logps/rejected", share * pair.Rejected);
            if (_loss.Name != "orpo") continue;
            sums.Add("sft_loss", share * -pair.Chosen);
            sums.Add("odds_ratio_loss", share * (slope.Loss + pair.Chosen) / settings.Beta);
        }
        return new RowWeights(weights, loss, sums.All);

        void Fill(int sequence, double weight)
        {
            part.Fill(weights, sequence, weight);
            for (var t = part.SeqStarts[sequence]; t < part.SeqStarts[sequence + 1]; t++) weights[t] *= factors[t];
        }
    }

    /// <summary>[T]: what a row's log p counts by.</summary>
    private float[] Factors(TokenBatch part)
    {
        var factors = new float[part.Tokens];
        Array.Fill(factors, 1);
        if (settings.LongTail is not { } alpha) return factors;
        for (var s = 0; s < part.Sequences; s++)
        {
            var common = Math.Min(part.TargetsOf(s), part.TargetsOf(s ^ 1));
            for (var t = part.SeqStarts[s]; t < part.SeqStarts[s + 1]; t++)
                if (part.Labels[t] >= 0 && common-- <= 0) factors[t] = (float)alpha;
        }
        return factors;
    }
}

/// <summary>Sums of what objectives of preferences report.</summary>
internal sealed class PairMetrics
{
    /// <summary>What every objective of pairs reports.</summary>
    public static readonly string[] Rewards = ["rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"];

    private readonly Dictionary<string, double> _all = [];

    public IReadOnlyDictionary<string, double> All => _all;

    public void Add(string name, double value) => _all[name] = _all.GetValueOrDefault(name) + value;

    /// <param name="share">Of the pair in the mean.</param>
    /// <param name="chosen">The reward of the chosen answer.</param>
    /// <param name="rejected">The reward of the rejected one.</param>
    public void Add(double share, double chosen, double rejected)
    {
        double[] values = [chosen, rejected, chosen > rejected ? 1 : 0, chosen - rejected];
        foreach (var (name, value) in Rewards.Zip(values)) Add(name, share * value);
    }
}

/// <summary>Keys that the stages of preferences share.</summary>
internal static class PairKeys
{
    private static readonly string[] OfAnswers = ["train_on_prompt", "mask_history", "packing", "neat_packing"];

    /// <summary>Refuses what belongs to single answers.</summary>
    public static void RequireAnswers(Settings c, string stage, string learns = "pairs of answers")
    {
        foreach (var key in OfAnswers)
            if (c.Flag(key)) throw c.Wrong(key, $"false for stage: {stage}, which learns {learns}");
    }

    public static double Beta(Settings c) => c.Number("pref_beta") is > 0 and var beta ? beta : throw c.Wrong("pref_beta", "above 0");

    public static double Supervised(Settings c) => c.Number("pref_ftx") is >= 0 and var share ? share : throw c.Wrong("pref_ftx", "0 or more");

    public static string NoDropout(string stage) => $"stage: {stage} drops nothing, for the policy is compared with its reference";
}
