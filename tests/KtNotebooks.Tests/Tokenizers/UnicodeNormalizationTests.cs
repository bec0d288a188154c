using System.Text;
using KtNotebooks.Tokenizers;
using Xunit;

namespace KtNotebooks.Tests.Tokenizers;

public class UnicodeNormalizationTests
{
    // Rows of Unicode's NormalizationTest.txt: source, then NFC, NFD, NFKC, NFKD.
    [Theory]
    [InlineData("\u1E0A", "\u1E0A", "D\u0307", "\u1E0A", "D\u0307")]
    [InlineData("\u1E0A\u0323", "\u1E0C\u0307", "D\u0323\u0307", "\u1E0C\u0307", "D\u0323\u0307")] // marks are reordered
    [InlineData("D\u0307\u0323", "\u1E0C\u0307", "D\u0323\u0307", "\u1E0C\u0307", "D\u0323\u0307")]
    [InlineData("\u0958", "\u0915\u093C", "\u0915\u093C", "\u0915\u093C", "\u0915\u093C")] // excluded from composition
    [InlineData("\u212B", "\u00C5", "A\u030A", "\u00C5", "A\u030A")] // Angstrom sign: a singleton
    [InlineData("\uFB01", "\uFB01", "\uFB01", "fi", "fi")]
    [InlineData("\uAC01", "\uAC01", "\u1100\u1161\u11A8", "\uAC01", "\u1100\u1161\u11A8")]
    [InlineData("\uAC00\u11A8", "\uAC01", "\u1100\u1161\u11A8", "\uAC01", "\u1100\u1161\u11A8")]
    [InlineData("\U0001D15E", "\U0001D157\U0001D165", "\U0001D157\U0001D165", "\U0001D157\U0001D165", "\U0001D157\U0001D165")]
    [InlineData("\U0002F800", "\u4E3D", "\u4E3D", "\u4E3D", "\u4E3D")]
    [InlineData("a\u0315\u0300\u05AE\u0062", "\u00E0\u05AE\u0315b", "a\u05AE\u0300\u0315b", "\u00E0\u05AE\u0315b", "a\u05AE\u0300\u0315b")]
    [InlineData("1\u20E3 \u00BD\u3000", "1\u20E3 \u00BD\u3000", "1\u20E3 \u00BD\u3000", "1\u20E3 1\u20442 ", "1\u20E3 1\u20442 ")]
    public void Forms_are_those_of_the_standard(string source, string c, string d, string kc, string kd)
    {
        Assert.Equal(c, UnicodeNormalization.Normalize(source, NormalizationForm.FormC));
        Assert.Equal(d, UnicodeNormalization.Normalize(source, NormalizationForm.FormD));
        Assert.Equal(kc, UnicodeNormalization.Normalize(source, NormalizationForm.FormKC));
        Assert.Equal(kd, UnicodeNormalization.Normalize(source, NormalizationForm.FormKD));
    }

    [Fact]
    public void Normalising_twice_changes_nothing() => Samples.Check(Samples.ValidText, text =>
        Enum.GetValues<NormalizationForm>().All(form =>
            UnicodeNormalization.Normalize(text, form) is var once && UnicodeNormalization.Normalize(once, form) == once)
        && UnicodeNormalization.Normalize(UnicodeNormalization.Normalize(text, NormalizationForm.FormD), NormalizationForm.FormC)
            == UnicodeNormalization.Normalize(text, NormalizationForm.FormC));

    [Fact]
    public void Text_that_cannot_change_is_not_copied()
    {
        const string Text = "plain text, déjà composed";
        Assert.Same(Text, UnicodeNormalization.Normalize(Text, NormalizationForm.FormC));
    }
}
