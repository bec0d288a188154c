using System.Text.Json;
using KtNotebooks.Tokenizers;
using Xunit;

namespace KtNotebooks.Tests.Tokenizers;

public class PreTokenizerTests
{
    // The documented behaviours, on the example of Hugging Face's own documentation: split "the-final--countdown" at "-".
    [Theory]
    [InlineData("Removed", "the|final|countdown")]
    [InlineData("Isolated", "the|-|final|-|-|countdown")]
    [InlineData("MergedWithPrevious", "the-|final-|-|countdown")]
    [InlineData("MergedWithNext", "the|-final|-|-countdown")]
    [InlineData("Contiguous", "the|-|final|--|countdown")]
    public void Split_behaves_as_documented(string behavior, string expected) =>
        Assert.Equal(expected, Cut($$"""{"type":"Split","pattern":{"String":"-"},"behavior":"{{behavior}}","invert":false}""", "the-final--countdown"));

    [Fact]
    public void Invert_takes_what_is_between() =>
        Assert.Equal("1|23", Cut("""{"type":"Split","pattern":{"Regex":"\\d+"},"behavior":"Removed","invert":true}""", "a1bc23d"));

    [Theory]
    [InlineData("true", "a|1|2|3|b|𝟙")]
    [InlineData("false", "a|123|b|𝟙")]
    public void Digits_stand_alone_or_together(string each, string expected) =>
        Assert.Equal(expected, Cut($$"""{"type":"Digits","individual_digits":{{each}}}""", "a123b𝟙"));

    [Theory]
    [InlineData(true, true, " Hello| I|'m|  | here|!")]
    [InlineData(false, true, "Hello| I|'m|  | here|!")]
    [InlineData(true, false, " Hello I'm   here!")]
    public void Byte_level_cuts_as_gpt2(bool prefix, bool regex, string expected) =>
        Assert.Equal(expected, Cut(null, "Hello I'm   here!",
            $$"""{"type":"ByteLevel","add_prefix_space":{{Json(prefix)}},"trim_offsets":true,"use_regex":{{Json(regex)}}}"""));

    [Fact]
    public void Stages_work_on_the_pieces_of_the_stage_before()
    {
        const string Stages = """
            {"type":"Sequence","pretokenizers":[
              {"type":"Split","pattern":{"Regex":"\\p{N}{1,3}"},"behavior":"Isolated","invert":false},
              {"type":"Split","pattern":{"Regex":"\\s+(?!\\S)|\\S+"},"behavior":"Isolated","invert":false}]}
            """;
        // The space before 1234 ends its piece, so the look-ahead sees the end of the text.
        Assert.Equal("a| |123|4|b", Cut(Stages, "a 1234b"));
    }

    [Fact]
    public void A_tokenizer_that_is_not_byte_level_is_refused()
    {
        using var json = JsonDocument.Parse("""{"type":"Digits","individual_digits":true}""");
        Assert.Contains("ByteLevel", Assert.Throws<NotSupportedException>(() => TokenizerComponents.ReadPreTokenizer(json.RootElement)).Message);
    }

    private static string Json(bool value) => value ? "true" : "false";

    private static string Cut(string? stage, string text,
        string byteLevel = """{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}""")
    {
        using var json = JsonDocument.Parse($$"""{"type":"Sequence","pretokenizers":[{{(stage is null ? "" : stage + ",")}}{{byteLevel}}]}""");
        var gathered = new Gathered();
        TokenizerComponents.ReadPreTokenizer(json.RootElement).Connect(gathered).Add(text, 0, text.Length);
        return string.Join('|', gathered.Pieces);
    }

    private sealed class Gathered : PieceSink
    {
        public List<string> Pieces { get; } = [];

        public override void Add(string text, int start, int end) => Pieces.Add(text[start..end]);
    }
}
