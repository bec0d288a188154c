using System.Text.Json.Nodes;

using KtNotebooks.Files;
using KtNotebooks.Lora;
using KtNotebooks.Tests.Models;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Training;

/// <summary>The loop around the step: what it logs, saves, resumes and leaves.</summary>
[Collection("cpu variant")]
public sealed class TrainerTests : IDisposable
{
    private readonly Samples.Folder _folder = new();

    private string Output => Path.Combine(_folder.Path, "out");

    private TrainSettings Settings => new()
    {
        OutputDir = Output,
        LearningRate = 1e-2,
        Schedule = "cosine",
        WarmupRatio = 0.1,
        LoggingSteps = 1,
        SaveSteps = 0,
    };

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void A_stopped_run_goes_on_to_the_same_bits()
    {
        var straight = TinyRun.Train(Settings with { OutputDir = Output + "-straight" });
        using var stop = new CancellationTokenSource();
        var first = TinyRun.Train(Settings, atStep: (3, stop.Cancel), stop: stop);
        Assert.True(first.Result.Interrupted);
        Assert.Equal(3, first.Result.Steps);
        Assert.Equal("checkpoint-3", Path.GetFileName(Checkpoints.Newest(Output)));
        var second = TinyRun.Train(Settings);
        Assert.False(second.Result.Interrupted);
        Assert.Equal(6, second.Result.Steps);
        Assert.Equal(straight.Adapter, second.Adapter);
        Assert.Equal(Lines(Output + "-straight"), Lines(Output));
        Assert.Equal(History(Output + "-straight"), History(Output));
    }

    [Fact]
    public void A_run_that_died_goes_on_from_its_last_checkpoint_and_logs_each_step_once()
    {
        var straight = TinyRun.Train(Settings with { OutputDir = Output + "-straight" });
        Assert.Throws<InvalidTimeZoneException>(() => TinyRun.Train(Settings with { SaveSteps = 2 },
            atStep: (5, () => throw new InvalidTimeZoneException("power cut"))));
        var half = OwnTemporary.In(Output); // it was just writing this
        Directory.CreateDirectory(half);
        File.WriteAllText(Path.Combine(half, "adapter_model.safetensors"), "half");
        Assert.Equal("checkpoint-4", Path.GetFileName(Checkpoints.Newest(Output)));
        Assert.Equal(straight.Adapter, TinyRun.Train(Settings with { SaveSteps = 2 }).Adapter);
        Assert.Equal(Lines(Output + "-straight"), Lines(Output));
        Assert.Equal(History(Output + "-straight"), History(Output));
        Assert.Empty(Directory.GetFileSystemEntries(Output, "*.tmp"));
    }

    [Fact]
    public void Stopping_before_the_first_new_step_keeps_what_was_reached()
    {
        using var stop = new CancellationTokenSource();
        TinyRun.Train(Settings, atStep: (3, stop.Cancel), stop: stop);
        var again = TinyRun.Train(Settings, stop: stop); // cancelled already
        Assert.Equal((3, true), (again.Result.Steps, again.Result.Interrupted));
        Assert.Equal(3, JsonNode.Parse(File.ReadAllText(Path.Combine(Output, "trainer_state.json")))!["global_step"]!.GetValue<int>());
        Assert.Equal("checkpoint-3", Path.GetFileName(Checkpoints.Newest(Output)));
    }

    [Fact]
    public void Stopping_during_an_evaluation_saves_the_steps_before_it()
    {
        using var stop = new CancellationTokenSource();
        var run = TinyRun.Train(Settings with { EvalSteps = 2 }, atStep: (4, stop.Cancel), stop: stop, evaluate: true);
        Assert.Equal((4, true), (run.Result.Steps, run.Result.Interrupted));
        Assert.Equal("checkpoint-4", Path.GetFileName(Checkpoints.Newest(Output)));
    }

    [Fact]
    public void Starting_over_takes_old_checkpoints_away()
    {
        TinyRun.Train(Settings with { SaveSteps = 5 });
        using var stop = new CancellationTokenSource();
        TinyRun.Train(Settings with { Overwrite = true }, atStep: (2, stop.Cancel), stop: stop);
        Assert.Equal("checkpoint-2", Path.GetFileName(Checkpoints.Newest(Output)));
        Assert.Equal([1, 2, 2], Log(Output).Select(l => l["current_steps"]!.GetValue<int>()));
    }

    [Fact]
    public void The_log_has_LLaMA_Factory_s_fields_in_their_order()
    {
        TinyRun.Train(Settings with { LoggingSteps = 2, EvalSteps = 4 }, evaluate: true);
        var lines = File.ReadAllLines(Path.Combine(Output, "trainer_log.jsonl")).Select(l => JsonNode.Parse(l)!.AsObject()).ToArray();
        string[] step = ["current_steps", "total_steps", "loss", "lr", "epoch", "percentage", "elapsed_time", "remaining_time", "throughput"];
        string[][] expected = [step, step, [.. step.Select(f => f == "loss" ? "eval_loss" : f).Where(f => f != "lr")], step];
        Assert.Equal(expected, lines[..4].Select(l => l.Select(p => p.Key).ToArray()));
        Assert.Equal(step.Where(f => f is not ("loss" or "lr")), lines[^1].Select(p => p.Key)); // the last line has no loss
        Assert.Equal([2, 4, 4, 6, 6, 6], lines.Select(l => l["current_steps"]!.GetValue<int>()));
        Assert.Equal(33.33, lines[0]["percentage"]!.GetValue<double>());
        Assert.Equal("0:00:00", lines[^1]["remaining_time"]!.GetValue<string>());
        Assert.Matches(@"^\d:\d\d:\d\d$", lines[0]["elapsed_time"]!.GetValue<string>());
    }

    [Theory]
    [InlineData(83, "0:01:23")]
    [InlineData(86400, "1 day, 0:00:00")]
    [InlineData(2 * 86400 + 3600 * 11 + 61, "2 days, 11:01:01")]
    public void Durations_are_written_as_Python_does(int seconds, string text) => Assert.Equal(text, TrainerLog.Duration(TimeSpan.FromSeconds(seconds)));

    [Fact]
    public void The_logged_loss_is_the_mean_since_the_last_line()
    {
        List<double> losses = [];
        TinyRun.Train(Settings with { LoggingSteps = 3 }, onStep: s => losses.Add(s.Loss));
        Assert.Equal([Math.Round(losses[..3].Average(), 4), Math.Round(losses[3..].Average(), 4)], Log(Output).Where(l => l["loss"] is not null)
            .Select(l => l["loss"]!.GetValue<double>()));
        Assert.True(losses[^1] < losses[0], "six steps at this rate make the loss fall");
    }

    [Fact]
    public void A_checkpoint_of_another_adapter_is_refused()
    {
        TinyRun.Die(Settings with { SaveSteps = 3 });
        var error = Assert.Throws<InvalidDataException>(() => TinyRun.Train(Settings, lora: new LoraSettings(4)));
        Assert.Equal($"{Path.Combine(Output, "checkpoint-3")}: holds an adapter with lora_rank 3 and lora_alpha 6, but this run asks for 4 and 8; give "
            + "another output_dir, or overwrite_output_dir: true to start over", error.Message);
    }

    [Fact]
    public void A_checkpoint_of_other_layers_is_refused()
    {
        TinyRun.Die(Settings with { SaveSteps = 3 });
        var error = Assert.Throws<InvalidDataException>(() => TinyRun.Train(Settings, lora: new LoraSettings(3)));
        Assert.StartsWith($"{Path.Combine(Output, "checkpoint-3")}: holds an adapter of other layers than this run's lora_target and lora_experts ask for "
            + "('base_model.model.model.layers.1.mlp.experts.0.", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("trainer_state.json", "{")]
    [InlineData("trainer_state.json", "{\"log_history\": []}")]
    [InlineData("trainer_state.json", "{\"log_history\": [], \"global_step\": 2, \"epoch\": 1}")]
    [InlineData("trainer_state.json", "[]")]
    [InlineData("optimizer.safetensors", "garbage")]
    [InlineData("adapter_model.safetensors", "garbage")]
    [InlineData("adapter_config.json", "garbage")]
    public void A_damaged_checkpoint_is_named(string file, string content)
    {
        TinyRun.Die(Settings with { SaveSteps = 3 });
        var path = Path.Combine(Output, "checkpoint-3", file);
        File.WriteAllText(path, content);
        var log = File.ReadAllText(Path.Combine(Output, "trainer_log.jsonl"));
        Assert.StartsWith(path, Assert.Throws<InvalidDataException>(() => TinyRun.Train(Settings)).Message, StringComparison.Ordinal);
        Assert.Equal(log, File.ReadAllText(Path.Combine(Output, "trainer_log.jsonl"))); // nothing was touched
    }

    [Fact]
    public void A_run_leaves_only_the_model()
    {
        TinyRun.Train(Settings);
        using var model = TinyRun.Model(new LoraSettings(3, Experts: true));
        var before = Tiny.Alive();
        TinyRun.Trainer(model, Settings with { OutputDir = Output + "2", SaveSteps = 2, EvalSteps = 2 }, new LoraSettings(3, Experts: true), evaluate: true)
            .Run(TestContext.Current.CancellationToken);
        Assert.Equal(before, (KtNotebooks.Tensors.Buffer.AliveCount, KtNotebooks.Tensors.Buffer.AliveBytes));
    }

    /// <summary>The log without what depends on the clock.</summary>
    private static JsonObject[] Log(string folder)
    {
        var lines = File.ReadAllLines(Path.Combine(folder, "trainer_log.jsonl")).Select(l => JsonNode.Parse(l)!.AsObject()).ToArray();
        foreach (var line in lines)
            foreach (var clock in new[] { "elapsed_time", "remaining_time", "throughput" }) line.Remove(clock);
        return lines;
    }

    /// <summary>As text, without the lines that close a run.</summary>
    private static string[] Lines(string folder) => [.. Log(folder).Where(l => l["loss"] is not null).Select(l => l.ToJsonString())];

    /// <summary>As text, without the entry that closes it.</summary>
    private static string History(string folder) => string.Join('\n',
        JsonNode.Parse(File.ReadAllText(Path.Combine(folder, "trainer_state.json")))!["log_history"]!.AsArray().Where(e => e!["train_runtime"] is null));
}
