using System.Text.Json.Nodes;

using KtNotebooks.Segmentation;

namespace KtNotebooks.Evaluation;

/// <summary>
/// The scores of predictions, in percent, under LLaMA-Factory's names and KTransformers'. They differ: bleu-4 (LLaMA-Factory) counts characters, spaces
/// among them; kt-bleu-1 … 4 (the tables that KTransformers published) count jieba's words, where each space of an English text is a word too. ROUGE is the
/// same in both. Each row is rounded to 4 decimals, as theirs are; a result is the mean of rows.
/// </summary>
public sealed record TextScores(double Bleu4, double Rouge1, double Rouge2, double RougeL, double KtBleu1, double KtBleu2, double KtBleu3, double KtBleu4)
{
    /// <summary>The scores by name, in the order in which they are printed.</summary>
    public IReadOnlyList<(string Name, double Value)> All =>
        [("bleu-4", Bleu4), ("rouge-1", Rouge1), ("rouge-2", Rouge2), ("rouge-l", RougeL), ("kt-bleu-1", KtBleu1), ("kt-bleu-2", KtBleu2),
            ("kt-bleu-3", KtBleu3), ("kt-bleu-4", KtBleu4)];

    /// <summary>One row. Where a side has nothing but spaces, ROUGE and the word BLEU are 0 (KTransformers' own script repeats the row before there).</summary>
    public static TextScores Of(string prediction, string label, Jieba jieba)
    {
        ArgumentNullException.ThrowIfNull(prediction);
        ArgumentNullException.ThrowIfNull(label);
        ArgumentNullException.ThrowIfNull(jieba);
        var bleu4 = Percent(Bleu.Of(Characters(prediction), Characters(label))[3]);
        if (prediction.All(Rouge.IsSpace) || label.All(Rouge.IsSpace)) return new TextScores(bleu4, 0, 0, 0, 0, 0, 0, 0);
        var vocabulary = new Vocabulary();
        var (h, hypothesis) = Cut(prediction, jieba, vocabulary);
        var (r, reference) = Cut(label, jieba, vocabulary);
        var words = Bleu.Of(h, r);
        var (one, two, l) = Rouge.Of(Rouge.Words(hypothesis, vocabulary), Rouge.Words(reference, vocabulary));
        return new TextScores(bleu4, Percent(one), Percent(two), Percent(l), Percent(words[0]), Percent(words[1]), Percent(words[2]), Percent(words[3]));
    }

    /// <summary>The scores of every row, on all processors, in order.</summary>
    public static TextScores[] OfAll(IReadOnlyList<Prediction> rows, Jieba jieba, CancellationToken cancel = default) =>
        [.. rows.AsParallel().AsOrdered().WithCancellation(cancel).Select(row => Of(row.Predict, row.Label, jieba))];

    /// <exception cref="ArgumentException">No rows.</exception>
    public static TextScores Mean(IReadOnlyList<TextScores> rows)
    {
        ArgumentNullException.ThrowIfNull(rows);
        if (rows.Count == 0) throw new ArgumentException("there are no predictions to score");
        return new TextScores(rows.Average(r => r.Bleu4), rows.Average(r => r.Rouge1), rows.Average(r => r.Rouge2), rows.Average(r => r.RougeL),
            rows.Average(r => r.KtBleu1), rows.Average(r => r.KtBleu2), rows.Average(r => r.KtBleu3), rows.Average(r => r.KtBleu4));
    }

    public JsonObject ToJson() => new(All.Select(s => KeyValuePair.Create(s.Name, (JsonNode?)s.Value)));

    /// <summary>Code points, as Python counts characters.</summary>
    private static int[] Characters(string text) => [.. text.EnumerateRunes().Select(rune => rune.Value)];

    /// <summary>jieba's words as numbers, and joined by spaces.</summary>
    private static (int[] Numbers, string Joined) Cut(string text, Jieba jieba, Vocabulary vocabulary)
    {
        var words = jieba.Cut(text);
        return ([.. words.Select(word => vocabulary.NumberOf(word))], string.Join(' ', words));
    }

    /// <summary>
    /// 100 · x rounded to 4 decimals as Python's round does: the nearest decimal of the double's exact value, ties to even. Math.Round scales by 10⁴ first,
    /// which is not the same; "F4" is exact but for ties, and a double lies half-way between two such decimals only when it is an odd multiple of 1/32.
    /// </summary>
    internal static double Percent(double x)
    {
        var percent = x * 100;
        if (Math.Abs(percent * 32) % 2 == 1) return Math.Round(percent * 10000, MidpointRounding.ToEven) / 10000;
        return double.Parse(percent.ToString("F4"));
    }
}
