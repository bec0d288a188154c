using KtNotebooks.Evaluation;
using KtNotebooks.Lora;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Cli;
using KtNotebooks.Tests.Models;
using KtNotebooks.Training;
using KtNotebooks.Training.Objectives;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Training;

/// <summary>stage: rm against its definition: −log σ of the difference of the values at the ends of the two answers.</summary>
[Collection("cpu variant")]
public sealed class RewardTests : IDisposable
{
    private readonly Workplace _place = new();

    public void Dispose() => _place.Dispose();

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    public void Loss_and_gradients_are_those_of_the_definition(int parts)
    {
        using var model = Tiny.WithAdapter(chosen: Tiny.Experts);
        model.ValueHead = ValueHead.Fresh(model.Info.Width, Device.Cpu, seed: 3);
        model.ValueHead.Weight.Store([.. model.ValueHead.Weight.ToFloats().Select(v => 4 * v)]); // slopes worth measuring
        var pairs = DpoTests.Pairs();
        double Value(int[] ids)
        {
            var batch = TokenBatch.ForInference([ids]);
            using var hidden = model.Hidden(batch);
            using var normed = model.Norm.Forward(hidden);
            var (h, w) = (normed.ToFloats()[^model.Info.Width..], model.ValueHead.Weight.ToFloats());
            return h.Zip(w).Sum(v => (double)v.First * v.Second) + model.ValueHead.Bias.Item();
        }
        double Definition() => pairs.Average(pair =>
            Math.Log(1 + Math.Exp(-(Value(DpoTests.Split(pair).Chosen.Ids) - Value(DpoTests.Split(pair).Rejected.Ids)))));
        var objective = new RewardObjective();
        var batch = ExampleWindows.Batch(pairs, objective);
        var step = new LayerMajorStep(model, parts: parts) { Objective = objective };
        var learned = step.Learn(batch, cancel: Stop);
        var gradients = Tiny.TakeGradients(model);
        Assert.Contains(ValueHead.WeightName, gradients.Keys);
        var expected = Definition();
        DpoTests.Near(expected, learned.Loss, 1e-4);
        DpoTests.Near(expected, step.Measure(batch, Stop).Loss, 1e-4);
        DpoTests.Near(pairs.Average(p => Value(DpoTests.Split(p).Chosen.Ids) > Value(DpoTests.Split(p).Rejected.Ids) ? 1 : 0),
            learned.Metrics["rewards/accuracies"], 1e-6);

        var length = Math.Sqrt(gradients.Values.Sum(g => g.Sum(v => (double)v * v)));
        double At(double way)
        {
            DpoTests.Move(model, gradients, way / length);
            var loss = Definition();
            DpoTests.Move(model, gradients, -way / length);
            return loss;
        }
        DpoTests.Near(length, (At(2e-3) - At(-2e-3)) / 4e-3, 0.01);
    }

    [Fact]
    public void A_run_tells_the_better_answer_saves_its_head_and_goes_on_to_the_same_bytes()
    {
        List<StepReport> steps = [];
        Run(_place.Output, steps: steps);
        Assert.True(steps[^1].Metrics["rewards/accuracies"] > 0.9 && steps[^1].Loss < steps[0].Loss, string.Join(' ', steps.Select(s => s.Loss)));
        using (var head = new SafetensorsFile(Path.Combine(_place.Output, RewardAdaptation.FileName)))
        {
            using var weight = head.Get("v_head.summary.weight");
            using var bias = head.Get("v_head.summary.bias");
            Assert.Equal(("F32[1, 40]", "F32[1]"), (weight.ToString(), bias.ToString()));
        }
        var stopped = _place.Output + "-stopped";
        Run(stopped, stopAt: 2);
        Run(stopped);
        foreach (var file in new[] { "adapter_model.safetensors", RewardAdaptation.FileName })
            Assert.Equal(File.ReadAllBytes(Path.Combine(_place.Output, file)), File.ReadAllBytes(Path.Combine(stopped, file)));

        // The reward model tells pairs that it has not seen, and says so as LLaMA-Factory does.
        var scores = Path.Combine(_place.Root, "scores");
        string[] predict = ["stage=rm", $"model_name_or_path={_place.Model}", $"adapter_name_or_path={_place.Output}", "infer_dtype=float32",
            $"dataset_dir={Path.Combine(_place.Root, "pairs")}", "eval_dataset=pairs", "template=deepseek", "cutoff_len=40", $"output_dir={scores}"];
        var told = RewardRun.Run(predict, cancel: Stop);
        Assert.Equal((10, 1.0), (told.Rows, told.Accuracy));
        Assert.Equal(10, File.ReadAllLines(Path.Combine(scores, "generated_predictions.jsonl"))
            .Count(l => l.StartsWith("{\"chosen\":", StringComparison.Ordinal)));
        Assert.Contains("choose another output_dir", Assert.Throws<ArgumentException>(() => RewardRun.Run(predict, cancel: Stop)).Message,
            StringComparison.Ordinal);

        // Merged, the head stands beside the weights.
        var (merged, again) = (Path.Combine(_place.Root, "merged"), Path.Combine(_place.Root, "again"));
        using (var export = new AdapterExport(new ExportSettings(_place.Model, [_place.Output], merged)))
        {
            export.Run(cancel: Stop);
            Assert.Contains(export.Notes, n => n.Contains("value_head.safetensors goes into the folder too", StringComparison.Ordinal));
        }
        var alone = RewardRun.Run([.. predict[..1], $"model_name_or_path={merged}", .. predict[3..^1], $"output_dir={again}"], cancel: Stop);
        Assert.Equal((10, 1.0), (alone.Rows, alone.Accuracy));

        // A later run goes on with adapter and head: it begins where this one ended.
        steps.Clear();
        Run(_place.Output + "-further", steps: steps, more: $"adapter_name_or_path={_place.Output}");
        Assert.True(steps[0].Metrics["rewards/accuracies"] > 0.9, $"{steps[0].Metrics["rewards/accuracies"]}");
    }

    [Fact]
    public void A_reward_model_whose_own_weights_were_trained_stands_alone()
    {
        List<StepReport> steps = [];
        Run(_place.Output, more: ["finetuning_type=full", "learning_rate=3e-3"]);
        var told = RewardRun.Run(["stage=rm", $"model_name_or_path={_place.Output}", "finetuning_type=full", "infer_dtype=float32",
            $"dataset_dir={Path.Combine(_place.Root, "pairs")}", "eval_dataset=pairs", "template=deepseek", "cutoff_len=40",
            $"output_dir={Path.Combine(_place.Root, "scores")}"], cancel: Stop);
        Assert.True(told is { Rows: 10, Accuracy: > 0.8 }, $"{told}");
        Run(_place.Output + "-further", steps: steps, more: ["finetuning_type=full", $"model_name_or_path={_place.Output}"]);
        Assert.True(steps[0].Metrics["rewards/accuracies"] > 0.8, $"{steps[0].Metrics["rewards/accuracies"]}");
    }

    private void Run(string output, int stopAt = 0, List<StepReport>? steps = null, params string[] more)
    {
        using var run = FineTuneRun.Open(["stage=rm", .. DpoTests.PairRun(_place, output), .. more]);
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(Stop);
        run.Trainer.OnStep += step =>
        {
            steps?.Add(step);
            if (step.Step == stopAt) stop.Cancel();
        };
        Assert.Equal(stopAt > 0, run.Run(stop.Token).Interrupted);
    }
}
