using System.Text.Json.Nodes;

using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Nn;
using KtNotebooks.Tokenizers;

namespace KtNotebooks.Training.Objectives;

/// <summary>
/// stage: dpo. Direct preference optimization (Rafailov et al. 2023) with the sigmoid loss. Of each row's chosen and rejected answer, s = Σ log p of its
/// tokens by the policy and r by the reference: z = β((s_c − r_c) − (s_r − r_r)), L = −(1 − ε) log σ(z) − ε log σ(−z) − γ s_c / n_c, the mean over rows.
/// ∂L/∂z = ε σ(z) − (1 − ε) σ(−z), ∂z/∂s_c = β, ∂z/∂s_r = −β. The reference is the base without its adapter.
/// </summary>
/// <param name="beta">β, pref_beta.</param>
/// <param name="smoothing">ε, dpo_label_smoothing: the share of pairs that are taken to be the wrong way round.</param>
/// <param name="supervised">γ, pref_ftx: the share of the chosen answer's own mean cross-entropy, which has n_c tokens.</param>
public sealed class DpoObjective(double beta, double smoothing = 0, double supervised = 0) : ITrainingObjective
{
    private static readonly string[] OfAnswers = ["train_on_prompt", "mask_history", "packing", "neat_packing"];

    public static DpoObjective Read(Settings c)
    {
        ArgumentNullException.ThrowIfNull(c);
        foreach (var key in OfAnswers)
            if (c.Flag(key)) throw c.Wrong(key, "false for stage: dpo, which learns pairs of answers");
        c.Ignore("lora_dropout", "stage: dpo drops nothing, for the policy is compared with its reference");
        c.OneOf("pref_loss");
        var (beta, smoothing, supervised) = (c.Number("pref_beta"), c.Number("dpo_label_smoothing"), c.Number("pref_ftx"));
        if (beta <= 0) throw c.Wrong("pref_beta", "above 0");
        if (smoothing is < 0 or >= 0.5) throw c.Wrong("dpo_label_smoothing", "in [0, 0.5)");
        if (supervised < 0) throw c.Wrong("pref_ftx", "0 or more");
        return new DpoObjective(beta, smoothing, supervised);
    }

    public string Stage => "dpo";

    public IEnumerable<(string Key, JsonNode? Value)> Identity =>
        [("stage", Stage), ("pref_beta", beta), ("dpo_label_smoothing", smoothing), ("pref_ftx", supervised)];

    public bool HasDropout => false;

    public RowEncoder Encoder(DataSettings data, Tokenizer tokenizer) => new PairEncoder(data, tokenizer);

    /// <summary>A row is a pair, however long.</summary>
    public int Count(EncodedExample row) => 1;

    public int Together => 2;

    public LogProbs Needs => LogProbs.PolicyAndReference;

    public RowWeights Weigh(TokenBatch part, IReadOnlyList<double> policy, IReadOnlyList<double> reference)
    {
        ArgumentNullException.ThrowIfNull(part);
        ArgumentNullException.ThrowIfNull(policy);
        ArgumentNullException.ThrowIfNull(reference);
        var weights = new float[part.Tokens];
        double loss = 0, chosen = 0, rejected = 0, right = 0;
        for (var pair = 0; pair < part.Sequences; pair += 2)
        {
            var share = Share(part, pair);
            var (won, lost) = (beta * (policy[pair] - reference[pair]), beta * (policy[pair + 1] - reference[pair + 1]));
            var z = won - lost;
            var slope = (smoothing * Sigmoid(z)) - ((1 - smoothing) * Sigmoid(-z));
            var targets = Math.Max(1, Targets(part, pair));
            loss += share * (((1 - smoothing) * Softplus(-z)) + (smoothing * Softplus(z)) - (supervised * policy[pair] / targets));
            Fill(pair, share * ((-slope * beta) + (supervised / targets)));
            Fill(pair + 1, share * slope * beta);
            (chosen, rejected, right) = (chosen + (share * won), rejected + (share * lost), right + (won > lost ? share : 0));
        }
        return new RowWeights(weights, loss, new Dictionary<string, double>
        {
            ["rewards/chosen"] = chosen,
            ["rewards/rejected"] = rejected,
            ["rewards/accuracies"] = right,
            ["rewards/margins"] = chosen - rejected,
        });

        void Fill(int sequence, double weight)
        {
            for (var t = part.SeqStarts[sequence]; t < part.SeqStarts[sequence + 1]; t++) weights[t] = part.Labels[t] >= 0 ? (float)weight : 0;
        }
    }

    /// <summary>Of a pair in the window's mean: every target of its two sequences has it for weight; an answer may be cut off whole.</summary>
    private static double Share(TokenBatch part, int pair) => part.Weights.AsSpan(part.SeqStarts[pair]..part.SeqStarts[pair + 2]).ToArray().Max();

    private static int Targets(TokenBatch part, int sequence) =>
        part.Labels.AsSpan(part.SeqStarts[sequence]..part.SeqStarts[sequence + 1]).ToArray().Count(label => label >= 0);

    private static double Sigmoid(double x) => 1 / (1 + Math.Exp(-x));

    /// <summary>−log σ(−x).</summary>
    private static double Softplus(double x) => Math.Max(x, 0) + Math.Log(1 + Math.Exp(-Math.Abs(x)));
}
