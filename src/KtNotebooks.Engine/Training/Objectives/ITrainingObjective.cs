using System.Text.Json.Nodes;

using KtNotebooks.Data;
using KtNotebooks.Nn;
using KtNotebooks.Tokenizers;

namespace KtNotebooks.Training.Objectives;

/// <summary>What an objective has to know of the rows of a window before it can weigh them.</summary>
public enum Scores
{
    None,

    /// <summary>log p of every target, by the model as it is trained.</summary>
    Policy,

    /// <summary>Also how undecided the model was at each of them.</summary>
    PolicyAndEntropy,

    /// <summary>Also log p by the reference: the base without its adapter, which visits every layer once more.</summary>
    PolicyAndReference,

    /// <summary>The value head's number at the last row of every sequence, in place of log p; logits are not computed.</summary>
    Values,
}

/// <summary>Scores of the rows of a part of a window, [T] each; 0 where a row has none, empty where an objective does not need them.</summary>
/// <param name="Policy">log p of each row's target, or values at the ends of sequences.</param>
/// <param name="Reference">log p by the reference.</param>
/// <param name="Entropies">Of the <see cref="Ops.TargetLogProbs.Top"/> likeliest tokens of each row that has a target, in nats.</param>
public sealed record PartScores(float[] Policy, float[] Reference, float[] Entropies)
{
    /// <summary>Rows [from, to) alone.</summary>
    public PartScores Rows(int from, int to)
    {
        float[] Of(float[] all) => all.Length == 0 ? [] : all[from..to];
        return new PartScores(Of(Policy), Of(Reference), Of(Entropies));
    }
}

/// <summary>
/// What a part of a window comes to. The gradient of any loss of the rows' log-probabilities L(ℓ₁ … ℓ_T) is that of a cross-entropy whose rows weigh
/// −∂L/∂ℓ_t, which may be negative: a step needs no more than these weights. Of values likewise: row t weighs −∂L/∂v_t.
/// </summary>
/// <param name="Weights">Of each row in the cross-entropy.</param>
/// <param name="Loss">The part's share of the window's loss.</param>
/// <param name="Metrics">Its shares of what is reported; a window's is the sum of its parts'.</param>
public sealed record RowWeights(float[] Weights, double Loss, IReadOnlyDictionary<string, double> Metrics);

/// <summary>
/// What a run learns from: a value of `stage`. Rows become ids (<see cref="Encoder"/>), ids a window (<see cref="Count"/>, <see cref="Together"/>), the
/// window weights (<see cref="Weigh"/>); all else of a step is the same for every objective.
/// </summary>
public interface ITrainingObjective
{
    /// <summary>The value of `stage`.</summary>
    string Stage { get; }

    /// <summary>What decides the weights of a run beside the keys that every stage has, for <see cref="RunIdentity"/>.</summary>
    IEnumerable<(string Key, JsonNode? Value)> Identity => [];

    /// <summary>Adapters drop inputs as lora_dropout says; not where policy and reference are compared.</summary>
    bool HasDropout => true;

    /// <summary>What <see cref="Weigh"/> reports beside the loss: what metric_for_best_model can name.</summary>
    IReadOnlyList<string> Metrics => [];

    RowEncoder Encoder(DataSettings data, Tokenizer tokenizer);

    /// <summary>What the mean of a window is over: a row's target tokens.</summary>
    int Count(EncodedExample row) => ExampleWindows.TargetsOf(row);

    /// <summary>Sequences of a batch that follow each other and are weighed as one, so that no part of a window ends between them.</summary>
    int Together => 1;

    /// <summary><see cref="Together"/> of an objective that weighs a window as a whole.</summary>
    const int WholeWindow = int.MaxValue;

    /// <summary>What <see cref="Weigh"/> has to be given; None: rows weigh as the window says.</summary>
    Scores Needs => Scores.None;

    /// <summary>The weights of a part's rows.</summary>
    /// <param name="part">Its sequences; a row's weight is the share of its example in the window's mean.</param>
    /// <param name="scores">What was asked for.</param>
    RowWeights Weigh(TokenBatch part, PartScores scores) => throw new NotSupportedException($"the rows of stage {Stage} weigh as their window says");
}
