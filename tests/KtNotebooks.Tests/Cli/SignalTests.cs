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

    [Theory]
    [InlineData("train")]
    [InlineData("predict")]
    public void The_first_Ctrl_C_acts_while_rows_are_read(string command)
    {
        using var place = new Workplace();
        using (var rows = File.CreateText(Path.Combine(place.Root, "data", "many.jsonl")))
            for (var i = 0; i < 1_500_000; i++) rows.WriteLine($$"""{"instruction": "What is the weather on day {{i}}?", "output": "The weather is fine."}""");
        place.Write("data/dataset_info.json", """{"many": {"file_name": "many.jsonl"}}""");
        using var kt = Kt.Start(command == "train" ? place.Train("dataset=many") : ["predict", $"model_name_or_path={place.Model}",
            $"dataset_dir={Path.Combine(place.Root, "data")}", "eval_dataset=many", "template=deepseek", $"output_dir={place.Output}"]);
        Thread.Sleep(1500); // reading takes several times that
        Assert.False(kt.HasEnded);
        var watch = Stopwatch.StartNew();
        kt.Signal("INT");
        var (exit, output, errors) = kt.End();
        Assert.True((exit, errors) == (130, "stopped\n"), $"{exit}\n{output}\n{errors}");
        Assert.InRange(watch.Elapsed.TotalSeconds, 0, 3);
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
