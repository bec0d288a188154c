using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Training;

/// <summary>What a second run into the same folder does: nothing finished is overwritten, and settings of two runs are not mixed.</summary>
[Collection("cpu variant")]
public sealed class RunStartTests : IDisposable
{
    private readonly Samples.Folder _folder = new();

    private string Output => Path.Combine(_folder.Path, "out");

    private TrainSettings Settings => new() { OutputDir = Output, LearningRate = 1e-2, LoggingSteps = 1, SaveSteps = 2 };

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void A_finished_run_is_not_touched()
    {
        TinyRun.Train(Settings);
        var before = Content();
        foreach (var again in new[] { Settings, Settings with { LearningRate = 1 }, Settings with { ResumeFrom = ResumeFrom.Never } })
            Assert.Equal($"{Output} holds a finished run; give another output_dir, or overwrite_output_dir: true to start over, or resume_from_checkpoint: "
                + $"true to go on from {Checkpoint(6)}", Refused(again));
        Assert.Equal(before, Content());
        File.Delete(Path.Combine(Output, "train_results.json")); // as runs of before left it
        Assert.StartsWith($"{Output} holds a finished run; ", Refused(Settings), StringComparison.Ordinal);
        Assert.Equal(6, TinyRun.Train(Settings with { Overwrite = true }).Result.Steps);
    }

    [Fact]
    public void A_finished_run_without_checkpoints_is_not_touched()
    {
        TinyRun.Train(Settings with { SaveStrategy = When.No });
        Assert.Equal($"{Output} holds a finished run; give another output_dir, or overwrite_output_dir: true to start over", Refused(Settings));
        Assert.Equal($"resume_from_checkpoint is true, but {Output} holds no checkpoint; {Path.Combine(Output, "adapter_model.safetensors")} can be "
            + "trained further in another output_dir as adapter_name_or_path", Refused(Settings with { ResumeFrom = ResumeFrom.Newest }));
        foreach (var file in Directory.GetFiles(Output, "*.json*")) File.Delete(file);
        // a stranger's
        Assert.Equal($"{Output} holds adapter_model.safetensors, and no checkpoint to go on from; give another output_dir, or overwrite_output_dir: true "
            + $"to start over", Refused(Settings));
    }

    [Fact]
    public void A_run_that_was_stopped_in_its_last_evaluation_goes_on()
    {
        var whole = TinyRun.Train(Settings with { OutputDir = Output + "-whole" }, evaluate: true);
        using (var stop = new CancellationTokenSource())
            Assert.True(TinyRun.Train(Settings, atStep: (6, stop.Cancel), stop: stop, evaluate: true).Result.Interrupted);
        var ended = TinyRun.Train(Settings, evaluate: true);
        Assert.Equal((6, false, whole.Result.EvalLoss), (ended.Result.Steps, ended.Result.Interrupted, ended.Result.EvalLoss));
        Assert.Equal(whole.Adapter, ended.Adapter);
        Assert.True(File.Exists(Path.Combine(Output, "train_results.json")));
    }

    /// <summary>Files of another kind of run would be loaded before, or with, what this one writes.</summary>
    [Fact]
    public void Finished_weights_take_the_place_of_all_that_were_there()
    {
        Directory.CreateDirectory(Output);
        string[] old = ["value_head.safetensors", "model.safetensors.index.json", "model-00001-of-00002.safetensors",
            "adapter_config.json", "adapter_model.safetensors"];
        foreach (var name in (string[])[.. old, "README.md", "all_results.json"]) File.WriteAllText(Path.Combine(Output, name), "old");
        RunStart.Replace(Output, folder =>
        {
            foreach (var name in old[3..]) KtNotebooks.Files.AtomicFile.WriteText(Path.Combine(folder, name), "new");
        });
        Assert.Equal("adapter_config.json new, adapter_model.safetensors new, all_results.json old, README.md old", string.Join(", ",
            Directory.GetFiles(Output).Order(StringComparer.OrdinalIgnoreCase).Select(f => $"{Path.GetFileName(f)} {File.ReadAllText(f)}")));
    }

    [Fact]
    public void Another_runs_checkpoint_leaves_none_of_the_overwritten_run()
    {
        TinyRun.Train(Settings with { OutputDir = Output + "-other" });
        TinyRun.Train(Settings with { SaveSteps = 1 });
        var from = Path.Combine(Output + "-other", "checkpoint-4");
        TinyRun.Train(Settings with { Overwrite = true, ResumeFrom = ResumeFrom.Checkpoint(from) });
        Assert.Equal([Checkpoint(6)], Checkpoints.All(Output));
    }

    [Fact]
    public void A_longer_run_goes_on_when_somebody_asks_for_it()
    {
        TinyRun.Train(Settings);
        List<string> notes = [];
        var more = TinyRun.Train(Settings with { ResumeFrom = ResumeFrom.Newest }, epochs: 3, onNote: notes.Add);
        Assert.Equal(9, more.Result.Steps);
        Assert.Contains("9 steps instead of 6: from here on the learning rate is that of the longer run", notes);
        Assert.Contains($"resumed from {Checkpoint(6)} at step 6 of 9", notes);
    }

    [Fact]
    public void Without_being_asked_for_another_length_is_refused_and_a_shorter_one_always()
    {
        TinyRun.Die(Settings);
        Assert.Equal($"{Checkpoint(4)}: was made with num_train_epochs 2, now it is 3; give another output_dir, or overwrite_output_dir: true to start "
            + $"over, or resume_from_checkpoint: true to go on with more steps", Refused(Settings, epochs: 3));
        Assert.Equal($"{Checkpoint(4)}: was made with num_train_epochs 2, now it is 1.5; give another output_dir, or overwrite_output_dir: true to start "
            + $"over; a run that goes on may have more steps, not fewer", Refused(Settings with { ResumeFrom = ResumeFrom.Newest }, epochs: 1.5));
        Assert.StartsWith($"{Checkpoint(4)} is beyond the 3 steps of this run", Refused(Settings, epochs: 1), StringComparison.Ordinal);
    }

    [Fact]
    public void Another_setting_is_named_with_both_values()
    {
        TinyRun.Die(Settings);
        var before = Content();
        foreach (var from in new[] { ResumeFrom.Auto, ResumeFrom.Newest, ResumeFrom.Checkpoint(Checkpoint(4)) })
            Assert.Equal($"{Checkpoint(4)}: was made with learning_rate 0.01, now it is 0.02; give another output_dir, or overwrite_output_dir: true to "
                + $"start over", Refused(Settings with { LearningRate = 0.02, ResumeFrom = from }));
        Assert.Equal(before, Content());
        // What changes nothing in the weights may change.
        Assert.Equal(6, TinyRun.Train(Settings with { SaveSteps = 5, LoggingSteps = 3, ChunkRows = 16, ResumeFrom = ResumeFrom.Newest }).Result.Steps);
    }

    [Fact]
    public void A_checkpoint_that_does_not_say_how_it_was_made_is_gone_on_from_on_request_only()
    {
        TinyRun.Die(Settings);
        File.Delete(Path.Combine(Checkpoint(4), RunIdentity.FileName));
        Assert.StartsWith($"{Checkpoint(4)}: has no train_settings.json, so nobody knows with which settings it was made; ", Refused(Settings),
            StringComparison.Ordinal);
        List<string> notes = [];
        TinyRun.Train(Settings with { ResumeFrom = ResumeFrom.Newest }, onNote: notes.Add);
        Assert.Contains($"{Checkpoint(4)} has no train_settings.json: nobody can say whether it was made with these settings", notes);
        File.WriteAllText(Path.Combine(Checkpoint(6), RunIdentity.FileName), "");
        Assert.StartsWith($"{Path.Combine(Checkpoint(6), RunIdentity.FileName)}: is empty, and must hold JSON",
            Refused(Settings with { ResumeFrom = ResumeFrom.Newest }),
            StringComparison.Ordinal);
    }

    [Fact]
    public void False_does_not_go_on_and_true_needs_a_checkpoint()
    {
        Assert.Equal($"resume_from_checkpoint is true, but {Output} holds no checkpoint", Refused(Settings with { ResumeFrom = ResumeFrom.Newest }));
        Assert.False(Directory.Exists(Output));
        TinyRun.Die(Settings);
        Assert.Equal($"{Output} holds checkpoint-4 of an earlier run, and resume_from_checkpoint is false; give another output_dir, or "
            + $"overwrite_output_dir: true to start over", Refused(Settings with { ResumeFrom = ResumeFrom.Never }));
        Assert.Equal(6, TinyRun.Train(Settings with { ResumeFrom = ResumeFrom.Newest, Overwrite = true }).Result.Steps);
    }

    [Fact]
    public void A_path_is_that_checkpoint()
    {
        var straight = TinyRun.Train(Settings with { OutputDir = Output + "-straight" });
        TinyRun.Die(Settings);
        var older = Settings with { ResumeFrom = ResumeFrom.Checkpoint(Checkpoint(2)) };
        Assert.Equal($"{Output} holds checkpoint-4, which is newer than checkpoint-2; overwrite_output_dir: true removes what lies after it", Refused(older));
        Assert.Equal($"{Output}-straight holds checkpoint-6 of another run than {Checkpoint(2)}; give another output_dir, or overwrite_output_dir: true to "
            + $"start over there", Refused(older with { OutputDir = Output + "-straight" }));
        Assert.StartsWith("resume_from_checkpoint: nowhere: no such folder", Refused(Settings with { ResumeFrom = ResumeFrom.Checkpoint("nowhere") }),
            StringComparison.Ordinal);
        Assert.StartsWith($"resume_from_checkpoint: {_folder.Path}: is no folder checkpoint-N",
            Refused(Settings with { ResumeFrom = ResumeFrom.Checkpoint(_folder.Path) }), StringComparison.Ordinal);
        Assert.Equal(straight.Adapter, TinyRun.Train(older with { OutputDir = Output + "-elsewhere" }).Adapter);
        List<string> notes = [];
        Assert.Equal(straight.Adapter, TinyRun.Train(older with { Overwrite = true }, onNote: notes.Add).Adapter);
        Assert.Contains($"resumed from {Checkpoint(2)} at step 2 of 6", notes);
    }

    [Fact]
    public void A_run_that_was_stopped_before_its_first_step_leaves_nothing()
    {
        using var stop = new CancellationTokenSource();
        stop.Cancel();
        Assert.Equal((0, true), (TinyRun.Train(Settings, stop: stop).Result.Steps, true));
        Assert.False(Directory.Exists(Output));
        Assert.Equal(6, TinyRun.Train(Settings).Result.Steps);
    }

    [Fact]
    public void A_run_that_is_started_again_in_the_same_process_goes_on_where_it_was()
    {
        var straight = TinyRun.Train(Settings with { OutputDir = Output + "-straight" }, lora: new(3)).Adapter;
        using var model = TinyRun.Model(new(3));
        var trainer = TinyRun.Trainer(model, Settings with { Overwrite = true }, new(3), evaluate: false);
        using var stop = new CancellationTokenSource();
        trainer.OnStep += s =>
        {
            if (s.Step == 3) stop.Cancel();
        };
        Assert.True(trainer.Run(stop.Token).Interrupted);
        Assert.Equal(6, trainer.Run(TestContext.Current.CancellationToken).Steps);
        Assert.Equal(straight, model.AllTrainable.SelectMany(p => p.Tensor.ToFloats()));
        Assert.Equal([1, 2, 3, 4, 5, 6], trainer.Steps.Select(s => s.Step)); // a picture of them is whole
        List<string> notes = [];
        trainer.OnNote += notes.Add;
        var files = Content();
        var again = trainer.Run(TestContext.Current.CancellationToken);
        Assert.Equal((6, false), (again.Steps, again.Interrupted));
        Assert.StartsWith("this run is finished", Assert.Single(notes), StringComparison.Ordinal);
        Assert.Equal(files, Content());
    }

    private static string Refused(TrainSettings settings, double epochs = 2)
    {
        var error = Assert.ThrowsAny<Exception>(() => TinyRun.Train(settings, epochs: epochs));
        Assert.True(error is ArgumentException or InvalidDataException, error.ToString());
        return error.Message;
    }

    private string Checkpoint(int step) => Path.Combine(Output, $"checkpoint-{step}");

    private List<(string, string)> Content() => [.. Directory.GetFiles(Output, "*", SearchOption.AllDirectories).Order(StringComparer.Ordinal)
        .Select(f => (f, Convert.ToHexString(File.ReadAllBytes(f))))];
}
