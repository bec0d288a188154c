using System.CommandLine;

using KtNotebooks.Course;
using KtNotebooks.Data;
using KtNotebooks.Distributed;
using KtNotebooks.Interactive;
using KtNotebooks.Nn;
using KtNotebooks.Training;

namespace KtNotebooks.Cli;

/// <summary>`kt train` and `kt pretrain`: one config, one run, with progress, logs and a loss picture. Ctrl-C stops after saving.</summary>
internal static class TrainCommands
{
    public static Command CreateTrain()
    {
        var arguments = Arguments();
        var command = new Command("train", "Fine-tune with LoRA as a YAML file says: kt train CONFIG.yaml key=value …") { arguments };
        command.SetAction((parsed, cancel) => Task.Run(() => Train(parsed.GetValue(arguments)!, cancel)));
        return command;
    }

    public static Command CreatePretrain()
    {
        var arguments = Arguments();
        var command = new Command("pretrain",
            "Train a small model from nothing on the project's own corpus: kt pretrain CONFIG.yaml key=value …") { arguments };
        command.SetAction((parsed, cancel) => Task.Run(() => Pretrain(parsed.GetValue(arguments)!, cancel)));
        return command;
    }

    private static Argument<string[]> Arguments() =>
        new("CONFIG") { Description = "a YAML file and key=value pairs over it, or key=value pairs alone", Arity = ArgumentArity.OneOrMore };

    private static int Train(string[] arguments, CancellationToken cancel)
    {
        var ranks = Together.Join(cancel);
        using var run = FileProgress.Load(report => FineTuneRun.Open(report, arguments, ranks, cancel), cancel);
        foreach (var note in run.Notes) Console.WriteLine(note);
        Console.WriteLine(FirstExampleReport.Of(run.Examples[0], run.Tokenizer));
        var trained = run.Model.AllTrainable.Sum(p => p.Tensor.Count);
        var beside = run.Model.AllTrainable.Where(p => p.Name.Contains(".lora_", StringComparison.Ordinal)
            || p.Name is ValueHead.WeightName or ValueHead.BiasName).Sum(p => p.Tensor.Count);
        var all = run.Model.AllWeights.Sum(w => w.Count) + beside; // full and freeze train weights of the model itself
        Console.WriteLine($"trainable params: {trained:N0} || all params: {all:N0} || trainable%: {100.0 * trained / all:F4}");
        return Follow(run.Trainer, run.Training, run.Run, cancel);
    }

    private static int Pretrain(string[] arguments, CancellationToken cancel)
    {
        using var run = PretrainRun.Open(arguments);
        foreach (var note in run.Notes) Console.WriteLine(note);
        Console.WriteLine($"{run.Model.AllWeights.Sum(p => p.Count):N0} parameters, vocabulary {run.Tokenizer.VocabSize}");
        return Follow(run.Trainer, run.Training, run.Run, cancel);
    }

    private static int Follow(Trainer trainer, TrainSettings settings, Func<CancellationToken, TrainResult> run, CancellationToken cancel)
    {
        cancel.ThrowIfCancellationRequested();
        var result = ProgressLine.Follow("starting", line =>
        {
            trainer.OnNote += line.Note;
            trainer.OnEvaluation += (step, loss) => line.Note($"step {step}: eval_loss {loss:F4}");
            trainer.OnStep += s => line.Report(s.Step, s.TotalSteps, Describe(s));
            return run(cancel);
        });
        if (result.Steps == 0)
        {
            Console.WriteLine("stopped before the first step was done; nothing is saved");
            return Signals.Stopped;
        }
        var outputDir = settings.OutputDir;
        if (settings.PlotLoss && trainer.Ranks.IsFirst() && TrainingLossPlot.SaveFromTrainerState(outputDir).Count == 0)
            Console.WriteLine($"no picture of the loss: none was logged in {result.Steps} steps (logging_steps is {settings.LoggingSteps})");
        Console.WriteLine(result.Interrupted
            ? $"stopped after step {result.Steps} of {result.TotalSteps}; saved in {outputDir}; the same command"
            + $"{(settings.Overwrite ? " with overwrite_output_dir=false" : "")} goes on from there"
            : $"done: {result.Steps} steps in {TrainerLog.Duration(result.Elapsed)}, {result.TokensPerSecond:N0} tokens/s, mean "
            + $"loss {result.MeanLoss:F4}{(result.EvalLoss is { } e ? $", eval_loss {e:F4}" : "")}; saved in {outputDir}");
        return result.Interrupted ? Signals.Stopped : 0;
    }

    private static string Describe(StepReport s) =>
        $"step {s.Step}/{s.TotalSteps}  loss {s.Loss:F4}  {string.Concat(s.Metrics.Select(m => $"{m.Key} {m.Value:F4}  "))}lr {s.LearningRate:0.00e+00}  "
        + $"{s.TokensPerSecond:N0} tokens/s  ETA {TrainerLog.Duration(s.Remaining)}";
}
