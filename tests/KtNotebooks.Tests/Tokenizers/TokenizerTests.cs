using System.Text;
using KtNotebooks.Tokenizers;
using Xunit;

namespace KtNotebooks.Tests.Tokenizers;

public class TokenizerTests
{
    private static readonly Tokenizer Small = Samples.Small;

    [Fact]
    public void Decoding_gives_back_any_text() => Samples.Check(Samples.ValidText, text => Small.Decode(Small.Encode(text)) == text);

    [Fact]
    public void Streaming_gives_what_decoding_gives_and_never_half_a_character() => Samples.Check(Samples.ValidText, text =>
    {
        var stream = new StreamDecoder(Small);
        string[] pieces = [.. Small.Encode(text).Select(stream.Push), stream.Flush()];
        return string.Concat(pieces) == text && pieces.All(p => p.Length == 0 || (!char.IsLowSurrogate(p[0]) && !char.IsHighSurrogate(p[^1])));
    });

    [Fact]
    public void Streaming_any_ids_gives_what_decoding_gives() => Samples.Check(FsCheck.Fluent.ArbMap.Default.ArbFor<int[]>(), numbers =>
    {
        int[] ids = [.. numbers.Select(n => (int)((uint)n % Small.VocabSize))]; // mostly invalid UTF-8
        var stream = new StreamDecoder(Small, skipSpecial: true);
        // Flush ends the stream, so it must not run before the ids have been pushed.
        var text = string.Concat(ids.Select(stream.Push).ToArray());
        return text + stream.Flush() == Small.Decode(ids, skipSpecial: true);
    });

    [Fact]
    public void A_character_comes_out_with_its_last_byte()
    {
        var stream = new StreamDecoder(Small);
        var bytes = Encoding.UTF8.GetBytes("😀").Select(b => Small.IdOf(ByteLevel.CharOf(b).ToString())!.Value).ToArray();
        Assert.Equal(["", "", "", "😀"], bytes.Select(stream.Push));
        Assert.Equal("", stream.Push(bytes[0]));
        Assert.Equal("\uFFFD", stream.Flush());
        Assert.Equal("", stream.Flush());
    }

    [Theory]
    [InlineData(1)]
    [InlineData(95)]
    [InlineData(96)]
    [InlineData(97)]
    [InlineData(1000)]
    public void Long_words_are_merged_as_short_ones_are(int length)
    {
        // The definition: merge the pair of lowest rank, leftmost first, until none is left.
        var random = new Random(length);
        var word = string.Concat(Enumerable.Range(0, length).Select(_ => "abcab"[random.Next(5)]));
        var merges = new (string, string)[] { ("a", "b"), ("ab", "c"), ("b", "c"), ("a", "a"), ("abc", "abc"), ("c", "ab"), ("aa", "bc") };
        var symbols = word.Select(c => c.ToString()).ToList();
        for (; ; )
        {
            var best = Enumerable.Range(0, symbols.Count - 1).Select(i => (Rank: Array.IndexOf(merges, (symbols[i], symbols[i + 1])), At: i))
                .Where(p => p.Rank >= 0).Order().FirstOrDefault((-1, -1));
            if (best.Item1 < 0)
                break;
            symbols[best.Item2] += symbols[best.Item2 + 1];
            symbols.RemoveAt(best.Item2 + 1);
        }
        var tokenizer = TokenizerJsonTests.Make(merges);
        Assert.Equal(symbols, tokenizer.Encode(word).Select(tokenizer.TokenText));
        Assert.Equal(tokenizer.Encode(word), tokenizer.Encode(word)); // from the table of known words
    }

    [Theory]
    [InlineData("a")]
    [InlineData(" ")]
    [InlineData("\n")]
    [InlineData("哈")]
    [InlineData("<")]
    [InlineData("7")]
    [InlineData("\u0301")]
    [InlineData("😀")]
    public void A_megabyte_of_one_character_takes_no_more_than_its_share(string character)
    {
        var text = string.Concat(Enumerable.Repeat(character, 1_000_000 / Encoding.UTF8.GetByteCount(character)));
        var clock = System.Diagnostics.Stopwatch.StartNew();
        Assert.Equal(text, Small.Decode(Small.Encode(text)));
        // Quadratic work would take hours; 0.1 to 0.5 s were measured.
        Assert.InRange(clock.Elapsed.TotalSeconds, 0, 20);
    }

    [Fact]
    public void Special_tokens_in_the_text_are_found_and_none_is_added()
    {
        int[] ids = [Small.BosId!.Value, Small.IdOf("<｜User｜>")!.Value, .. Small.Encode("今天 <｜Use"), Small.EosId!.Value];
        Assert.Equal(ids, Small.Encode("<｜begin▁of▁sentence｜><｜User｜>今天 <｜Use<｜end▁of▁sentence｜>"));
        Assert.Equal("今天 <｜Use", Small.Decode(ids, skipSpecial: true));
        Assert.Empty(Small.Encode(""));
    }

    [Fact]
    public void Token_text_shows_what_cannot_be_printed()
    {
        Assert.Equal("\\xE4", Small.TokenText(Small.IdOf(ByteLevel.CharOf(0xE4).ToString())!.Value));
        Assert.Equal("\\n", Small.TokenText(Small.IdOf("Ċ")!.Value));
        Assert.Equal("<｜User｜>", Small.TokenText(3));
        Assert.All(Enumerable.Range(0, Small.VocabSize), id => Assert.DoesNotContain('\uFFFD', Small.TokenText(id)));
    }

    [Fact]
    public void An_id_outside_the_vocabulary_is_named()
    {
        var error = Assert.Throws<ArgumentOutOfRangeException>(() => Small.Decode([Small.VocabSize]));
        Assert.Contains($"no token {Small.VocabSize}", error.Message);
        Assert.Throws<ArgumentOutOfRangeException>(() => Small.TokenText(-1));
    }

    [Fact]
    public void Threads_do_not_disturb_each_other()
    {
        string[] texts = [.. Enumerable.Range(0, 2000).Select(i => $"{i} 主人今天{i % 17}喵 the cat {i * 31}")];
        int[][] expected = [.. texts.Select(t => Small.Encode(t))];
        Assert.Equal(expected, texts.AsParallel().AsOrdered().WithDegreeOfParallelism(8).Select(t => Small.Encode(t)));
    }
}
