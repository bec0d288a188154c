using System.Text.Json;

using KtNotebooks.Bench;

using Xunit;

namespace KtNotebooks.Tests.Cli;

public class BenchTests
{
    [Fact]
    public void Attention_is_checked_and_measured_on_the_cpu()
    {
        var (exit, output, errors) = Kt.Run("bench", "attention", "--device", "cpu", "--seq", "20", "--tokens", "50", "--heads", "4", "--kv-heads", "2", "--d",
            "24", "--dv", "16");
        Assert.True(exit == 0, errors);
        Assert.Contains("check on 50 tokens in sequences of 20, heads 4/2 × 24/16: relative error out ", output, StringComparison.Ordinal);
        Assert.Matches(@"forward +[\d.]+ ms +[\d.]+ TFLOP/s\n +backward +-?[\d.]+ ms", output);
    }

    [Fact]
    public void Heads_that_cannot_be_shared_are_refused() =>
        Assert.Equal("--heads 3 must be a multiple of --kv-heads 2", Kt.Refuses("bench", "attention", "--device", "cpu", "--heads", "3", "--kv-heads", "2"));

    [Fact]
    public void Every_kernel_has_a_row_with_its_rate_and_its_share()
    {
        var (exit, output, errors) = Kt.Run("bench", "kernels", "--device", "cpu", "--rows", "16", "--width", "64");
        Assert.True(exit == 0, errors);
        Assert.All(KernelBenchmark.Names,
            name => Assert.Matches($@"  {System.Text.RegularExpressions.Regex.Escape(name)} +[\d.]+ ms +[\d.]+ (GB/s|TFLOP/s) +[\d.]+ ms +[\d,]+ ?%   \d\.\dE",
                output));
    }

    [Fact]
    public void Figures_of_kernels_are_written_as_json()
    {
        var (exit, output, errors) = Kt.Run("bench", "kernels", "--device", "cpu", "--rows", "16", "--width", "64", "--json");
        Assert.True(exit == 0, errors);
        using var json = JsonDocument.Parse(output);
        var figures = json.RootElement.GetProperty("Figures").EnumerateArray().ToList();
        Assert.Equal(KernelBenchmark.Names, figures.Select(f => f.GetProperty("Kernel").GetString()!));
        Assert.All(figures, f => Assert.All((string[])["Ms", "Rate", "FloorMs", "Share"],
            figure => Assert.True(f.GetProperty(figure).GetDouble() > 0, $"{figure} of {f}")));
    }

    [Fact]
    public void Rows_that_cannot_be_cut_are_refused() =>
        Assert.Equal("--rows must be a positive multiple of 8, but is 12", Kt.Refuses("bench", "kernels", "--device", "cpu", "--rows", "12"));
}
