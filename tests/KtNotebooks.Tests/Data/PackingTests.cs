using KtNotebooks.Data;
using KtNotebooks.Training;
using Xunit;

namespace KtNotebooks.Tests.Data;

public class PackingTests
{
    // Golden values of LLaMA-Factory's greedy_knapsack.
    [Theory]
    [InlineData("5 3 8 2 7", 10, "8 2 | 7 3 | 5")]
    [InlineData("9 1 1 1", 10, "9 1 | 1 1")]
    [InlineData("11 4", 10, "4")]
    [InlineData("", 10, "")]
    public void Bins_are_upstreams(string lengths, int capacity, string expected)
    {
        int[] all = [.. lengths.Split(' ', StringSplitOptions.RemoveEmptyEntries).Select(int.Parse)];
        Assert.Equal(expected, string.Join(" | ", Packing.Bins(all, capacity).Select(bin => string.Join(' ', bin.Select(i => all[i])))));
    }

    [Fact]
    public void Of_equal_lengths_the_last_row_is_taken_first() => Assert.Equal([[2, 1], [0]], Packing.Bins([4, 4, 4], 8));

    [Fact]
    public void Every_row_is_packed_once_within_its_batch()
    {
        var random = new StableRandom(3);
        EncodedExample[] rows = [.. Enumerable.Range(0, 250).Select(i => Marked(i, 1 + random.Next(30)))];
        var packed = Packing.Pack(rows, PackingMode.Neat, capacity: 64, horizon: 100);
        Assert.All(packed, p => Assert.True(p.Ids.Length <= 64 && p.Apart));
        Assert.Equal(Enumerable.Range(0, 250), packed.SelectMany(p => p.Starts.Select(s => p.Ids[s])).Order());
        Assert.True(packed.Length < 100);
        Assert.Same(rows[7], Packing.Pack(rows, PackingMode.None, 64)[7]);
        // No sequence mixes rows of two batches.
        Assert.All(packed, p => Assert.Single(p.Starts.Select(s => p.Ids[s] / 100).Distinct()));
    }

    [Fact]
    public void Shared_rows_are_one_sequence_with_positions_that_begin_anew()
    {
        var batch = ExampleWindows.Batch(Packing.Pack([Row(10, 3), Row(20, 2)], PackingMode.Shared, 8));
        Assert.Equal([10, 11, 12, 20, 21], batch.Ids);
        Assert.Equal([0, 1, 2, 0, 1], batch.Positions);
        Assert.Equal([0, 5], batch.SeqStarts);
        // As upstream, whose shift does not know the border: the last token of a row learns the first of the next where that is learned.
        Assert.Equal([11, 12, 20, 21, -100], batch.Labels);
    }

    [Fact]
    public void Neat_rows_are_sequences_of_their_own()
    {
        EncodedExample[] rows = [Row(10, 3), Row(20, 2)];
        var neat = ExampleWindows.Batch(Packing.Pack(rows, PackingMode.Neat, 8));
        var apart = ExampleWindows.Batch(rows);
        Assert.Equal([0, 3, 5], neat.SeqStarts);
        Assert.Equal((string.Join(' ', apart.Ids), string.Join(' ', apart.Positions), string.Join(' ', apart.Labels)),
            (string.Join(' ', neat.Ids), string.Join(' ', neat.Positions), string.Join(' ', neat.Labels)));
        Assert.Equal(apart.Weights, neat.Weights);
    }

    private static EncodedExample Marked(int id, int length)
    {
        int[] ids = [.. Enumerable.Repeat(id, length)];
        return new EncodedExample(ids, ids, "row");
    }

    private static EncodedExample Row(int first, int length)
    {
        int[] ids = [.. Enumerable.Range(first, length)];
        return new EncodedExample(ids, ids, $"row {first}");
    }
}
