using KtNotebooks.Tokenizers;
using Xunit;

namespace KtNotebooks.Tests.Tokenizers;

public class BpeTrainerTests
{
    private static readonly string[] Specials = ["<s>", "</s>"];

    [Fact]
    public void The_most_frequent_pair_is_merged_first()
    {
        // Sennrich's example: es 9, est 9, lo 7, low 7; then ne, ew and west are equal with 6, and e has the smallest id.
        var texts = Enumerable.Repeat("low ", 5).Concat(Enumerable.Repeat("lower ", 2)).Concat(Enumerable.Repeat("newest ", 6))
            .Concat(Enumerable.Repeat("widest ", 3));
        var tokenizer = Train(texts, 2 + 256 + 6, Specials);
        Assert.Equal(["es", "est", "lo", "low", "ew", "new"], Enumerable.Range(258, 6).Select(tokenizer.TokenText));
    }

    [Fact]
    public void The_same_texts_give_the_same_tokenizer_in_any_order()
    {
        using Samples.Folder one = new(), two = new();
        Train(Samples.Corpus, 600, Specials).Save(one.Path);
        Train(Samples.Corpus.Reverse(), 600, Specials).Save(two.Path);
        Assert.Equal(File.ReadAllText(Path.Combine(one.Path, "tokenizer.json")), File.ReadAllText(Path.Combine(two.Path, "tokenizer.json")));
    }

    [Fact]
    public void Counting_by_places_equals_counting_anew()
    {
        // The definition on one word: count all pairs, merge the most frequent, smallest ids first, without overlaps.
        var random = new Random(5);
        string[] words = [.. Enumerable.Range(0, 300)
            .Select(_ => string.Concat(Enumerable.Range(0, random.Next(1, 9)).Select(_ => (char)('a' + random.Next(3)))))];
        var texts = words.Select(w => w + "\n").ToArray();
        var symbols = words.Select(w => w.Select(c => c.ToString()).ToList()).ToList();
        symbols.AddRange(words.Select(_ => new List<string> { "\n" }));
        var ids = Enumerable.Range(0, 256).ToDictionary(b => b < 128 ? ((char)b).ToString() : $"byte {b}", b => b);
        var expected = new List<string>();
        while (expected.Count < 40)
        {
            var best = symbols.SelectMany(s => s.Zip(s.Skip(1))).GroupBy(p => p).OrderByDescending(g => g.Count()).ThenBy(g => ids[g.Key.First])
                .ThenBy(g => ids[g.Key.Second]).First().Key;
            if (ids.TryAdd(best.First + best.Second, 256 + expected.Count))
                expected.Add(best.First + best.Second);
            foreach (var word in symbols)
            {
                for (var i = 0; i + 1 < word.Count; i++)
                {
                    if ((word[i], word[i + 1]) == best)
                    {
                        word[i] += word[i + 1];
                        word.RemoveAt(i + 1);
                    }
                }
            }
        }
        var tokenizer = Train(texts, 256 + 40, []);
        Assert.Equal(expected, Enumerable.Range(256, 40).Select(tokenizer.TokenText));
    }

    [Fact]
    public void Digits_stand_alone_and_scripts_do_not_mix()
    {
        var tokenizer = Train(Enumerable.Repeat("第2024年abc汉字 2024", 50), 400, Specials);
        Assert.All(Enumerable.Range(258, tokenizer.VocabSize - 258).Select(tokenizer.TokenText).Where(t => !t.Contains('\\')), token =>
        {
            Assert.False(token.Length > 1 && token.Any(char.IsDigit), token);
            Assert.False(token.Any(c => c >= 0x4E00) && token.Any(char.IsAsciiLetter), token);
        });
    }

    [Fact]
    public void No_token_is_longer_than_asked_for()
    {
        var tokenizer = Train(Enumerable.Repeat("你叫什么名字呀今天天气真好", 9), 2000, Specials, maxTokenBytes: 6);
        Assert.All(Enumerable.Range(258, tokenizer.VocabSize - 258), id => Assert.InRange(tokenizer.Bytes(id).Length, 2, 6));
    }

    [Fact]
    public void Special_tokens_come_first_and_are_never_learned()
    {
        var tokenizer = Train(Enumerable.Repeat("<s>ab</s>", 100), 400, Specials);
        Assert.Equal((0, 1, 1), (tokenizer.BosId, tokenizer.EosId, tokenizer.PadId));
        Assert.True(tokenizer.IsSpecial(0));
        Assert.Equal(259, tokenizer.VocabSize); // only "ab" was left to learn
    }

    [Fact]
    public void A_vocabulary_without_room_is_refused() =>
        Assert.Contains("need 258", Assert.Throws<ArgumentException>(() => Train(["a"], 200, Specials)).Message);

    private static Tokenizer Train(IEnumerable<string> texts, int vocabSize, string[] specials, int maxTokenBytes = 18) =>
        BpeTrainer.Train(texts, vocabSize, specials, maxTokenBytes: maxTokenBytes, cancellation: TestContext.Current.CancellationToken);
}
