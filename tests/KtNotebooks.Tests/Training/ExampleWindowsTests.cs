using KtNotebooks.Data;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Training;

public class ExampleWindowsTests
{
    private const int Not = -100;

    // Targets (next tokens that are learned): 3, 1, 2.
    private static readonly EncodedExample[] Three = [new([1, 2, 3, 4], [1, 2, 3, 4], "x:1"), new([5, 6], [Not, 6], "x:2"), new([7, 8, 9], [Not, 8, 9], "x:3")];

    [Fact]
    public void By_token_every_target_of_the_window_weighs_the_same()
    {
        var batch = Window(batch: 2, accumulation: 2, LossReduction.Token);
        Assert.Equal(6, batch.Targets);
        Assert.All(batch.Labels.Zip(batch.Weights), p => Assert.Equal(p.First >= 0 ? 1f / 6 : 0, p.Second));
    }

    [Fact]
    public void By_micro_batch_each_mean_weighs_the_same()
    {
        // One example a micro-batch, three of them: (1/3 of 1/3), (1/3 of 1/1), (1/3 of 1/2).
        var batch = Window(batch: 1, accumulation: 3, LossReduction.Micro);
        for (var s = 0; s < 3; s++)
        {
            var weights = batch.Weights[batch.SeqStarts[s]..batch.SeqStarts[s + 1]].Where(w => w > 0).ToArray();
            Assert.All(weights, w => Assert.Equal(1f / (3 * weights.Length), w));
        }
        Assert.Equal(1, batch.Weights.Sum(w => (double)w), 6);
    }

    [Fact]
    public void Labels_are_those_of_the_next_position()
    {
        var batch = ExampleWindows.Batch(Three);
        Assert.Equal([1, 2, 3, 4, 5, 6, 7, 8, 9], batch.Ids);
        Assert.Equal([2, 3, 4, Not, 6, Not, 8, 9, Not], batch.Labels);
        Assert.Equal([0, 1, 2, 3, 0, 1, 0, 1, 2], batch.Positions);
        Assert.Equal([0, 4, 6, 9], batch.SeqStarts);
    }

    [Fact]
    public void An_epoch_visits_every_example_once_in_its_own_order()
    {
        var examples = Enumerable.Range(0, 25).Select(i => new EncodedExample([i, i], [i, i], $"x:{i}")).ToArray();
        var windows = new ExampleWindows(examples, 2, 3, epochs: 3, maxSteps: -1, LossReduction.Token, seed: 4);
        Assert.Equal(15, windows.TotalSteps);
        var epochs = Enumerable.Range(0, 15).Select(s => windows.At(s, Stop).Batch.Ids.Where((_, i) => i % 2 == 0).ToArray()).Chunk(5)
            .Select(w => w.SelectMany(ids => ids).ToArray()).ToArray();
        Assert.All(epochs, e => Assert.Equal(Enumerable.Range(0, 25), e.Order()));
        Assert.NotEqual(epochs[0], epochs[1]);
        Assert.Equal([6, 6, 6, 6, 1], Enumerable.Range(0, 5).Select(s => windows.At(s, Stop).Batch.Sequences));
        Assert.Equal([0.2, 0.4, 0.6, 0.8, 1, 1.2], Enumerable.Range(0, 6).Select(s => Math.Round(windows.At(s, Stop).Epoch, 12)));
    }

    [Fact]
    public void A_step_gives_the_same_window_whenever_it_is_asked()
    {
        var examples = Enumerable.Range(0, 25).Select(i => new EncodedExample([i, i], [i, i], $"x:{i}")).ToArray();
        ExampleWindows Make() => new(examples, 1, 4, epochs: 2, maxSteps: -1, LossReduction.Token, seed: 4);
        var straight = Make();
        var ids = Enumerable.Range(0, straight.TotalSteps).Select(s => straight.At(s, Stop).Batch.Ids).ToArray();
        for (var s = 0; s < ids.Length; s++) Assert.Equal(ids[s], Make().At(s, Stop).Batch.Ids);
    }

    [Theory]
    [InlineData(0, 1, 1, "per_device_train_batch_size must be at least 1, but is 0")]
    [InlineData(1, 0, 1, "gradient_accumulation_steps must be at least 1, but is 0")]
    [InlineData(1, 1, 0, "num_train_epochs must be positive, but is 0")]
    [InlineData(1, 1, -2, "num_train_epochs must be positive, but is -2")]
    [InlineData(1, 1, double.NaN, "num_train_epochs must be positive, but is NaN")]
    [InlineData(1, 1, 1e9, "num_train_epochs 1000000000 would be 3.00e+09 steps, more than 2147483647")]
    public void Impossible_sizes_are_named(int batch, int accumulation, double epochs, string message) =>
        Assert.Equal(message, Assert.Throws<ArgumentException>(() =>
            new ExampleWindows(Three, batch, accumulation, epochs, -1, LossReduction.Token, 1)).Message);

    [Theory]
    [InlineData(0)]
    [InlineData(-2)]
    public void Max_steps_is_positive_or_minus_one(int steps) =>
        Assert.Equal($"max_steps must be positive, or -1 for what num_train_epochs comes to, but is {steps}",
            Assert.Throws<ArgumentException>(() => new ExampleWindows(Three, 1, 1, 1, steps, LossReduction.Token, 1)).Message);

    [Theory]
    [InlineData(int.MaxValue, 1)]
    [InlineData(1, int.MaxValue)]
    [InlineData(int.MaxValue, int.MaxValue)]
    public void A_window_larger_than_the_data_is_all_of_it(int batch, int accumulation)
    {
        var windows = new ExampleWindows(Three, batch, accumulation, 2, -1, LossReduction.Micro, 1);
        var expected = new ExampleWindows(Three, batch == 1 ? 1 : 3, batch == 1 ? 3 : 1, 2, -1, LossReduction.Micro, 1);
        Assert.Equal((2, 2), (windows.TotalSteps, windows.Epochs));
        for (var step = 0; step < 2; step++)
        {
            Assert.Equal(expected.At(step, Stop).Batch.Ids, windows.At(step, Stop).Batch.Ids);
            Assert.Equal(expected.At(step, Stop).Batch.Weights, windows.At(step, Stop).Batch.Weights);
            Assert.Equal(step + 1, windows.At(step, Stop).Epoch);
        }
    }

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    private static KtNotebooks.Nn.TokenBatch Window(int batch, int accumulation, LossReduction reduction) =>
        new ExampleWindows(Three, batch, accumulation, 1, -1, reduction, 1).At(0).Batch;
}
