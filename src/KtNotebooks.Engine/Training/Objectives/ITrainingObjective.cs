using System.Text.Json.Nodes;

using KtNotebooks.Data;
using KtNotebooks.Nn;
using KtNotebooks.Tokenizers;

namespace KtNotebooks.Training.Objectives;

/// <summary>Whose log-probabilities an objective has to know before it can weigh the rows of a window.</summary>
public enum LogProbs
{
    None,
    Policy,

    /// <summary>Also those of the reference: the base without its adapter, which visits every layer once more.</summary>
    PolicyAndReference,
}

/// <summary>
/// What a part of a window comes to. The gradient of any loss of the sequences' log-probabilities L(s₁ … s_N), s_i = Σ_t log p_t, is that of a cross-entropy
/// whose rows weigh −∂L/∂s_i, which may be negative: a step needs no more than these weights.
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

    RowEncoder Encoder(DataSettings data, Tokenizer tokenizer);

    /// <summary>What the mean of a window is over: a row's target tokens.</summary>
    int Count(EncodedExample row) => ExampleWindows.TargetsOf(row);

    /// <summary>Sequences of a batch that follow each other and are weighed as one, so that no part of a window ends between them.</summary>
    int Together => 1;

    /// <summary>What <see cref="Weigh"/> has to be given; None: rows weigh as the window says.</summary>
    LogProbs Needs => LogProbs.None;

    /// <summary>The weights of a part's rows.</summary>
    /// <param name="part">Its sequences; a row's weight is the share of its example in the window's mean.</param>
    /// <param name="policy">Σ log p of the targets of each sequence, by the model as it is trained.</param>
    /// <param name="reference">The same by the reference; empty where it is not needed.</param>
    RowWeights Weigh(TokenBatch part, IReadOnlyList<double> policy, IReadOnlyList<double> reference) =>
        throw new NotSupportedException($"the rows of stage {Stage} weigh as their window says");
}
