using System.Text.Json.Nodes;

using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Nn;
using KtNotebooks.Tokenizers;

namespace KtNotebooks.Training.Objectives;

/// <summary>
/// stage: sft. Supervised fine-tuning: the mean cross-entropy of the answers' tokens; or that of tokens which weigh by what the model thinks of them, the
/// weight taken as a constant. use_dft_loss: p of the token (Wu et al. 2025). use_eaft_loss: (H / 3)^α, H the entropy of the 20 likeliest tokens, which is at
/// most log 20 ≈ 3 (entropy-adaptive fine-tuning, as LLaMA-Factory has it).
/// </summary>
/// <param name="dynamic">use_dft_loss.</param>
/// <param name="entropyPower">α, eaft_alpha, with use_eaft_loss; else null.</param>
public sealed class SftObjective(bool dynamic = false, double? entropyPower = null) : ITrainingObjective
{
    /// <summary>What LLaMA-Factory divides the entropy by.</summary>
    private const double EntropyUnit = 3;

    public static SftObjective Read(Settings c)
    {
        ArgumentNullException.ThrowIfNull(c);
        var (dynamic, adaptive) = (c.Flag("use_dft_loss"), c.Flag("use_eaft_loss"));
        if (dynamic && adaptive) throw c.Wrong("use_eaft_loss", "false with use_dft_loss: they are two losses");
        if (!adaptive)
        {
            c.Ignore("eaft_alpha", "it belongs to use_eaft_loss");
            return new SftObjective(dynamic);
        }
        return new SftObjective(entropyPower: c.Number("eaft_alpha") is >= 0 and var alpha ? alpha : throw c.Wrong("eaft_alpha", "0 or more"));
    }

    public string Stage => "sft";

    public IEnumerable<(string Key, JsonNode? Value)> Identity => dynamic ? [("use_dft_loss", true)]
        : entropyPower is { } alpha ? [("use_eaft_loss", true), ("eaft_alpha", alpha)] : [];

    public RowEncoder Encoder(DataSettings data, Tokenizer tokenizer) => SftEncoder.Of(data, tokenizer);

    public Scores Needs => dynamic ? Scores.Policy : entropyPower is not null ? Scores.PolicyAndEntropy : Scores.None;

    public RowWeights Weigh(TokenBatch part, PartScores scores)
    {
        ArgumentNullException.ThrowIfNull(part);
        ArgumentNullException.ThrowIfNull(scores);
        var weights = new float[part.Tokens];
        double loss = 0;
        for (var t = 0; t < part.Tokens; t++)
        {
            if (part.Labels[t] < 0) continue;
            var factor = entropyPower is { } alpha ? Math.Pow(Math.Max(0, scores.Entropies[t]) / EntropyUnit, alpha) : Math.Exp(scores.Policy[t]);
            weights[t] = (float)(part.Weights[t] * factor);
            loss -= (double)part.Weights[t] * factor * scores.Policy[t];
        }
        return new RowWeights(weights, loss, WindowLoss.EmptyMetrics);
    }
}
