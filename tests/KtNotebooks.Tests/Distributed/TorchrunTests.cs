using System.Diagnostics;
using System.Text.Json;

using KtNotebooks.Tests.Cli;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Distributed;

/// <summary>kt below torchrun, with its store, its signals and its restarts; on one node and on two.</summary>
public sealed class TorchrunTests : IDisposable
{
    private readonly Workplace _place = new();

    public void Dispose() => _place.Dispose();

    private string Out(string name) => Path.Combine(_place.Root, name);

    private string[] Train(string output, params string[] pairs) => _place.Train([$"output_dir={Out(output)}", "plot_loss=false", .. pairs]);

    [Fact]
    public void A_run_that_torchrun_starts_again_goes_on_without_losing_or_repeating_a_step()
    {
        const int Steps = 150;
        var arguments = Train("again", $"max_steps={Steps}", "save_steps=2", "save_total_limit=2", "lr_scheduler_type=constant");
        using var torchrun = new Torchrun(1, 2, "127.0.0.1", (_, variables) => Kt.StartWith(variables, arguments)) { Restarts = 1 };
        var starts = torchrun.Run(number =>
        {
            if (number > 0) return;
            torchrun.Processes[0].Until(() => Checkpoints.Newest(Out("again")) is not null);
            torchrun.Processes[1].Kill();
        });
        Assert.Equal(2, starts.Count);
        Assert.Equal([4, 137], starts[0].Select(end => end.Exit));
        Assert.Matches(@"^kt: rank 1 on \S+ \(process \d+\) has ended without a word[^\n]*\n$", starts[0][0].Errors);
        Assert.All(starts[1], Launched.RequireDone);
        Assert.Contains("resumed from ", starts[1][0].Output, StringComparison.Ordinal);
        Assert.Equal(Enumerable.Range(1, Steps), File.ReadLines(Path.Combine(Out("again"), "trainer_log.jsonl"))
            .Select(line => JsonDocument.Parse(line).RootElement).Where(line => line.TryGetProperty("loss", out _))
            .Select(line => line.GetProperty("current_steps").GetInt32()));
    }

    /// <summary>
    /// The program itself: Debian's (apt-get install python3-torch), whose 1.13 wants -r and -t under Python 3.11, where its "nothing" is no value any more.
    /// </summary>
    [Fact]
    public void Torchrun_itself_starts_again_what_was_killed()
    {
        const int Steps = 60;
        Require.Hardware("torchrun", (Environment.GetEnvironmentVariable("PATH") ?? "").Split(':').Any(folder => File.Exists(Path.Combine(folder, "torchrun")))
            ? null : "no torchrun on PATH; sudo apt-get install -y python3-torch");
        using var torchrun = Kt.StartBy("torchrun", [], ["--nproc_per_node", "2", "--max_restarts", "1", "--master_port", "29563", "-r", "2", "-t", "1",
            "--log_dir", Out("logs"), "--no_python", Kt.Program,
            .. Train("real", $"max_steps={Steps}", "save_steps=2", "save_total_limit=2", "lr_scheduler_type=constant")]);
        torchrun.Until(() => Checkpoints.Newest(Out("real")) is not null);
        using (var kill = Process.Start("kill", ["-KILL", $"{Launched.ProcessOf(Out("real"), "RANK=1")}"])) kill.WaitForExit();
        var end = torchrun.End();
        Assert.Equal(0, end.Exit);
        Assert.Contains("resumed from ", end.Output, StringComparison.Ordinal);
        Assert.Equal(Enumerable.Range(1, Steps), File.ReadLines(Path.Combine(Out("real"), "trainer_log.jsonl"))
            .Select(line => JsonDocument.Parse(line).RootElement).Where(line => line.TryGetProperty("loss", out _))
            .Select(line => line.GetProperty("current_steps").GetInt32()));
        var said = Directory.GetFiles(Out("logs"), "stderr.log", SearchOption.AllDirectories).Select(File.ReadAllText).Where(text => text.Length > 0);
        Assert.Matches(@"^kt: rank 1 on \S+ \(process \d+\) has ended without a word[^\n]*\n$", Assert.Single(said));
    }

    /// <summary>An error is said once, and torchrun's SIGTERM to the others takes nothing from it.</summary>
    [Fact]
    public void What_is_wrong_is_said_once()
    {
        using var torchrun = new Torchrun(1, 2, "127.0.0.1", (_, variables) => Kt.StartWith(variables, Train("wrong", "dataset=gone")));
        var ends = Assert.Single(torchrun.Run());
        Assert.Equal(2, ends[0].Exit);
        Assert.Contains(ends[1].Exit, (int[])[2, 143]); // told by rank 0, or ended by torchrun meanwhile
        Assert.Single(string.Concat(ends.Select(end => end.Errors)).Split('\n', StringSplitOptions.RemoveEmptyEntries));
    }

    /// <summary>Two nodes, started by torchrun's agents or with what llamafactory-cli takes; then one node's process is killed.</summary>
    [Theory]
    [InlineData("torchrun")]
    [InlineData("llamafactory")]
    public void Two_nodes_learn_together_and_end_together(string launcher)
    {
        using var machines = new TwoMachines();
        Torchrun By(string[] arguments) => new(2, 1, TwoMachines.First, (node, variables) => machines.Start(node, launcher == "torchrun" ? variables
            : [("FORCE_TORCHRUN", "1"), ("NNODES", "2"), ("NODE_RANK", $"{node}"), ("MASTER_ADDR", TwoMachines.First), ("MASTER_PORT", "29500")], arguments));
        using (var whole = By(Train("whole", "max_steps=3")))
        {
            var ends = Assert.Single(whole.Run());
            Assert.All(ends, Launched.RequireDone);
            Assert.Contains("summed by TCP", ends[0].Output, StringComparison.Ordinal);
        }
        var watch = new Stopwatch();
        using var killed = By(Train("killed", "max_steps=100000", "save_steps=2", "save_total_limit=2"));
        var last = Assert.Single(killed.Run(_ =>
        {
            killed.Processes[0].Until(() => Checkpoints.Newest(Out("killed")) is not null);
            killed.Processes[1].Kill();
            watch.Start();
        }));
        Assert.InRange(watch.Elapsed, TimeSpan.Zero, TimeSpan.FromSeconds(10)); // the number of the issue
        Assert.Equal([4, 137], last.Select(end => end.Exit));
        Assert.StartsWith("kt: rank 1 on ", last[0].Errors, StringComparison.Ordinal);
    }
}
