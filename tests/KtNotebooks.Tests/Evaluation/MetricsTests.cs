using System.Text.Json.Nodes;

using KtNotebooks.Evaluation;
using KtNotebooks.Segmentation;
using KtNotebooks.Tests.Segmentation;

using Xunit;

namespace KtNotebooks.Tests.Evaluation;

public class MetricsTests(ITestOutputHelper output)
{
    /// <summary>Numbers from NLTK 3.8 and rouge_chinese 1.0.3, words given.</summary>
    [Theory]
    [InlineData("the cat sat on the mat", "the cat is on the mat", new[] { 83.3333, 70.7107, 50, 37.9918 }, 78.392, new[] { 80, 60, 83.3333 })]
    [InlineData("a b c", "a b c d e f", new[] { 36.7879, 36.7879, 36.7879, 30.9349 }, 30.1194, new[] { 66.6667, 57.1429, 66.6667 })]
    [InlineData("x y z", "a b c", new double[] { 0, 0, 0, 0 }, 12.7033, new double[] { 0, 0, 0 })]
    [InlineData("a", "a", new[] { 100, 70.7107, 50, 35.3553 }, 35.3553, new double[] { 100, 0, 100 })]
    [InlineData("the the the the", "the cat the", new[] { 50, 28.8675, 21.8395, 18.9959 }, 33.8871, new[] { 66.6667, 0, 57.1429 })]
    [InlineData("主人 ， 喵 ~ 今天 天气 真 好 。", "主人 ， 今天 天气 很 好 喵 ~ 。", new[] { 88.8889, 57.735, 28.7685, 17.7474 }, 35.9304, new[] { 88.8889, 37.5, 66.6667 })]
    [InlineData("我 爱 你 。 你 爱 我 。", "我 爱 你 。 我 爱 猫 。", new[] { 87.5, 61.2372, 50, 39.7635 }, 39.7635, new[] { 88.8889, 46.1538, 75 })]
    public void Golden_values(string hypothesis, string reference, double[] words, double characters, double[] rouge)
    {
        var vocabulary = new Vocabulary();
        int[] Numbers(IEnumerable<string> symbols) => [.. symbols.Select(s => vocabulary.NumberOf(s))];
        // The Chinese characters are counted without the spaces between the words, the English with them.
        string Text(string s) => hypothesis.Any(c => c > 255) ? s.Replace(" ", "", StringComparison.Ordinal) : s;
        Assert.Equal(words, Bleu.Of(Numbers(hypothesis.Split(' ')), Numbers(reference.Split(' '))).Select(TextScores.Percent));
        Assert.Equal(characters, TextScores.Percent(Bleu.Of(Numbers(Text(hypothesis).Select(c => $"{c}")), Numbers(Text(reference).Select(c => $"{c}")))[3]));
        var (one, two, l) = Rouge.Of(Rouge.Words(hypothesis, vocabulary), Rouge.Words(reference, vocabulary));
        Assert.Equal(rouge, new[] { one, two, l }.Select(TextScores.Percent));
    }

    /// <summary>Half-way cases are those that scaling by 10⁴ gets wrong; expected: Python's round(x, 4).</summary>
    [Theory]
    [InlineData(0.0003125, 0.0312)]
    [InlineData(0.0009375, 0.0938)]
    [InlineData(1, 100)]
    [InlineData(0, 0)]
    [InlineData(2.0 / 3, 66.6667)]
    public void Percentages_round_as_in_Python(double x, double percent) => Assert.Equal(percent, TextScores.Percent(x));

    [Theory]
    [InlineData("a  b", new[] { "a", "b" })]
    [InlineData("a \n \n b", new[] { "a", "", "b" })] // the second line break is a sentence of spaces: one empty word
    [InlineData("......... x", new[] { "......", "...", "x" })]
    [InlineData("好 。 ” 他", new[] { "好", "。", "”", "他" })]
    public void Words_as_rouge_chinese_sees_them(string joined, string[] words)
    {
        var vocabulary = new Vocabulary();
        int[] numbers = Rouge.Words(joined, vocabulary);
        Assert.Equal(words.Select(w => vocabulary.NumberOf(w)), numbers);
    }

    [Fact]
    public void A_blank_side_scores_nothing_whatever_came_before()
    {
        Python.Require();
        Assert.All(TextScores.Of("", "主人", Jieba.Default).All, s => Assert.Equal(0, s.Value));
        Assert.All(TextScores.Of(" \n", "主人", Jieba.Default).All, s => Assert.Equal(0, s.Value));
        Assert.All(TextScores.Of("主人", "", Jieba.Default).All, s => Assert.Equal(0, s.Value));
    }

    [Fact]
    public void A_thousand_random_bilingual_pairs_score_as_in_nltk_and_jieba()
    {
        Python.Require();
        var random = new BilingualText(2024);
        Prediction[] rows = [.. Enumerable.Range(0, 1000).Select(_ => random.Pair()).Select(p => new Prediction("", p.Predict, p.Label))];
        var expected = Python.Ask(rows.Select(row => (object)new { predict = row.Predict, label = row.Label }));
        var scores = TextScores.OfAll(rows, Jieba.Default, TestContext.Current.CancellationToken);
        Assert.Equal(rows.Length, expected.Length);
        double worst = 0;
        for (var i = 0; i < rows.Length; i++)
            foreach (var (score, wanted) in scores[i].All.Zip(((JsonArray)expected[i]["scores"]!).Select(s => (double)s!)))
            {
                worst = Math.Max(worst, Math.Abs(score.Value - wanted));
                Assert.True(Math.Abs(score.Value - wanted) <= 1e-9,
                    $"{score.Name} of '{rows[i].Predict}' against '{rows[i].Label}' is {score.Value}, but {wanted} in Python");
            }
        output.WriteLine($"largest difference of 8 × {rows.Length} scores: {worst:E1}; means "
            + $"{string.Join(", ", TextScores.Mean(scores).All.Select(s => $"{s.Name} {s.Value:F2}"))}");
        Assert.True(TextScores.Mean(scores).Bleu4 is > 5 and < 95, "the pairs must be neither equal nor strangers");
    }
}
