using KtNotebooks.Course;

using Xunit;

namespace KtNotebooks.Tests.Course;

[Collection("Console")]
public class CheckTests
{
    [Fact]
    public void Answers_are_judged_and_never_told()
    {
        Assert.Equal("○ n: not answered yet", Said(() => Check.That("n", (double?)null, 3)));
        Assert.Equal("✓ n", Said(() => Check.That("n", 3.0000001, 3)));
        Assert.Equal("✗ n: 2.5 is too small", Said(() => Check.That("n", 2.5, 3)));
        Assert.Equal("✗ n: 4 is too large", Said(() => Check.That("n", 4, 3)));
        Assert.Equal("✗ n: NaN is no number", Said(() => Check.That("n", double.NaN, 3)));
        Assert.Equal("✓ n", Said(() => Check.That("n", 0, 0)));
        Assert.Equal("✓ n", Said(() => Check.That("n", 3.2, 3, within: 0.1)));
        Assert.Equal("✗ word: b is not it", Said(() => Check.That("word", "b", "a")));
        Assert.Equal("○ word: not answered yet", Said(() => Check.That("word", (string?)null, "a")));
        Assert.Equal("✗ holds: look again", Said(() => Check.That("holds", (bool?)false)));
        Assert.Equal("holds: it", Said(() => Check.Holds("it", true)));
        Assert.Equal("does not hold: it", Assert.Throws<InvalidOperationException>(() => Check.Holds("it", false)).Message);
    }

    private static string Said(Action check)
    {
        var before = Console.Out;
        using var writer = new StringWriter();
        Console.SetOut(writer);
        try
        {
            check();
        }
        finally
        {
            Console.SetOut(before);
        }
        return writer.ToString().Trim();
    }
}
