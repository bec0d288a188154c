namespace KtNotebooks.Evaluation;

/// <summary>
/// Sentence BLEU with one reference (Papineni et al. 2002) as NLTK's sentence_bleu computes it with smoothing method 3 (NIST's geometric sequence): p_n =
/// clipped matches / max(1, grams); the k-th order without a match gets 1 / (2^k · grams); BLEU-N = penalty · exp(Σ_{n ≤ N} ln p_n / N), penalty = exp(1 −
/// reference/hypothesis) when the hypothesis is not longer. No shared symbol: 0. All four orders are smoothed whatever N, so BLEU-1 … BLEU-4 of a pair come
/// from one count. A surprise that is NLTK's: one symbol equal to its reference scores 35.36 of 100 in BLEU-4, not 100.
/// </summary>
public static class Bleu
{
    public const int Orders = 4;

    /// <summary>BLEU-1 … BLEU-4, each in [0, 1].</summary>
    public static double[] Of(ReadOnlySpan<int> hypothesis, ReadOnlySpan<int> reference) =>
        Of(NGrams.Count(hypothesis, reference, Orders), hypothesis.Length, reference.Length);

    internal static double[] Of(Overlap[] grams, int hypothesis, int reference)
    {
        var scores = new double[Orders];
        if (grams[0].Shared == 0) return scores;
        var penalty = hypothesis > reference ? 1 : Math.Exp(1 - ((double)reference / hypothesis));
        var (sum, zeros) = (0.0, 0);
        for (var n = 1; n <= Orders; n++)
        {
            var all = Math.Max(1, grams[n - 1].Hypothesis);
            sum += Math.Log(grams[n - 1].Shared > 0 ? (double)grams[n - 1].Shared / all : 1 / (Math.Pow(2, ++zeros) * all));
            scores[n - 1] = penalty * Math.Exp(sum / n);
        }
        return scores;
    }
}
