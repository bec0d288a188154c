using KtNotebooks.Data;
using KtNotebooks.Optim;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Optim;

/// <summary>Schedules and step counts as LLaMA-Factory with Hugging Face's trainer has them.</summary>
public class LearningRateTests
{
    /// <summary>36 steps, ratio 0.1, base 1e-4: the rate that is logged after step s, which is that of the next update.</summary>
    [Theory]
    [InlineData("cosine", 1, 2.5e-5)]
    [InlineData("cosine", 4, 1e-4)]
    [InlineData("cosine", 10, 9.1573e-5)]
    [InlineData("cosine", 20, 5e-5)]
    [InlineData("cosine", 35, 2.41e-7)]
    [InlineData("cosine", 36, 0)]
    [InlineData("linear", 1, 2.5e-5)]
    [InlineData("linear", 4, 1e-4)]
    [InlineData("linear", 20, 5e-5)]
    [InlineData("linear", 36, 0)]
    [InlineData("constant", 1, 1e-4)]
    [InlineData("constant_with_warmup", 1, 2.5e-5)]
    [InlineData("constant_with_warmup", 30, 1e-4)]
    public void Rates_are_the_known_ones(string schedule, int step, double expected)
    {
        var settings = new TrainSettings { OutputDir = "", WarmupRatio = 0.1 };
        var rate = new LearningRate(schedule, 1e-4, settings.WarmupOf(36), 36).At(step);
        Assert.InRange(rate, expected - 5e-10, expected + 5e-10);
    }

    [Fact]
    public void The_first_update_of_a_warm_up_has_rate_zero() => Assert.Equal(0, new LearningRate("cosine", 1e-4, 4, 36).At(0));

    [Theory]
    [InlineData(36, 0.1, 0, 4)]
    [InlineData(411, 0.1, 0, 42)]
    [InlineData(411, 0.1, 7, 7)]
    [InlineData(411, 0, 0, 0)]
    public void Warm_up_steps_are_rounded_up(int total, double ratio, int steps, int expected) => Assert.Equal(expected, new TrainSettings
    {
        OutputDir = "",
        WarmupRatio = ratio,
        WarmupSteps = steps,
    }.WarmupOf(total));

    [Theory]
    [InlineData(91, 1, 8, 3, -1, 36)]
    [InlineData(1090, 1, 8, 3, -1, 411)]
    [InlineData(9477, 8, 8, 1, -1, 149)]
    [InlineData(91, 1, 8, 0.5, -1, 6)]
    [InlineData(91, 1, 8, 3, 5, 5)]
    public void Steps_count_the_short_last_window(int rows, int batch, int accumulation, double epochs, int maxSteps, int expected)
    {
        var examples = Enumerable.Repeat(new EncodedExample([1, 2], [1, 2], "x:1"), rows).ToArray();
        Assert.Equal(expected, new ExampleWindows(examples, batch, accumulation, epochs, maxSteps, LossReduction.Token, 1).TotalSteps);
    }

    [Fact]
    public void An_unknown_schedule_names_the_known_ones() =>
        Assert.Equal("lr_scheduler_type 'sine' is not known; known are cosine, linear, constant, constant_with_warmup",
            Assert.Throws<ArgumentException>(() => new LearningRate("sine", 1, 0, 10).At(1)).Message);
}
