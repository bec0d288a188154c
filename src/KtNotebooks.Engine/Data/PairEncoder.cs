using KtNotebooks.Tokenizers;

namespace KtNotebooks.Data;

/// <summary>Rows of preferences: two sequences that do not see each other, the question with the chosen answer and with the rejected one.</summary>
public sealed class PairEncoder(DataSettings settings, Tokenizer tokenizer) : RowEncoder
{
    private readonly SftEncoder _answers = new(settings.Template, tokenizer, settings.Cutoff);

    public override string Key => "pairs";

    public override Need Need => Need.Ranking;

    public override IEnumerable<string> Remarks => _answers.Remarks;

    public override EncodedExample Encode(Example example)
    {
        var (prompt, chosen, rejected) = _answers.EncodePair(example);
        int[] none = [.. Enumerable.Repeat(SftEncoder.Ignore, prompt.Length)];
        return new EncodedExample([.. prompt, .. chosen, .. prompt, .. rejected], [.. none, .. chosen, .. none, .. rejected], example.Source)
        {
            Starts = [0, prompt.Length + chosen.Length],
            Apart = true,
            Weight = example.Weight,
        };
    }
}
