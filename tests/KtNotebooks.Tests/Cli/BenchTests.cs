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

    [Fact]
    public void The_cpu_kernels_have_their_shares_in_json()
    {
        var (exit, output, errors) = Kt.Run("bench", "cpu", "--json", "--experts", "8", "--width", "128", "--inner", "96", "--top-k", "2", "--tokens", "64",
            "--few", "1", "5", "--size", "128");
        if (exit != 0 && errors.Contains("the native library is not in use", StringComparison.Ordinal)) Assert.Skip(errors);
        Assert.True(exit == 0, errors);
        using var json = JsonDocument.Parse(output);
        var result = json.RootElement;
        Assert.All((string[])["forward_ms", "backward_ms", "total_ms", "forward_tflops", "total_tflops", "forward_peak_share", "total_peak_share",
            "peak_tflops", "read_gb_per_s", "product_peak_share", "thread_speed_up"],
            key => Assert.True(result.GetProperty(key).GetDouble() > 0, key));
        Assert.All((string[])["lora_ms", "loop_us"], key => Assert.Equal(JsonValueKind.Number, result.GetProperty(key).ValueKind)); // may be 0
        Assert.InRange(result.GetProperty("max_rel_error").GetDouble(), 1e-7, 0.02);
        var few = result.GetProperty("few").EnumerateArray().ToList();
        Assert.Equal(from format in KtNotebooks.Formats.StorageFormat.BankNames from tokens in (int[])[1, 5] select (format, tokens),
            few.Select(f => (f.GetProperty("format").GetString()!, f.GetProperty("tokens").GetInt32())));
        Assert.All(few, f => Assert.All((string[])["ms", "gb_per_s", "bandwidth_share"], key => Assert.True(f.GetProperty(key).GetDouble() > 0, key)));
    }
}
