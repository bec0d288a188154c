using System.Globalization;
using System.Text;

using FsCheck.Fluent;

using KtNotebooks.Tokenizers;

using Xunit;

namespace KtNotebooks.Tests.Tokenizers;

/// <summary>
/// tiktoken.model as Kimi-K2 ships it: a small made-up file of ranks, against a slow tokenizer that cuts and merges as the model's own code does.
/// </summary>
public sealed class TikTokenTests : IDisposable
{
    private const string Special = """
        {"tokenizer_class": "TikTokenTokenizer", "bos_token": "[BOS]", "eos_token": "[EOS]", "additional_special_tokens": ["<|im_end|>"],
         "added_tokens_decoder": {"FIRST": {"content": "[BOS]", "special": true}, "SECOND": {"content": "[EOS]", "special": true},
             "FIFTH": {"content": "<|im_end|>", "special": true}}}
        """;

    private readonly Samples.Folder _folder = new();
    private readonly List<byte[]> _ranks = [.. Enumerable.Range(0, 256).Select(b => new[] { (byte)((b * 7) & 255) })]; // not in the order of the bytes

    public TikTokenTests()
    {
        // Words with several ways to be made, so that ties between pairs of the same result matter; half characters too.
        foreach (var text in new[] { "aa", "aaa", "ab", "ba", "aba", "bab", "th", "the", " t", " the", "er", "in", "ing", "  ", "    ", "你", "好", "你好", "'l",
            "ll", "'ll", "12", "123", "\n\n", "é" })
            if (!_ranks.Exists(r => r.AsSpan().SequenceEqual(Encoding.UTF8.GetBytes(text)))) _ranks.Add(Encoding.UTF8.GetBytes(text));
        _ranks.Add([0xE4, 0xBD]);
        Write(_ranks);
        _folder.Write("tokenizer_config.json", Special.Replace("FIRST", $"{_ranks.Count}").Replace("SECOND", $"{_ranks.Count + 1}").Replace("FIFTH",
            $"{_ranks.Count + 4}"));
    }

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void Ids_are_those_of_merging_by_trying_and_every_text_comes_back()
    {
        var tokenizer = Tokenizer.Load(_folder.Path);
        var repeats = Gen.Elements("a", "b", "aa", "the", " the", "'ll", "'LL", "你", "好", "汉字", "1234", " ", "   ", "\n", "é", "Ab", "ABC", "aBc", "ﬁ", "😀",
            "!?", "\u0301", "ア", "ʰ", "Ǆ", "x", "\r\n", "<", "|")
            .ListOf().Select(string.Concat).ToArbitrary();
        foreach (var texts in new[] { repeats, Samples.ValidText })
            Samples.Check(texts, text => tokenizer.Encode(text).SequenceEqual(Slow(text)) && tokenizer.Decode(tokenizer.Encode(text)) == text);
        var longRun = string.Concat(Enumerable.Repeat("aab", 200)); // longer than the words that are scanned
        Assert.Equal(Slow(longRun), tokenizer.Encode(longRun));
    }

    [Fact]
    public void Special_and_reserved_tokens_stand_behind_the_ranks()
    {
        var tokenizer = Tokenizer.Load(_folder.Path);
        var first = _ranks.Count;
        Assert.Equal((first, first + 1), (tokenizer.BosId, tokenizer.EosId));
        Assert.Equal(first + 256, tokenizer.VocabSize);
        Assert.Equal([first + 4, first + 2, .. tokenizer.Encode("a")], tokenizer.Encode($"<|im_end|><|reserved_token_{first + 2}|>a"));
        Assert.True(tokenizer.IsSpecial(first + 4) && tokenizer.IsSpecial(first + 200));
        Assert.Equal("the", tokenizer.Decode(tokenizer.Encode("<|im_end|>the"), skipSpecial: true));
    }

    [Fact]
    public void Saved_as_tokenizer_json_it_cuts_and_knows_the_same()
    {
        using var saved = new Samples.Folder();
        var tokenizer = Tokenizer.Load(_folder.Path);
        tokenizer.Save(saved.Path);
        var again = Tokenizer.Load(saved.Path);
        foreach (var text in new[] { "the 你好世界 Thing'll 12345 <|im_end|>\n\n  x", "ABC aBc ﬁ 😀" }) Assert.Equal(tokenizer.Encode(text), again.Encode(text));
    }

    [Theory]
    [InlineData("YQ== 0\nYQ==\n", ":2: must be a token in base64, a space and its rank, but is 'YQ=='")]
    [InlineData("YQ== 0\nYg== x\n", ":2: must be a token in base64, a space and its rank, but is 'Yg== x'")]
    [InlineData("YQ== -1\n", ":1: must be a token in base64")]
    [InlineData("!!!! 0\n", ":1: the token is not base64")]
    [InlineData("YQ== 0\nYg== 0\n", ":2: the rank 0 stands there twice")]
    [InlineData("YQ== 0\nYQ== 1\n", ":2: the token of rank 1 stands there twice")]
    [InlineData("YQ== 0\n", ": has no token for the byte 0x00")]
    [InlineData("", ": has no token for the byte 0x00")]
    public void A_damaged_file_is_named_with_its_line(string text, string message)
    {
        var file = _folder.Write("tiktoken.model", text);
        Assert.StartsWith(file + message, Assert.Throws<InvalidDataException>(() => Tokenizer.Load(_folder.Path)).Message);
    }

    [Fact]
    public void A_gap_and_another_kind_of_tokenizer_are_named()
    {
        File.AppendAllText(Path.Combine(_folder.Path, "tiktoken.model"), "enp6eg== 9999\n");
        Assert.EndsWith($"none of rank {_ranks.Count}; ranks go from 0 without a gap", Assert.Throws<InvalidDataException>(() =>
            Tokenizer.Load(_folder.Path)).Message);
        _folder.Write("tokenizer_config.json", """{"tokenizer_class": "QWenTokenizer"}""");
        Assert.Contains("tokenizer_class of tokenizer_config.json is 'QWenTokenizer'", Assert.Throws<NotSupportedException>(() =>
            Tokenizer.Load(_folder.Path)).Message);
    }

    private void Write(List<byte[]> ranks) => _folder.Write("tiktoken.model", string.Concat(ranks.Select((token, rank) =>
        $"{Convert.ToBase64String(token)} {rank}\n")));

    /// <summary>
    /// tiktoken's definition: cut; a piece that has a rank is that token; else the neighbours whose bytes together have the lowest rank are joined, leftmost
    /// first.
    /// </summary>
    private List<int> Slow(string text)
    {
        List<int> ids = [];
        foreach (var piece in Cut(text))
        {
            List<byte[]> parts = [.. Encoding.UTF8.GetBytes(piece).Select(b => new[] { b })];
            if (Rank(Encoding.UTF8.GetBytes(piece)) is >= 0 and var whole)
            {
                ids.Add(whole);
                continue;
            }
            while (true)
            {
                var (best, at) = (int.MaxValue, -1);
                for (var i = 0; i + 1 < parts.Count; i++)
                    if (Rank([.. parts[i], .. parts[i + 1]]) is >= 0 and var rank && rank < best) (best, at) = (rank, i);
                if (at < 0) break;
                parts[at] = [.. parts[at], .. parts[at + 1]];
                parts.RemoveAt(at + 1);
            }
            ids.AddRange(parts.Select(Rank));
        }
        return ids;
    }

    private int Rank(byte[] bytes) => _ranks.FindIndex(r => r.AsSpan().SequenceEqual(bytes));

    /// <summary>Kimi's pattern, written out as loops over kinds of characters with every way back tried.</summary>
    private static List<string> Cut(string text)
    {
        int[] all = [.. text.EnumerateRunes().Select(r => r.Value)];
        static bool Is(int c, params UnicodeCategory[] kinds) => kinds.Contains(CharUnicodeInfo.GetUnicodeCategory(c));
        static bool Letter(int c) => CharUnicodeInfo.GetUnicodeCategory(c) <= UnicodeCategory.OtherLetter;
        static bool Number(int c) => Is(c, UnicodeCategory.DecimalDigitNumber, UnicodeCategory.LetterNumber, UnicodeCategory.OtherNumber);
        static bool White(int c) => c is (>= 9 and <= 13) or 0x85 || Is(c, UnicodeCategory.SpaceSeparator, UnicodeCategory.LineSeparator,
            UnicodeCategory.ParagraphSeparator);
        static bool Line(int c) => c is '\r' or '\n';
        static bool Either(int c) => Is(c, UnicodeCategory.ModifierLetter, UnicodeCategory.OtherLetter, UnicodeCategory.NonSpacingMark,
            UnicodeCategory.SpacingCombiningMark, UnicodeCategory.EnclosingMark);
        static bool Upper(int c) => !Han(c) && (Either(c) || Is(c, UnicodeCategory.UppercaseLetter, UnicodeCategory.TitlecaseLetter));
        static bool Lower(int c) => !Han(c) && (Either(c) || Is(c, UnicodeCategory.LowercaseLetter));
        static bool Before(int c) => !Line(c) && !Letter(c) && !Number(c);
        static bool Mark(int c) => !White(c) && !Letter(c) && !Number(c);
        const int Many = int.MaxValue;
        (Func<int, bool> Kind, int Min, int Max)[][] ways =
        [
            [(Han, 1, Many)], [(Before, 0, 1), (Upper, 0, Many), (Lower, 1, Many)], [(Before, 0, 1), (Upper, 1, Many), (Lower, 0, Many)], [(Number, 1, 3)],
            [(c => c == ' ', 0, 1), (Mark, 1, Many), (Line, 0, Many)], [(White, 0, Many), (Line, 1, Many)], [(White, 1, Many)], [(White, 1, Many)],
        ];
        List<string> pieces = [];
        for (var at = 0; at < all.Length;)
        {
            var end = -1;
            for (var way = 0; end < 0; way++) end = Match(ways[way], 0, at, last => way == 6 && last < all.Length && !White(all[last]) ? -1 : way is 1 or 2
                ? Contracted(last) : last);
            pieces.Add(string.Concat(all[at..end].Select(char.ConvertFromUtf32)));
            at = end;
        }
        return pieces;

        int Match((Func<int, bool> Kind, int Min, int Max)[] way, int i, int at, Func<int, int> then)
        {
            if (i == way.Length) return then(at);
            var most = 0;
            while (most < way[i].Max && at + most < all.Length && way[i].Kind(all[at + most])) most++;
            for (var count = most; count >= way[i].Min; count--)
                if (Match(way, i + 1, at + count, then) is >= 0 and var end) return end;
            return -1;
        }

        int Contracted(int at)
        {
            foreach (var ending in new[] { "'s", "'t", "'re", "'ve", "'m", "'ll", "'d" })
                if (at + ending.Length <= all.Length && ending.Index().All(c => all[at + c.Index] == c.Item
                    || all[at + c.Index] == char.ToUpperInvariant(c.Item) || (c.Item == 's' && all[at + c.Index] == 'ſ'))) return at + ending.Length;
            return at;
        }
    }

    private static bool Han(int c)
    {
        var steps = 1000L;
        return HanPattern.Find(char.ConvertFromUtf32(c), 0, ref steps, out _, out _);
    }

    private static readonly Pattern HanPattern = Pattern.Parse(@"\p{Han}");
}
