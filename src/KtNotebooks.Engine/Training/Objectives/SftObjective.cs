using KtNotebooks.Data;
using KtNotebooks.Tokenizers;

namespace KtNotebooks.Training.Objectives;

/// <summary>stage: sft. Supervised fine-tuning: the mean cross-entropy of the answers' tokens.</summary>
public sealed class SftObjective : ITrainingObjective
{
    public string Stage => "sft";

    public RowEncoder Encoder(DataSettings data, Tokenizer tokenizer) => SftEncoder.Of(data, tokenizer);
}
