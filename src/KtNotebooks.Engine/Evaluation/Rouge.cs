using System.Text.RegularExpressions;

namespace KtNotebooks.Evaluation;

/// <summary>
/// ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004) as F1, as the package rouge_chinese 1.0.3 computes them, which LLaMA-Factory uses: ROUGE-N over the
/// <em>sets</em> of n-grams, ROUGE-L over the longest common subsequence of all words, F1 = 2pr / (p + r + 1e−8). The text is words with spaces between. It
/// is first cut into sentences, which matters in two ways only: a sentence of nothing but spaces (the second of two line breaks) counts as one empty word,
/// and a sentence mark inside a word (a seventh dot) splits it.
/// </summary>
public static partial class Rouge
{
    /// <summary>F1 of ROUGE-1, ROUGE-2, ROUGE-L in [0, 1] of two word sequences.</summary>
    public static (double One, double Two, double L) Of(ReadOnlySpan<int> hypothesis, ReadOnlySpan<int> reference)
    {
        var grams = NGrams.Count(hypothesis, reference, 2);
        var common = CommonSubsequence(hypothesis, reference);
        return (OfSets(grams[0]), OfSets(grams[1]), F1((double)common / hypothesis.Length, (double)common / reference.Length));
    }

    /// <summary>The words of a text of words with spaces between, as the package sees them.</summary>
    internal static int[] Words(string joined, Vocabulary vocabulary)
    {
        var marked = AfterMark().Replace(joined, "$1\n$2");
        marked = AfterDots().Replace(marked, "$1\n$2");
        marked = AfterEllipsis().Replace(marked, "$1\n$2");
        marked = AfterQuote().Replace(marked, "$1\n$2");
        var text = marked.AsSpan();
        while (text.Length > 0 && IsSpace(text[^1])) text = text[..^1];
        List<int> words = [];
        foreach (var range in text.Split('\n'))
        {
            var sentence = text[range];
            if (sentence.IsEmpty) continue;
            var before = words.Count;
            for (var at = 0; at < sentence.Length;)
            {
                var start = at;
                while (at < sentence.Length && !IsSpace(sentence[at])) at++;
                if (at > start) words.Add(vocabulary.NumberOf(sentence[start..at]));
                else at++;
            }
            if (words.Count == before) words.Add(vocabulary.NumberOf(""));
        }
        return [.. words];
    }

    /// <summary>What Python's str.split() splits at: .NET's white space and the four separators U+001C … U+001F.</summary>
    internal static bool IsSpace(char c) => char.IsWhiteSpace(c) || c is >= '\u001C' and <= '\u001F';

    private static double OfSets(Overlap grams) => F1(
        grams.DistinctHypothesis == 0 ? 0 : (double)grams.DistinctShared / grams.DistinctHypothesis,
        grams.DistinctReference == 0 ? 0 : (double)grams.DistinctShared / grams.DistinctReference);

    private static double F1(double precision, double recall) => 2.0 * (precision * recall / (precision + recall + 1e-8));

    /// <summary>Length of the longest common subsequence: two rows of the usual table.</summary>
    private static int CommonSubsequence(ReadOnlySpan<int> a, ReadOnlySpan<int> b)
    {
        var row = new int[b.Length + 1];
        foreach (var symbol in a)
        {
            var diagonal = 0;
            for (var j = 1; j <= b.Length; j++)
            {
                var above = row[j];
                row[j] = symbol == b[j - 1] ? diagonal + 1 : Math.Max(above, row[j - 1]);
                diagonal = above;
            }
        }
        return row[^1];
    }

    [GeneratedRegex("([。！？?])([^”’])")]
    private static partial Regex AfterMark();

    [GeneratedRegex(@"(\.{6})([^”’])")]
    private static partial Regex AfterDots();

    [GeneratedRegex("(…{2})([^”’])")]
    private static partial Regex AfterEllipsis();

    [GeneratedRegex("([。！？?][”’])([^，。！？?])")]
    private static partial Regex AfterQuote();
}
