using KtNotebooks.Tokenizers;
using Xunit;

namespace KtNotebooks.Tests.Tokenizers;

public class PatternTests
{
    private const string DeepSeekWords =
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+";
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
    [InlineData(@"a{5,2}", "a repetition from 5 down to 2")]
    [InlineData(@"a{99999999999}", "more than 1,000,000 repetitions")]
    [InlineData(@"\x{FFFFFFFF}", "beyond U+10FFFF")]
    [InlineData(@"((((a{1,2}b){16}){16}){16}){16}", "is too large")]
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
    public void Long_and_deep_patterns_are_refused()
    {
        Assert.Contains("brackets more than 100 deep", Assert.Throws<NotSupportedException>(() =>
            Pattern.Parse(new string('(', 5000) + new string(')', 5000))).Message);
        Assert.Contains("brackets more than 100 deep", Assert.Throws<NotSupportedException>(() =>
            Pattern.Parse(new string('[', 5000) + new string(']', 5000))).Message);
        Assert.Contains("has 1,999,999 characters; at most 10,000", Assert.Throws<NotSupportedException>(() =>
            Pattern.Parse(string.Join('|', Enumerable.Repeat('a', 1_000_000)))).Message);
        Assert.Contains("over too many large classes", Assert.Throws<NotSupportedException>(() =>
            Pattern.Parse("(?i)" + string.Concat(Enumerable.Repeat(@"[\x{0}-\x{10FFFF}]", 500)))).Message);
    }

    /// <summary>The real patterns stay far below the limit of work, on the texts that are hardest for them too.</summary>
    [Theory]
    [InlineData("a")]
    [InlineData(" ")]
    [InlineData("A")]
    [InlineData("!")]
    [InlineData("\n ")]
    [InlineData("e\u0301")]
    public void A_megabyte_of_one_thing_is_within_the_limit(string unit)
    {
        var text = string.Concat(Enumerable.Repeat(unit, 500_000)) + "x";
        foreach (var regex in new[] { DeepSeekWords, Qwen }) Assert.Equal(text.Length, Matches(regex, text).Sum(m => m.Length));
    }

    [Fact]
    public void The_other_case_of_a_class_is_that_of_each_letter()
    {
        var set = CodePointSet.Ranges('A', 'C', 'x', 'x', 0x3B1, 0x3B3).IgnoringCase();
        foreach (var c in "abcABCxXαβγΑΒΓ") Assert.True(set.Contains(c), c.ToString());
        foreach (var c in "dDyYδΔ1") Assert.False(set.Contains(c), c.ToString());
        Assert.Equal(14, set.Count);
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
        var steps = Pattern.StepsFor(text.Length);
        for (var at = 0; pattern.Find(text, at, ref steps, out var start, out var end); at = end)
            found.Add(text[start..end]);
        return found;
    }
}
