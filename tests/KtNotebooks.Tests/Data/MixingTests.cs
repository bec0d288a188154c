using KtNotebooks.Data;
using Xunit;

namespace KtNotebooks.Tests.Data;

public class MixingTests
{
    private static readonly string[][] Sets = [["a1", "a2", "a3"], ["b1"], ["c1", "c2"]];

    // What Hugging Face's interleave_datasets gives without probabilities.
    [Theory]
    [InlineData("concat", "a1 a2 a3 b1 c1 c2")]
    [InlineData("interleave_under", "a1 b1 c1")]
    [InlineData("interleave_over", "a1 b1 c1 a2 b1 c2 a3 b1 c1")]
    [InlineData("interleave_once", "a1 b1 c1 a2 c2 a3")]
    public void Sets_take_turns(string strategy, string expected) => Assert.Equal(expected, string.Join(' ', Mixing.Mix(Sets, strategy)));

    [Theory]
    [InlineData("interleave_under")]
    [InlineData("interleave_over")]
    [InlineData("interleave_once")]
    public void Chances_decide_whose_turn_it_is(string strategy)
    {
        int[][] sets = [[.. Enumerable.Range(0, 1000)], [.. Enumerable.Range(10_000, 1000)]];
        var mixed = Mixing.Mix(sets, strategy, [0.8, 0.2]);
        Assert.Equal(mixed, Mixing.Mix(sets, strategy, [0.8, 0.2]));
        Assert.NotEqual(mixed, Mixing.Mix(sets, strategy, [0.8, 0.2], seed: 7));
        Assert.InRange(mixed.Take(1000).Count(i => i < 10_000), 750, 850);
        Assert.Equal(strategy != "interleave_under", sets.SelectMany(s => s).All(mixed.Contains));
        Assert.Equal(strategy == "interleave_once", mixed.Count == 2000);
    }

    [Fact]
    public void A_set_without_a_chance_is_never_drawn() => Assert.Equal(["b1"], Mixing.Mix(Sets, "interleave_over", [0, 1, 0]));

    [Theory]
    [InlineData("interleave", null, "Did you mean 'interleave_")]
    [InlineData("interleave_over", "0.5 0.5", "must hold 3 numbers")]
    [InlineData("interleave_over", "0.5 0.5 0.5", "together 1")]
    [InlineData("interleave_over", "-1 1 1", "0 or more")]
    [InlineData("interleave_over", "0.9999999999 0.0000000001 0", "gives data set 2, which has 1 rows, a chance of 1E-10")]
    [InlineData("interleave_once", "0.9999999999 0 0.0000000001", "gives data set 3")]
    public void Wrong_mixes_are_refused(string strategy, string? chances, string expected) =>
        Assert.Contains(expected, Assert.Throws<ArgumentException>(() =>
            Mixing.Mix(Sets, strategy, chances?.Split(' ').Select(double.Parse).ToArray())).Message);
}
