using System.Text.Json.Nodes;

using KtNotebooks.Lora;
using KtNotebooks.Tests.Files;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Training;

/// <summary>When a run of six steps, three an epoch, logs, measures and saves; and what it keeps.</summary>
[Collection("cpu variant")]
public sealed class TrainerOccasionsTests : IDisposable
{
    private readonly Samples.Folder _folder = new();

    private string Output => Path.Combine(_folder.Path, "out");

    private TrainSettings Settings => new() { OutputDir = Output, LearningRate = 1e-2, LoggingSteps = 1, SaveSteps = 0 };

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void Steps_epochs_and_shares()
    {
        Assert.Equal([2, 4, 6], Saved(Settings with { SaveSteps = 2 }));
        Assert.Equal([4, 6], Saved(Settings with { SaveSteps = 4 })); // the last step has one too, as with Hugging Face
        Assert.Equal([6], Saved(Settings with { SaveSteps = 500 }));
        Assert.Equal([3, 6], Saved(Settings with { SaveStrategy = When.Epoch }));
        Assert.Equal([], Saved(Settings with { SaveSteps = 2, SaveStrategy = When.No }));
        Assert.Equal([2, 4, 6], Saved(Settings with { SaveSteps = 0.2 })); // ⌈0.2 · 6⌉ = 2
        Assert.Equal([1, 2, 3, 4, 5, 6], Saved(Settings with { SaveSteps = 0.01 }));

        Assert.Equal([3, 6], Logged(Settings with { LoggingSteps = 3 }));
        Assert.Equal([1, 3, 6], Logged(Settings with { LoggingSteps = 3, LogFirstStep = true }));
        Assert.Equal([3, 6], Logged(Settings with { LoggingStrategy = When.Epoch }));
        Assert.Equal([3, 6], Logged(Settings with { LoggingSteps = 0.5 }));
        Assert.Equal([], Logged(Settings with { LoggingStrategy = When.No }));

        Assert.Equal([6], Measured(Settings));
        Assert.Equal([4, 6], Measured(Settings with { EvalSteps = 4 }));
        Assert.Equal([2, 4, 6], Measured(Settings with { EvalStrategy = When.Steps, LoggingSteps = 2 }));
        Assert.Equal([4, 6], Measured(Settings with { EvalStrategy = When.Steps, EvalSteps = 4 }));
        Assert.Equal([3, 6], Measured(Settings with { EvalStrategy = When.Epoch }));
        Assert.Equal([], Measured(Settings with { EvalStrategy = When.No, EvalSteps = 4 }));
        Assert.Equal([0, 6], Measured(Settings with { EvalOnStart = true }));
    }

    [Fact]
    public void Only_the_newest_checkpoints_stay()
    {
        Assert.Equal([5, 6], Saved(Settings with { SaveSteps = 1, SaveTotalLimit = 2 }));
        Assert.Equal([1, 2, 3, 4, 5, 6], Saved(Settings with { SaveSteps = 1, SaveTotalLimit = 0 }));
    }

    [Fact]
    public void The_best_checkpoint_is_what_is_left_and_is_not_thrown_away()
    {
        var settings = Settings with { SaveSteps = 1, EvalStrategy = When.Steps, EvalSteps = 1, SaveTotalLimit = 1, LoadBestAtEnd = true };
        using var model = TinyRun.Model(new LoraSettings(3));
        var trainer = TinyRun.Trainer(model, settings, new LoraSettings(3), evaluate: true);
        trainer.OnStep += s => // gets worse from the third step on
        {
            foreach (var (_, tensor) in s.Step >= 3 ? model.AllTrainable : []) tensor.Store([.. Enumerable.Repeat(3f, (int)tensor.Count)]);
        };
        List<(int Step, double Loss)> losses = [];
        trainer.OnEvaluation += (step, loss) => losses.Add((step, loss));
        var result = trainer.Run(TestContext.Current.CancellationToken);
        var best = losses.MinBy(l => l.Loss);
        Assert.InRange(best.Step, 1, 4); // else this test says nothing
        Assert.Equal(best.Loss, result.EvalLoss);
        Assert.Equal([best.Step, 6], Checkpoints.All(Output).Select(Checkpoints.StepOf));
        var state = JsonNode.Parse(File.ReadAllText(Path.Combine(Output, "trainer_state.json")))!;
        Assert.Equal((best.Step, best.Loss, Path.Combine(Output, $"checkpoint-{best.Step}")),
            ((int)state["best_global_step"]!, (double)state["best_metric"]!, (string)state["best_model_checkpoint"]!));
        Assert.Equal(File.ReadAllBytes(Path.Combine(Output, $"checkpoint-{best.Step}", "adapter_model.safetensors")),
            File.ReadAllBytes(Path.Combine(Output, "adapter_model.safetensors")));
        Assert.Equal("load_best_model_at_end needs held-out rows: give eval_dataset or val_size",
            Assert.Throws<ArgumentException>(() => TinyRun.Trainer(model, settings, new LoraSettings(3), evaluate: false)).Message);
    }

    [Fact]
    public void The_last_step_can_be_the_best_and_is_measured_once()
    {
        var settings = Settings with { SaveSteps = 4, EvalStrategy = When.Steps, EvalSteps = 4, SaveTotalLimit = 1, LoadBestAtEnd = true };
        using var model = TinyRun.Model(new LoraSettings(3));
        var trainer = TinyRun.Trainer(model, settings, new LoraSettings(3), evaluate: true);
        List<(int Step, double Loss)> losses = [];
        trainer.OnEvaluation += (step, loss) => losses.Add((step, loss));
        trainer.Run(TestContext.Current.CancellationToken);
        Assert.Equal([4, 6], losses.Select(l => l.Step));
        Assert.True(losses[1].Loss < losses[0].Loss); // else this test says nothing
        var state = JsonNode.Parse(File.ReadAllText(Path.Combine(Output, "trainer_state.json")))!;
        Assert.Equal((6, losses[1].Loss, Path.Combine(Output, "checkpoint-6")),
            ((int)state["best_global_step"]!, (double)state["best_metric"]!, (string)state["best_model_checkpoint"]!));
        Assert.Equal([6], Checkpoints.All(Output).Select(Checkpoints.StepOf));
    }

    [Fact]
    public void A_full_disk_costs_the_log_nothing_but_time()
    {
        using var disk = new SmallDisk(4);
        var folder = Path.Combine(disk.Path, "out");
        var ballast = Path.Combine(disk.Path, "ballast");
        List<string> notes = [];
        using var model = TinyRun.Model(new LoraSettings(3));
        var trainer = TinyRun.Trainer(model, Settings with { OutputDir = folder }, new LoraSettings(3), evaluate: false);
        trainer.OnNote += notes.Add;
        var log = Path.Combine(folder, "trainer_log.jsonl");
        trainer.OnStep += s => // full while steps 3 and 4 are logged, the page that the log ends in too
        {
            var rest = 4095 - (File.Exists(log) ? (int)new FileInfo(log).Length : 0);
            if (s.Step == 2) File.AppendAllText(log, new string(' ', rest) + "\n");
            if (s.Step == 2)
                using (var file = new FileStream(ballast, FileMode.Create, FileAccess.Write, FileShare.None, bufferSize: 0))
                    Assert.Throws<IOException>((Action)(() =>
                    {
                        while (true) file.Write(new byte[512]);
                    }));
            if (s.Step == 4) File.Delete(ballast);
        };
        Assert.Equal(6, trainer.Run(TestContext.Current.CancellationToken).Steps);
        Assert.Equal([1, 2, 3, 4, 5, 6, 6], File.ReadAllLines(log).Where(line => line.Trim().Length > 0)
            .Select(line => (int)JsonNode.Parse(line)!["current_steps"]!));
        Assert.StartsWith($"{log}: ", Assert.Single(notes), StringComparison.Ordinal);
        Assert.EndsWith("its lines wait until they can be written, training goes on", notes[0], StringComparison.Ordinal);
    }

    [Fact]
    public void A_disk_with_room_for_the_result_alone_gets_the_result()
    {
        using var disk = new SmallDisk(4);
        var folder = Path.Combine(disk.Path, "out");
        List<string> notes = [];
        using var model = TinyRun.Model(new LoraSettings(3));
        var trainer = TinyRun.Trainer(model, Settings with { OutputDir = folder, SaveSteps = 3 }, new LoraSettings(3), evaluate: false);
        trainer.OnNote += notes.Add;
        trainer.OnStep += s =>
        {
            if (s.Step != 6) return;
            var adapter = new FileInfo(Path.Combine(folder, "checkpoint-3", "adapter_model.safetensors")).Length;
            using var ballast = new FileStream(Path.Combine(disk.Path, "ballast"), FileMode.Create, FileAccess.Write, FileShare.None, bufferSize: 0);
            ballast.Write(new byte[new DriveInfo(disk.Path).AvailableFreeSpace - (2 * adapter) - 32768]);
        };
        Assert.Equal(6, trainer.Run(TestContext.Current.CancellationToken).Steps);
        Assert.Equal([3], Checkpoints.All(folder).Select(Checkpoints.StepOf));
        Assert.Contains(notes, n => n.Contains("not enough disk", StringComparison.Ordinal)
            && n.EndsWith(". The run ends without its last checkpoint", StringComparison.Ordinal));
        Assert.True(File.Exists(Path.Combine(folder, "adapter_model.safetensors")) && File.Exists(Path.Combine(folder, "train_results.json")));
    }

    [Fact]
    public void Checkpoints_of_weights_alone_are_smaller_and_not_gone_on_from()
    {
        TinyRun.Die(Settings with { SaveSteps = 2, SaveOnlyModel = true });
        var folder = Checkpoints.Newest(Output)!;
        Assert.False(File.Exists(Path.Combine(folder, "optimizer.safetensors")));
        Assert.Equal($"{folder}: has no optimizer.safetensors (save_only_model leaves it out), so no run can go on from it; name it as "
            + "adapter_name_or_path to begin a new run with its weights, or remove it to go on from an earlier checkpoint",
            Assert.Throws<InvalidDataException>(() => TinyRun.Train(Settings)).Message);
        // Whoever stops a run can go on.
        using var stop = new CancellationTokenSource();
        TinyRun.Train(Settings with { SaveOnlyModel = true, Overwrite = true }, atStep: (3, stop.Cancel), stop: stop);
        Assert.Equal(6, TinyRun.Train(Settings with { SaveOnlyModel = true }).Result.Steps);
    }

    [Fact]
    public void A_resumed_run_leaves_the_results_of_all_its_steps()
    {
        TinyRun.Train(Settings with { OutputDir = Output + "-straight" }, evaluate: true);
        TinyRun.Die(Settings with { SaveSteps = 2 });
        TinyRun.Train(Settings with { SaveSteps = 2 }, evaluate: true);
        foreach (var key in new[] { "train_loss", "epoch", "num_input_tokens_seen", "total_flos", "eval_loss" })
            Assert.Equal(Results(Output + "-straight")[key]!.ToJsonString(), Results(Output)[key]!.ToJsonString());
        Assert.Equal(["effective_tokens_per_sec", "epoch", "num_input_tokens_seen", "total_flos", "train_loss", "train_runtime", "train_samples_per_second",
            "train_steps_per_second"],
            JsonNode.Parse(File.ReadAllText(Path.Combine(Output, "train_results.json")))!.AsObject().Select(r => r.Key));
        var state = JsonNode.Parse(File.ReadAllText(Path.Combine(Output, "trainer_state.json")))!.AsObject();
        Assert.Equal(
            ["best_global_step", "best_metric", "best_model_checkpoint", "epoch", "eval_steps", "global_step", "is_hyper_param_search",
                "is_local_process_zero", "is_world_process_zero", "log_history", "logging_steps",
                "max_steps", "num_input_tokens_seen", "num_train_epochs", "save_steps", "stateful_callbacks", "total_flos", "train_batch_size", "trial_name",
                "trial_params"], state.Select(s => s.Key));
        Assert.Equal((2, 2, 6), ((int)state["num_train_epochs"]!, (int)state["train_batch_size"]!, (int)state["max_steps"]!));
    }

    private static JsonObject Results(string folder) => JsonNode.Parse(File.ReadAllText(Path.Combine(folder, "all_results.json")))!.AsObject();

    private int[] Saved(TrainSettings settings)
    {
        TinyRun.Train(settings with { Overwrite = true });
        return [.. Checkpoints.All(Output).Select(Checkpoints.StepOf)];
    }

    private int[] Logged(TrainSettings settings) => Events(settings, "loss");

    private int[] Measured(TrainSettings settings) => Events(settings, "eval_loss");

    private int[] Events(TrainSettings settings, string key)
    {
        TinyRun.Train(settings with { Overwrite = true }, evaluate: key == "eval_loss");
        return [.. File.ReadAllLines(Path.Combine(Output, "trainer_log.jsonl")).Select(l => JsonNode.Parse(l)!).Where(l => l[key] is not null)
            .Select(l => (int)l["current_steps"]!)];
    }
}
