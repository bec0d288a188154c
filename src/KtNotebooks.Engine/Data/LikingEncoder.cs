using KtNotebooks.Tokenizers;

namespace KtNotebooks.Data;

/// <summary>
/// Rows of single answers that are wanted or not (kto_tag), for KTO. Each becomes two sequences that do not see each other: its question and answer, and
/// its question with the answer of the row before (of the first row: the last), from which the divergence of the model from its base is estimated.
/// LLaMA-Factory takes the row before within 1,000 rows of a file.
/// </summary>
public sealed class LikingEncoder(DataSettings settings, Tokenizer tokenizer) : RowEncoder
{
    /// <summary><see cref="EncodedExample.Tag"/> of a wanted answer; of others it is <see cref="Unwanted"/>.</summary>
    public const int Wanted = 1;

    /// <inheritdoc cref="Wanted"/>
    public const int Unwanted = 2;

    private readonly SftEncoder _answers = new(settings.Template, tokenizer, settings.Cutoff);
    private int _wanted, _unwanted;

    public override string Key => "liking";

    public override int Fewest => 2;

    public override Need Need => Need.Liking;

    public override IEnumerable<string> Remarks => (_wanted, _unwanted) switch
    {
        ( > 0, 0) => _answers.Remarks.Append("every answer is a wanted one: stage: kto learns a difference, and wants some with kto_tag false"),
        (0, > 0) => _answers.Remarks.Append("every answer is an unwanted one: stage: kto learns a difference, and wants some with kto_tag true"),
        _ => _answers.Remarks,
    };

    public override EncodedExample Encode(Example example)
    {
        ArgumentNullException.ThrowIfNull(example);
        Require(example);
        var isWanted = example.Responses[0].Content.Length > 0;
        Interlocked.Increment(ref isWanted ? ref _wanted : ref _unwanted);
        var (prompt, answer, _) = _answers.EncodePair(example with { Responses = [example.Responses[isWanted ? 0 : 1], example.Responses[isWanted ? 0 : 1]] });
        return new EncodedExample([.. prompt, .. answer], [.. Masked(prompt.Length), .. answer], example.Source)
        {
            Tag = isWanted ? Wanted : Unwanted,
            Weight = example.Weight,
        };
    }

    public override EncodedExample[] Pack(IReadOnlyList<EncodedExample> rows)
    {
        ArgumentNullException.ThrowIfNull(rows);
        if (rows.Count < Fewest)
            throw new InvalidDataException($"{rows[0].Source}: is the only row; stage: kto compares each answer with another row's, and needs two at least");
        return [.. rows.Select((row, i) => Join(row, rows[(i + rows.Count - 1) % rows.Count]))];
    }

    private EncodedExample Join(EncodedExample row, EncodedExample other)
    {
        var (prompt, answer) = (row.Ids[..PromptOf(row)], other.Ids[PromptOf(other)..]);
        var (kept, most) = SftEncoder.Allocate(prompt.Length, answer.Length, settings.Cutoff);
        return row with
        {
            Ids = [.. row.Ids, .. prompt[..kept], .. answer[..most]],
            Labels = [.. row.Labels, .. Masked(kept), .. answer[..most]],
            Starts = [0, row.Ids.Length],
            Apart = true,
        };
    }

    private static int PromptOf(EncodedExample row) => row.Labels.AsSpan().IndexOfAnyExcept(SftEncoder.Ignore) is >= 0 and var at ? at : row.Ids.Length;

    private static int[] Masked(int count)
    {
        var labels = new int[count];
        Array.Fill(labels, SftEncoder.Ignore);
        return labels;
    }
}
