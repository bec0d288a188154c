using System.Diagnostics;
using System.Text.Json.Nodes;

using Xunit;

namespace KtNotebooks.Tests.Cli;

/// <summary>What ends the program from outside: a closed terminal, the system, and a person who does not want to wait.</summary>
public class SignalTests
{
    [Theory]
    [InlineData("HUP")]
    [InlineData("TERM")]
    public void A_closed_terminal_and_the_system_save_as_Ctrl_C_does(string signal)
    {
        using var place = new Workplace();
        using var kt = Kt.Start(place.Train("max_steps=100000", "save_steps=0"));
        kt.Until(() => File.Exists(Path.Combine(place.Output, "trainer_log.jsonl")));
        kt.Signal(signal);
        var (exit, output, errors) = kt.End();
        Assert.Equal((130, ""), (exit, errors));
        var reached = JsonNode.Parse(File.ReadAllText(Path.Combine(place.Output, "trainer_state.json")))!["global_step"]!.GetValue<int>();
        Assert.Contains($"stopped after step {reached} of 100000", output, StringComparison.Ordinal);
        Assert.True(File.Exists(Path.Combine(place.Output, $"checkpoint-{reached}", "optimizer.safetensors")));
        Assert.Empty(Directory.GetFileSystemEntries(place.Output, ".*", SearchOption.AllDirectories)); // no lock, nothing half-written
    }

    [Fact]
    public void A_second_Ctrl_C_ends_what_cannot_be_cancelled()
    {
        using var place = new Workplace();
        // Learns a tokenizer from a million rows before it trains, which looks at no signal.
        using var kt = Kt.Start("pretrain", $"model_config={Path.Combine(place.Model, "config.json")}", $"output_dir={place.Output}",
            "tokenizer_rows=100000000");
        Thread.Sleep(1500); // until it is at it
        kt.Signal("INT");
        Thread.Sleep(300);
        Assert.False(kt.HasEnded, "one Ctrl-C asks, it does not break off");
        var watch = Stopwatch.StartNew();
        kt.Signal("INT");
        Assert.Equal(130, kt.End().Exit);
        Assert.InRange(watch.Elapsed.TotalSeconds, 0, 2);
    }

    [Fact]
    public void Two_runs_do_not_write_into_one_folder()
    {
        using var place = new Workplace();
        using var kt = Kt.Start(place.Train("max_steps=100000", "save_steps=0"));
        kt.Until(() => File.Exists(Path.Combine(place.Output, "trainer_log.jsonl")));
        foreach (var second in new[] { place.Train("overwrite_output_dir=true"),
            ["predict", $"model_name_or_path={place.Model}", $"dataset_dir={Path.Combine(place.Root, "data")}", "eval_dataset=good", "template=deepseek",
            $"output_dir={place.Output}"] })
            Assert.Matches($"^output_dir {place.Output}: a training run \\(process \\d+ on .*, since .*\\) works there; wait until it ends, or give "
                + $"another output_dir$", Kt.Refuses(second));
        kt.Kill();
        kt.End();
        Assert.Equal(0, Kt.Run(place.Train("overwrite_output_dir=true")).Exit); // whose holder is gone
    }
}
