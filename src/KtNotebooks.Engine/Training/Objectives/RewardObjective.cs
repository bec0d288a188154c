using System.Text.Json.Nodes;

using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Nn;
using KtNotebooks.Tokenizers;

namespace KtNotebooks.Training.Objectives;

/// <summary>
/// stage: rm. A reward model (Bradley and Terry's pairs, as Ouyang et al. 2022): a linear on the last hidden state of a conversation is its value v, and
/// L = −log σ(v_chosen − v_rejected), the mean over the pairs; ∂L/∂v_chosen = −σ(v_rejected − v_chosen). Adapter and value head are trained.
/// </summary>
public sealed class RewardObjective : ITrainingObjective
{
    public static RewardObjective Read(Settings c)
    {
        ArgumentNullException.ThrowIfNull(c);
        PairKeys.RequireAnswers(c, "rm");
        return new RewardObjective();
    }

    public string Stage => "rm";

    public IEnumerable<(string Key, JsonNode? Value)> Identity => [("stage", Stage)];

    public IReadOnlyList<string> Metrics => PairMetrics.Rewards;

    public RowEncoder Encoder(DataSettings data, Tokenizer tokenizer) => new PairEncoder(data, tokenizer);

    public int Count(EncodedExample row) => 1;

    public int Together => 2;

    public Scores Needs => Scores.Values;

    public RowWeights Weigh(TokenBatch part, PartScores scores)
    {
        ArgumentNullException.ThrowIfNull(part);
        ArgumentNullException.ThrowIfNull(scores);
        var weights = new float[part.Tokens];
        var sums = new PairMetrics();
        double loss = 0;
        for (var chosen = 0; chosen < part.Sequences; chosen += 2)
        {
            var (good, bad, share) = (part.SeqStarts[chosen + 1] - 1, part.SeqStarts[chosen + 2] - 1, part.ShareOf(chosen, chosen + 2));
            var margin = (double)scores.Policy[good] - scores.Policy[bad];
            loss += share * Logistic.Softplus(-margin);
            weights[good] = (float)(share * Logistic.Of(-margin));
            weights[bad] = -weights[good];
            sums.Add(share, scores.Policy[good], scores.Policy[bad]);
        }
        return new RowWeights(weights, loss, sums.All);
    }
}
