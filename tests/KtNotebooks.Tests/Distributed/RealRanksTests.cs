using System.Diagnostics;
using System.Text.Json;

using KtNotebooks.Tests.Cli;
using KtNotebooks.Tests.Files;
using KtNotebooks.Training;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Distributed;

/// <summary>Runs of several processes: the same as of one, whatever carries the sums, and what happens when one of them dies or is another's.</summary>
public sealed class RealRanksTests : IDisposable
{
    private readonly Workplace _place = new();

    public void Dispose() => _place.Dispose();

    private string Out(string name) => Path.Combine(_place.Root, name);

    private string[] Train(string output, params string[] pairs) => _place.Train([$"output_dir={Out(output)}", "infer_dtype=float32", "lora_experts=true",
        "lora_dropout=0.1", "gradient_accumulation_steps=3", "lr_scheduler_type=constant", "plot_loss=false", .. pairs]);

    [Fact]
    public void Two_and_three_ranks_learn_what_one_learns_and_the_carrier_does_not_matter()
    {
        Kt.Run(Train("one")).RequireDone();
        using var two = Launched.Mpirun(2, Train("two"));
        var said = two.End();
        said.RequireDone();
        Assert.Contains("2 ranks on 1 host(s), summed by MPI: the 6 rows of every step", said.Output, StringComparison.Ordinal);
        Assert.Single(said.Output.Split('\n'), line => line.StartsWith("done: ", StringComparison.Ordinal)); // the others say nothing
        using (var three = Launched.Mpirun(3, Train("three"))) three.End().RequireDone();
        var sockets = Launched.ByEnvironment(2, _ => Train("sockets"));
        foreach (var rank in sockets)
            using (rank) rank.End().RequireDone();

        var (one, expected) = (Losses("one"), Adapter("two"));
        foreach (var of in (string[])["two", "three", "sockets"]) Near(one, Losses(of));
        Assert.Equal(expected, Adapter("sockets")); // bits: both add in the order of the ranks
        Assert.NotEqual(expected, Adapter("three"));
        var waiting = JsonDocument.Parse(File.ReadLines(Path.Combine(Out("two"), "trainer_log.jsonl")).First()).RootElement;
        Assert.All((string[])["waiting/rank_0", "waiting/rank_1"], name => Assert.InRange(waiting.GetProperty(name).GetDouble(), 0, 1));
    }

    [Fact]
    public void A_run_goes_on_with_another_number_of_ranks_where_it_was()
    {
        Kt.Run(Train("whole", "num_train_epochs=2")).RequireDone();
        using (var three = Launched.Mpirun(3, Train("parts", "max_steps=4", "save_steps=3"))) three.End().RequireDone(); // checkpoint-3
        Kt.Run(Train("parts", "max_steps=6", "save_steps=5", "resume_from_checkpoint=true")).RequireDone(); // checkpoint-5
        using (var two = Launched.Mpirun(2, Train("parts", "max_steps=8", "resume_from_checkpoint=true"))) two.End().RequireDone();
        Near(Losses("whole"), Losses("parts"));
    }

    [Fact]
    public void A_killed_rank_is_named_and_all_end_and_the_last_checkpoint_is_whole()
    {
        using var mpirun = Launched.Mpirun(2, Train("killed", "max_steps=100000", "save_steps=2", "logging_steps=1000", "save_total_limit=2"));
        mpirun.Until(() => Checkpoints.Newest(Out("killed")) is not null);
        using (var kill = Process.Start("kill", ["-KILL", $"{Launched.ProcessOf(mpirun, 1)}"])) kill.WaitForExit();
        var watch = Stopwatch.StartNew();
        var (exit, _, errors) = mpirun.End();
        Assert.InRange(watch.Elapsed, TimeSpan.Zero, TimeSpan.FromSeconds(10)); // the number of the issue; it takes a tenth of a second
        Assert.NotEqual(0, exit);
        Assert.Matches(@"rank 1 (on|with PID \d+ on node) \S+ .*(exited on signal 9 \(Killed\)|it was killed)", errors.ReplaceLineEndings(" "));
        RequireWhole("killed");
    }

    /// <summary>What a launcher's SIGCONT wakes when all is over must not speak of others as lost.</summary>
    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    public void A_rank_that_stands_still_is_named_and_ends_in_silence_when_it_goes_on(int still)
    {
        var ranks = Launched.ByEnvironment(2, _ => Train("still", "max_steps=100000", "save_steps=2", "save_total_limit=2"), ("KT_RANK_TIMEOUT", "2"));
        ranks[0].Until(() => Checkpoints.Newest(Out("still")) is not null);
        ranks[still].Signal("STOP");
        var watch = Stopwatch.StartNew();
        var (exit, _, errors) = ranks[1 - still].End();
        Assert.InRange(watch.Elapsed, TimeSpan.Zero, TimeSpan.FromSeconds(10)); // the number of the issue
        Assert.Equal(4, exit);
        Assert.Matches($@"^kt: rank {still} on \S+ \(process {ranks[still].Id}\) has not been heard of for 2 s: [^\n]*\n$", errors);
        Thread.Sleep(TimeSpan.FromSeconds(3)); // longer than its own patience
        ranks[still].Signal("CONT");
        Assert.Equal((4, ""), (ranks[still].End().Exit, ranks[still].End().Errors));
        foreach (var rank in ranks) rank.Dispose();
    }

    [Fact]
    public void A_full_disk_of_the_first_rank_ends_all_with_one_line()
    {
        using var disk = new SmallDisk(1);
        File.WriteAllBytes(Path.Combine(disk.Path, "full"), new byte[(1 << 20) - 8192]);
        var output = Path.Combine(disk.Path, "out");
        var ranks = Launched.ByEnvironment(2, _ => Train("full", $"output_dir={output}", "save_steps=2"));
        var ends = ranks.Select(rank => rank.End()).ToArray();
        foreach (var rank in ranks) rank.Dispose();
        Assert.All(ends, end => Assert.Equal(2, end.Exit));
        Assert.Matches($@"^kt: {output}: not enough disk: [^\n]*\n$", ends[0].Errors);
        Assert.Empty(ends[1].Errors);
        Assert.Null(Checkpoints.Newest(output));
    }

    [Theory]
    [InlineData("learning_rate=2e-2", "the ranks do not run the same: learning_rate is 0.01 on rank 0 on HOST, but 0.02 on rank 1 on HOST; start all with one "
        + "config, the same files and the same build")]
    [InlineData("dataset=gone", "rank 1 on HOST: ")]
    public void What_is_not_the_same_everywhere_is_said_once_before_the_first_step(string pair, string line)
    {
        var ranks = Launched.ByEnvironment(2, rank => Train("differ", rank == 0 ? [] : [pair]));
        var ends = ranks.Select(rank => rank.End()).ToArray();
        foreach (var rank in ranks) rank.Dispose();
        Assert.All(ends, end => Assert.Equal(2, end.Exit));
        Assert.StartsWith("kt: " + line.Replace("HOST", Environment.MachineName, StringComparison.Ordinal), ends[0].Errors, StringComparison.Ordinal);
        Assert.Single(string.Concat(ends.Select(end => end.Errors)).Split('\n', StringSplitOptions.RemoveEmptyEntries));
        Assert.False(Directory.Exists(Out("differ")));
    }

    [Fact]
    public void Ranks_are_told_to_stop_and_stop_after_the_same_step()
    {
        var ranks = Launched.ByEnvironment(2, _ => Train("stopped", "max_steps=100000", "save_steps=2", "save_total_limit=2"));
        ranks[0].Until(() => Checkpoints.Newest(Out("stopped")) is not null);
        ranks[1].Signal("TERM");
        var ends = ranks.Select(rank => rank.End()).ToArray();
        foreach (var rank in ranks) rank.Dispose();
        Assert.All(ends, end => Assert.Equal(130, end.Exit));
        Assert.Contains("stopped after step ", ends[0].Output, StringComparison.Ordinal);
        RequireWhole("stopped");
    }

    [Fact]
    public void Predictions_and_evaluations_are_those_of_one()
    {
        string[] Of(string command, string output) => [command, $"model_name_or_path={_place.Model}", $"dataset_dir={Path.Combine(_place.Root, "data")}",
            "eval_dataset=good", "template=deepseek", $"output_dir={Out(output)}", "max_new_tokens=6", "cutoff_len=40", "infer_dtype=float32",
            "per_device_eval_batch_size=1"];
        Kt.Run(Of("predict", "p1")).RequireDone();
        Kt.Run(Of("eval", "e1")).RequireDone();
        foreach (var (command, output) in new[] { ("predict", "p2"), ("eval", "e2") })
        {
            var ranks = Launched.ByEnvironment(2, _ => Of(command, output));
            foreach (var rank in ranks)
                using (rank) rank.End().RequireDone();
        }
        string Predicted(string output) => File.ReadAllText(Path.Combine(Out(output), "generated_predictions.jsonl"));
        Assert.Equal(Predicted("p1"), Predicted("p2"));
        double Value(string output, string name) => JsonDocument.Parse(File.ReadAllText(Path.Combine(Out(output), "eval_results.json"))).RootElement
            .GetProperty(name).GetDouble();
        foreach (var name in (string[])["eval_accuracy", "eval_loss", "eval_samples"]) Assert.Equal(Value("e1", name), Value("e2", name), 1e-6);
    }

    private double[] Losses(string output) => [.. File.ReadLines(Path.Combine(Out(output), "trainer_log.jsonl"))
        .Select(line => JsonDocument.Parse(line).RootElement).Where(line => line.TryGetProperty("loss", out _))
        .Select(line => line.GetProperty("loss").GetDouble())];

    /// <summary>The newest checkpoint of an output folder can be read and gone on from.</summary>
    private void RequireWhole(string output)
    {
        var newest = Checkpoints.Newest(Out(output))!;
        Assert.Equal(Checkpoints.StepOf(newest), TrainerState.Read(newest).Step);
        Checkpoints.RequireOptimizer(newest);
        using (var moments = new SafetensorsFile(Path.Combine(newest, "optimizer.safetensors"))) Assert.NotEmpty(moments.Entries);
        Kt.Run(Train($"after-{output}", "max_steps=1", $"adapter_name_or_path={newest}")).RequireDone();
    }

    private byte[] Adapter(string output) => File.ReadAllBytes(Path.Combine(Out(output), "adapter_model.safetensors"));

    /// <summary>The log has four digits; AdamW makes more of a last bit than it is.</summary>
    private static void Near(double[] expected, double[] got)
    {
        Assert.Equal(expected.Length, got.Length);
        for (var i = 0; i < got.Length; i++) Assert.Equal(expected[i], got[i], 1e-3);
    }
}
