using KtNotebooks.Tokenizers;
using Xunit;

namespace KtNotebooks.Tests.Tokenizers;

public class PatternTests
{
    private const string DeepSeekWords = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+";
    private const string Qwen = @"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

    [Theory]
    [InlineData(@"\p{N}{1,3}", "12345x", "123|45")]
    [InlineData(@"\p{N}{1,3}", "𝟙𝟚𝟛𝟜", "𝟙𝟚𝟛|𝟜")] // digits beyond U+FFFF count as one each
    [InlineData("[一-龥぀-ゟ゠-ヿ]+", "a汉字かな𠀀カ", "汉字かな|カ")]
    [InlineData(@"\p{L}+", "𐐀𐐨 𠀀é😀", "𐐀𐐨|𠀀é")]
    [InlineData(@"\p{S}", "😀", "😀")]
    [InlineData(@"(?i:'s|'ll)", "'S'ſ'LL'x", "'S|'ſ|'LL")] // long s folds to s
    [InlineData(@"a+?b|a", "aab", "aab")]
    [InlineData(@"a++a|b", "aab", "b")] // a possessive loop gives nothing back
    [InlineData(@"\s+(?!\S)|\s+", "a   b ", "  | | ")]
    [InlineData(@"(?<!a)b", "abbb", "b|b")]
    [InlineData(@"(?<=a)b", "abbb", "b")]
    [InlineData(@"(?:ab){2,3}", "abababab ab", "ababab")]
    [InlineData(@"(?:ab)?c", "abcc", "abc|c")]
    [InlineData(@"[\p{L}&&[^\p{Han}]]+", "ab汉cd", "ab|cd")]
    [InlineData(@"[^\x{61}-\u0063]", "abcd", "d")]
    [InlineData(@"[a\-z\]]+", "a-z]b", "a-z]")]
    [InlineData(@"x{,2}y", "xxxy", "xxy")]
    [InlineData(@"{a}", "{a}", "{a}")]
    [InlineData(@"^a|c$", "aab\nac", "a|a|c")]
    [InlineData(@"\Aa|c\z", "aab\nac", "a|c")]
    [InlineData(@"\P{L}", "a1b", "1")]
    [InlineData(@"[^\P{L}b]", "a1b", "a")]
    [InlineData("a*", "baa", "aa")] // an empty match is none
    public void Finds(string regex, string text, string expected) => Assert.Equal(expected, string.Join('|', Matches(regex, text)));

    [Theory]
    [InlineData("Hello,world  (x) 12\r\n", "Hello|,world| | (|x|)| |\r\n")]
    [InlineData("好的。  \n\n 再见", "好的|。|  \n\n| 再见")]
    [InlineData("e\u0301t \u0301x", "e\u0301t| \u0301x")]
    [InlineData("don't 'll", "don|'t| '|ll")]
    public void Deep_seek_cuts_as_upstream(string text, string expected) => Assert.Equal(expected, string.Join('|', Matches(DeepSeekWords, text)));

    [Theory]
    [InlineData("I'LL don't 42 \n x", "I|'LL| don|'t| |4|2| \n| x")]
    public void Qwen_cuts_as_upstream(string text, string expected) => Assert.Equal(expected, string.Join('|', Matches(Qwen, text)));

    [Theory]
    [InlineData(@"(a|bc)*", "without a bound")]
    [InlineData(@"[[:alpha:]]", "POSIX")]
    [InlineData(@"\p{Klingon}", "Klingon")]
    [InlineData(@"(a", "not closed")]
    [InlineData(@"[a", "not closed")]
    [InlineData(@"a)", "unmatched")]
    [InlineData(@"(?<=ab)c", "look-behind")]
    [InlineData(@"\b", @"\b")]
    [InlineData(@"+", "nothing to repeat")]
    [InlineData(@"a\", "backslash at the end")]
    public void Refuses_by_name_what_it_cannot_do(string regex, string expected) =>
        Assert.Contains(expected, Assert.Throws<NotSupportedException>(() => Pattern.Parse(regex)).Message);

    [Theory]
    [InlineData("[abc")]
    [InlineData("(?i")]
    [InlineData("[a-")]
    [InlineData("[\\")]
    [InlineData("a{2")]
    [InlineData("\\x{")]
    [InlineData("(?<")]
    [InlineData("[a&&")]
    public void A_cut_off_pattern_is_refused_or_read_literally(string regex)
    {
        if (Record.Exception(() => Pattern.Parse(regex)) is { } error)
            Assert.IsType<NotSupportedException>(error);
    }

    [Fact]
    public void Sets_follow_the_laws_of_sets()
    {
        var letters = CodePointSet.Range('a', 'f');
        var some = CodePointSet.Ranges('d', 'k', 0x20000, 0x20010);
        foreach (var c in new[] { 'a', 'd', 'f', 'g', 'z', 0, 0x20005, 0x10FFFF })
        {
            Assert.Equal(letters.Contains(c) || some.Contains(c), (letters | some).Contains(c));
            Assert.Equal(letters.Contains(c) && some.Contains(c), (letters & some).Contains(c));
            Assert.Equal(!some.Contains(c), (~some).Contains(c));
            Assert.Equal(some.Contains(c), (~~some).Contains(c));
        }
        Assert.True(CodePointSet.All.Contains(0x10FFFF));
        Assert.False((~CodePointSet.All).Contains(0));
    }

    private static List<string> Matches(string regex, string text)
    {
        var pattern = Pattern.Parse(regex);
        var found = new List<string>();
        for (var at = 0; pattern.Find(text, at, out var start, out var end); at = end)
            found.Add(text[start..end]);
        return found;
    }
}
