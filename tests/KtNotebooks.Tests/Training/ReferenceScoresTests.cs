using System.Text.Json.Nodes;

using KtNotebooks.Models;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Cli;
using KtNotebooks.Tests.Models;
using KtNotebooks.Training;
using KtNotebooks.Training.Objectives;

using Xunit;

namespace KtNotebooks.Tests.Training;

/// <summary>Preferences where the base itself is trained: what it said before the first step stays the reference.</summary>
[Collection("cpu variant")]
public sealed class ReferenceScoresTests : IDisposable
{
    private readonly Workplace _place = new();

    public void Dispose() => _place.Dispose();

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData("dpo")]
    [InlineData("kto")]
    public void A_step_with_known_scores_is_the_step_that_computes_them(string stage)
    {
        ITrainingObjective objective = stage == "dpo" ? new DpoObjective(new PreferenceSettings(Beta: 0.5)) : new KtoObjective(0.5);
        using var model = Tiny.WithAdapter();
        using var open = FineTuneRun.Open(["stage=dpo", .. DpoTests.PairRun(_place, _place.Output), "infer_dtype=float32"]);
        var rows = open.Examples;
        var step = new LayerMajorStep(model) { Objective = objective };
        var batch = ExampleWindows.Batch(rows, objective);
        var computed = step.Learn(batch, cancel: Stop);
        var expected = Tiny.TakeGradients(model);

        var scored = ReferenceScores.Of(step, [.. rows], tokens: 1, report: null, Stop);
        Assert.All(scored, row => Assert.Equal(row.Ids.Length, row.Reference.Length));
        var known = ExampleWindows.Batch(scored, objective);
        Assert.Equal(batch.Ids, known.Ids);
        var loss = step.Learn(known, cancel: Stop);
        DpoTests.Near(computed.Loss, loss.Loss, 1e-6);
        DpoTests.Near(step.Measure(batch, Stop).Loss, step.Measure(known, Stop).Loss, 1e-6);
        var scale = expected.Values.Max(g => g.Max(Math.Abs));
        foreach (var (name, values) in Tiny.TakeGradients(model))
            Assert.True(values.Zip(expected[name]).All(v => Math.Abs(v.First - v.Second) <= 1e-5 * scale), name);
    }

    [Theory]
    [InlineData("finetuning_type=full", "learning_rate=1e-3")]
    [InlineData("finetuning_type=freeze", "freeze_trainable_layers=1")]
    [InlineData("additional_target=lm_head,norm", "lora_target=q_proj")]
    public void Rewards_are_against_the_base_as_it_was_and_a_run_goes_on_to_the_same_bytes(string trained, string other)
    {
        string[] keys = [trained, other, "save_steps=3", "eval_strategy=steps", "eval_steps=6"];
        List<double> losses = [];
        using (var run = Open(_place.Output, keys))
        {
            run.Trainer.OnStep += s => losses.Add(s.Loss);
            Assert.False(run.Run(Stop).Interrupted);
            using var before = ModelFolder.Load(_place.Model, DType.F32);
            var (mean, margins) = (0.0, 0.0);
            foreach (var pair in run.HeldOut)
            {
                var (chosen, rejected) = DpoTests.Split(pair);
                double Reward((int[], int[]) of) => 0.5 * (DpoTests.Tokens(run.Model, of).Sum() - DpoTests.Tokens(before, of).Sum());
                mean += Reward(chosen) / run.HeldOut.Count;
                margins += (Reward(chosen) - Reward(rejected)) / run.HeldOut.Count;
            }
            var log = JsonNode.Parse(File.ReadAllText(Path.Combine(_place.Output, "trainer_state.json")))!["log_history"]!.AsArray();
            var measured = log.Last(e => e!["eval_rewards/chosen"] is not null)!;
            DpoTests.Near(mean, measured["eval_rewards/chosen"]!.GetValue<double>(), 1e-3);
            DpoTests.Near(margins, measured["eval_rewards/margins"]!.GetValue<double>(), 1e-3);
            Assert.True(margins > 0.05, $"nothing was learned: {margins}");
        }
        Assert.Equal(Math.Log(2), losses[0], 1e-5); // the policy is the reference still
        Assert.True(losses[^1] < losses[0] - 0.02, string.Join(' ', losses));

        var stopped = _place.Output + "-stopped";
        using (var run = Open(stopped, keys))
        using (var stop = CancellationTokenSource.CreateLinkedTokenSource(Stop))
        {
            run.Trainer.OnStep += s =>
            {
                if (s.Step == 3) stop.Cancel();
            };
            Assert.True(run.Run(stop.Token).Interrupted);
        }
        using (var run = Open(stopped, keys)) run.Run(Stop);
        var file = trained.StartsWith("additional", StringComparison.Ordinal) ? "adapter_model.safetensors" : "model.safetensors";
        Assert.Equal(File.ReadAllBytes(Path.Combine(_place.Output, file)), File.ReadAllBytes(Path.Combine(stopped, file)));
    }

    [Fact]
    public void What_has_no_reference_is_refused_by_name()
    {
        using (var run = Open(_place.Output, ["additional_target=lm_head", "lora_target=q_proj", "max_steps=1"])) run.Run(Stop);
        string[] on = [$"adapter_name_or_path={_place.Output}", "max_steps=1"];
        Assert.Contains("has taken the place of its lm_head (modules_to_save): merge it with kt export",
            Assert.Throws<ArgumentException>(() => Open(_place.Output + "-on", on)).Message, StringComparison.Ordinal);
        Assert.Contains("'streaming' must be false with stage: dpo where weights of the base are trained",
            Assert.ThrowsAny<Exception>(() => Open(_place.Output + "-stream", ["finetuning_type=full", "streaming=true", "val_size=0"])).Message,
            StringComparison.Ordinal);
    }

    private FineTuneRun Open(string output, string[] keys) => FineTuneRun.Open(["stage=dpo", .. DpoTests.PairRun(_place, output), "pref_beta=0.5",
        "infer_dtype=float32", .. keys]);
}
