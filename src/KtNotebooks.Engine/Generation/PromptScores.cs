using KtNotebooks.Autograd;
using KtNotebooks.Nn;

namespace KtNotebooks.Generation;

/// <summary>
/// How likely each token of a prompt is after those before it, filled in as the rows of the prompt are computed, in however many pieces: row i tells of token
/// i + 1, so the first token has no log-probability. Logits are made for a stretch of rows at a time and are never held for a whole prompt.
/// </summary>
/// <param name="prompt">At least one token.</param>
/// <param name="likeliest">How many of the likeliest tokens are told at each place.</param>
internal sealed class PromptScores(IReadOnlyList<int> prompt, int likeliest)
{
    /// <summary>Logits that are made at once, at most: 64 MB of F32.</summary>
    private const int MostLogits = 1 << 24;

    private readonly List<GeneratedToken> _told = [new GeneratedToken(prompt[0], "")];

    public IReadOnlyList<GeneratedToken> Told => _told;

    public bool IsWhole => _told.Count == prompt.Count;

    /// <summary>Reads what a step has computed of the prompts that are asked about.</summary>
    /// <param name="batch">The step's rows.</param>
    /// <param name="held">[sequences]: positions before the step.</param>
    /// <param name="sequences">In the batch's order.</param>
    /// <param name="rows">[sequences]: rows of each.</param>
    /// <param name="vocabulary">Tokens of the model, [V].</param>
    /// <param name="used">Those of them that there is text for; null: all.</param>
    /// <param name="logits">From a sequence, a row of the batch and a number of rows on to their logits, [n, V].</param>
    public static void Read(TokenBatch batch, int[] held, Completion[] sequences, int[] rows, int vocabulary, int? used,
        Func<Completion, int, int, Tensor> logits)
    {
        for (var i = 0; i < sequences.Length; i++)
        {
            if (sequences[i].Scores is not { IsWhole: false } scores) continue;
            var (first, one) = (batch.SeqStarts[i] - held[i], sequences[i]);
            scores.Read(held[i], rows[i], vocabulary, used, (at, n) => logits(one, first + at, n));
        }
    }

    /// <summary>
    /// Reads hidden rows of the sequence. Rows whose tokens are told already (it had to give its pages back and is computed again) are passed over.
    /// </summary>
    /// <param name="first">The position of the first row.</param>
    /// <param name="rows">How many.</param>
    /// <param name="vocabulary">Tokens of the model, [V].</param>
    /// <param name="used">Those of them that there is text for: the others are never drawn and have no share.</param>
    /// <param name="logits">From a position and a number of rows on to their logits, [n, V].</param>
    public void Read(int first, int rows, int vocabulary, int? used, Func<int, int, Tensor> logits)
    {
        var most = Math.Max(1, MostLogits / vocabulary);
        var end = Math.Min(first + rows, prompt.Count - 1);
        for (var at = _told.Count - 1; at < end;)
        {
            var n = Math.Min(most, end - at);
            using var tape = Tape.Scratch();
            Tell(logits(at, n).ToFloats(), n, used);
            at += n;
        }
    }

    private void Tell(float[] logits, int rows, int? used)
    {
        var (width, from) = (logits.Length / rows, _told.Count);
        var tokens = new GeneratedToken[rows];
        Parallel.For(0, rows, r =>
        {
            var id = prompt[from + r];
            var (logprob, top) = TokenLogprobs.Of(logits.AsSpan(r * width, Math.Min(width, used ?? width)), id, likeliest);
            tokens[r] = new GeneratedToken(id, "", logprob, top);
        });
        _told.AddRange(tokens);
    }
}
