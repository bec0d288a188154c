namespace KtNotebooks.Generation;

/// <summary>The draws of a step: every sequence takes its next token from its row of logits.</summary>
internal static class Draws
{
    /// <summary>From so many logits on, threads share the draws of a step.</summary>
    private const int ManyLogits = 1 << 20;

    /// <summary>From a recorded step: of each row the likeliest tokens that the card has found, of those for whom they are not enough all of it.</summary>
    public static void Take(Completion[] sequences, StepLogits logits, int? vocabulary)
    {
        int[] rest = [.. Enumerable.Range(0, sequences.Length).Where(i => !sequences[i].TryTake(logits.Likeliest(i)))];
        if (rest.Length > 0) Take([.. rest.Select(i => sequences[i])], logits.Read(rest), vocabulary);
    }

    /// <summary>Each draws from its row of logits [n, V].</summary>
    public static unsafe void Take(Completion[] sequences, Span<float> logits, int? vocabulary)
    {
        var width = logits.Length / sequences.Length;
        var used = Math.Min(width, vocabulary ?? width);
        // The card waits for the draws. Masks may share what they know: with one they come one after another.
        if (logits.Length < ManyLogits || sequences.Any(s => s.Request.Mask is not null))
            for (var i = 0; i < sequences.Length; i++) sequences[i].TryTake(logits.Slice(i * width, used));
        else
            fixed (float* all = logits)
            {
                var from = (nint)all;
                Parallel.For(0, sequences.Length, i => sequences[i].TryTake(new Span<float>((float*)from + ((long)i * width), used)));
            }
    }
}
