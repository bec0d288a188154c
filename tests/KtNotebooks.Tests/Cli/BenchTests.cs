using Xunit;

namespace KtNotebooks.Tests.Cli;

public class BenchTests
{
    [Fact]
    public void Attention_is_checked_and_measured_on_the_cpu()
    {
        var (exit, output, errors) = Kt.Run("bench", "attention", "--device", "cpu", "--seq", "20", "--tokens", "50", "--heads", "4", "--kv-heads", "2", "--d", "24", "--dv", "16");
        Assert.True(exit == 0, errors);
        Assert.Contains("check on 50 tokens in sequences of 20, heads 4/2 × 24/16: relative error out ", output, StringComparison.Ordinal);
        Assert.Matches(@"forward +[\d.]+ ms +[\d.]+ TFLOP/s\n +backward +-?[\d.]+ ms", output);
    }

    [Fact]
    public void Heads_that_cannot_be_shared_are_refused() =>
        Assert.Equal("--heads 3 must be a multiple of --kv-heads 2", Kt.Refuses("bench", "attention", "--device", "cpu", "--heads", "3", "--kv-heads", "2"));
}
