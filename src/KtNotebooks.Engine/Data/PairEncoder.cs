using KtNotebooks.Tokenizers;

namespace KtNotebooks.Data;

/// <summary>Rows of preferences: two sequences that do not see each other, the question with the chosen answer and with the rejected one.</summary>
public sealed class PairEncoder(DataSettings settings, Tokenizer tokenizer) : RowEncoder
{
    private readonly SftEncoder _answers = new(settings.Template, tokenizer, settings.Cutoff);
    private readonly Lock _gate = new();
    private (int Count, string First) _alike;

    public override string Key => "pairs";

    public override Need Need => Need.Ranking;

    public override IEnumerable<string> Remarks => _alike.Count == 0 ? _answers.Remarks : [.. _answers.Remarks,
        $"{_alike.Count:N0} rows have the same tokens for both answers, as {_alike.First}: nothing is preferred there, and nothing learned"
            + $" (cutoff_len is {settings.Cutoff})"];

    public override EncodedExample Encode(Example example)
    {
        var (prompt, chosen, rejected) = _answers.EncodePair(example);
        if (chosen.AsSpan().SequenceEqual(rejected))
            lock (_gate) _alike = (_alike.Count + 1, _alike.Count == 0 ? example.Source : _alike.First);
        int[] none = [.. Enumerable.Repeat(SftEncoder.Ignore, prompt.Length)];
        return new EncodedExample([.. prompt, .. chosen, .. prompt, .. rejected], [.. none, .. chosen, .. none, .. rejected], example.Source)
        {
            Starts = [0, prompt.Length + chosen.Length],
            Apart = true,
            Weight = example.Weight,
        };
    }
}
