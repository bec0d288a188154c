using System.Buffers.Binary;
using System.Text;

using KtNotebooks.Configuration;
using KtNotebooks.Tests.Cli;
using KtNotebooks.Tests.Models;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Training;

/// <summary>What evaluations decide, TensorBoard's files, and the noise of NEFTune.</summary>
[Collection("cpu variant")]
public sealed class EvaluationOnTheWayTests : IDisposable
{
    private readonly Workplace _place = new();

    public void Dispose() => _place.Dispose();

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    [Fact]
    public void A_run_without_a_better_evaluation_ends_early_and_as_finished()
    {
        List<string> notes = [];
        var settings = new TrainSettings
        {
            OutputDir = _place.Output,
            LearningRate = 50,
            EvalStrategy = When.Steps,
            EvalSteps = 1,
            Patience = 2,
            SaveSteps = 0,
        };
        var (result, _) = TinyRun.Train(settings, evaluate: true, onNote: notes.Add);
        Assert.True(result is { Interrupted: false, Steps: < 6 }, $"{result}");
        var measured = File.ReadAllLines(Path.Combine(_place.Output, "trainer_log.jsonl")).Count(l => l.Contains("eval_loss", StringComparison.Ordinal));
        Assert.Equal(result.Steps, measured); // the step that it stops after is not measured again
        Assert.Contains(notes, n => n.Contains("2 evaluations in a row were no better than", StringComparison.Ordinal));
        Assert.True(File.Exists(Path.Combine(_place.Output, "train_results.json")));
    }

    /// <summary>The evaluation that a stop fell into is made when the run goes on: the best and the count are those of the run that was not stopped.</summary>
    [Fact]
    public void An_evaluation_that_was_stopped_is_made_when_the_run_goes_on()
    {
        TrainSettings To(string output) => new()
        {
            OutputDir = output,
            LearningRate = 2,
            EvalStrategy = When.Steps,
            EvalSteps = 2,
            SaveSteps = 2,
            Patience = 5,
            LoadBestAtEnd = true,
        };
        string[] Log(string output) => [.. File.ReadAllLines(Path.Combine(output, "trainer_log.jsonl")).Where(l => l.Contains("eval_loss"))
            .Select(l => System.Text.Json.Nodes.JsonNode.Parse(l)!).Select(l => $"{l["current_steps"]} {l["eval_loss"]}")];
        var whole = TinyRun.Train(To(_place.Output + "-whole"), evaluate: true);
        using (var stop = new CancellationTokenSource())
            Assert.True(TinyRun.Train(To(_place.Output), atStep: (4, stop.Cancel), stop: stop, evaluate: true).Result.Interrupted);
        var ended = TinyRun.Train(To(_place.Output), evaluate: true);
        Assert.Equal(Log(_place.Output + "-whole"), Log(_place.Output));
        Assert.Equal(3, Log(_place.Output).Length);
        Assert.Equal(whole.Adapter, ended.Adapter);
        TrainerState Last(string output) => TrainerState.Read(Path.Combine(output, "checkpoint-6"));
        var (best, same) = (Last(_place.Output + "-whole"), Last(_place.Output));
        Assert.Equal((best.Best!.Step, best.Best.Value, best.Evaluated), (same.Best!.Step, same.Best.Value, same.Evaluated));
    }

    [Fact]
    public void Shares_of_all_steps_that_do_not_meet_are_refused()
    {
        var settings = new TrainSettings
        {
            OutputDir = _place.Output,
            EvalStrategy = When.Steps,
            EvalSteps = 0.3,
            SaveSteps = 0.6,
            LoadBestAtEnd = true,
        };
        Assert.Equal(6, TinyRun.Train(settings, evaluate: true).Result.Steps); // 2 and 4
        Assert.Equal("load_best_model_at_end needs save_steps to be a multiple of eval_steps; of 9 steps they are 5 and 3", Assert.Throws<ArgumentException>(
            () => TinyRun.Train(settings with { EvalSteps = 0.25, SaveSteps = 0.5, OutputDir = _place.Output + "2" }, evaluate: true, epochs: 3)).Message);
    }

    [Fact]
    public void What_was_counted_survives_a_resume()
    {
        var state = new TrainerState();
        state.Advance(new StepReport(3, 9, 1, 1, 0, 0, 1, 1, TimeSpan.Zero, TimeSpan.Zero));
        var best = new Best("rewards/accuracies", IsGreater: true);
        foreach (var value in new[] { 0.5, 0.7, 0.6, 0.7 }) state.Measured(value, best);
        Assert.Equal((0.7, 2), state.Evaluated);
        var folder = Directory.CreateDirectory(Path.Combine(_place.Root, "checkpoint-3")).FullName;
        state.Write(folder, new RunShape(9, 1, 1, 1, 1, 1, 1));
        Assert.Equal((0.7, 2), TrainerState.Read(folder).Evaluated);
    }

    [Theory]
    [InlineData("metric_for_best_model=eval_rewards/margins", "eval_rewards/margins", 1)]
    [InlineData("metric_for_best_model=rewards/margins", "eval_rewards/margins", 1)]
    [InlineData("metric_for_best_model=loss", "eval_loss", -1)]
    public void The_best_is_by_the_metric_that_is_named(string pair, string name, int sign)
    {
        using var run = FineTuneRun.Open(["stage=rm", .. DpoTests.PairRun(_place, _place.Output), "save_steps=1", "eval_strategy=steps", "eval_steps=1",
            "load_best_model_at_end=true", pair]);
        run.Run(Stop);
        var state = System.Text.Json.Nodes.JsonNode.Parse(File.ReadAllText(Path.Combine(_place.Output, "trainer_state.json")))!;
        var values = state["log_history"]!.AsArray().Where(e => e![name] is not null)
            .Select(e => (Step: e!["step"]!.GetValue<int>(), Value: e[name]!.GetValue<double>()))
            .Where(e => Directory.Exists(Path.Combine(_place.Output, $"checkpoint-{e.Step}"))).ToArray();
        Assert.Equal(values.MaxBy(v => sign * v.Value).Value, state["best_metric"]!.GetValue<double>(), 1e-9);
    }

    [Theory]
    [InlineData("sft", "'metric_for_best_model' must be loss with stage: sft, but is 'accuracy'")]
    [InlineData("rm", "must be loss, rewards/chosen, rewards/rejected, rewards/accuracies, rewards/margins with stage: rm, but is 'accuracy'")]
    public void A_metric_that_the_stage_lacks_is_refused_before_anything_is_loaded(string stage, string message) =>
        Assert.Contains(message, Assert.ThrowsAny<Exception>(() => FineTuneKeys.Read(Settings.Read([.. _place.Train($"stage={stage}", "val_size=4",
            "eval_steps=1", "early_stopping_steps=2", "metric_for_best_model=accuracy")[1..]]))).Message, StringComparison.Ordinal);

    [Fact]
    public void Event_files_are_what_TensorBoard_reads()
    {
        using (var run = FineTuneRun.Open([.. _place.Train("val_size=4", "report_to=tensorboard", "max_steps=3")[1..]])) run.Run(Stop);
        var file = Assert.Single(Directory.GetFiles(Path.Combine(_place.Output, "runs"), "events.out.tfevents.*"));
        var events = Events(File.ReadAllBytes(file)).ToArray();
        var losses = File.ReadAllLines(Path.Combine(_place.Output, "trainer_log.jsonl")).Select(l => System.Text.Json.Nodes.JsonNode.Parse(l)!)
            .Where(l => l["loss"] is not null).Select(l => l["loss"]!.GetValue<double>()).ToArray();
        Assert.Equal([1, 2, 3], events.Where(e => e.Tag == "train/loss").Select(e => e.Step));
        foreach (var (e, loss) in events.Where(e => e.Tag == "train/loss").Zip(losses)) Assert.Equal(loss, e.Value, 1e-4);
        Assert.Contains(events, e => e is { Tag: "eval/loss", Step: 3 });
        Assert.Contains(events, e => e.Tag == "train/learning_rate");
    }

    [Fact]
    public void Noise_is_within_its_bound_of_each_sequence_and_does_not_depend_on_parts()
    {
        var batch = Tiny.Batch(3, 4, 9, 2);
        using var whole = EmbeddingNoise.Of(batch, new WindowPart(0, 0, batch.Tokens), 40, 5, 7);
        using var part = EmbeddingNoise.Of(batch, new WindowPart(1, 4, batch.Tokens), 40, 5, 7);
        Assert.Equal(whole.ToFloats()[(4 * 40)..], part.ToFloats());
        var values = whole.ToFloats();
        for (var s = 0; s < batch.Sequences; s++)
        {
            var (from, to) = (batch.SeqStarts[s], batch.SeqStarts[s + 1]);
            var bound = 5 / Math.Sqrt((to - from) * 40.0);
            var own = values[(from * 40)..(to * 40)];
            Assert.InRange(own.Max(Math.Abs), bound * 0.8, bound);
            Assert.InRange(own.Average(), -bound / 3, bound / 3);
        }
    }

    /// <summary>TFRecord frames and Event messages, read by the format's documents; both checksums are recomputed bit by bit.</summary>
    private static IEnumerable<(int Step, string Tag, double Value)> Events(byte[] file)
    {
        for (var at = 0; at < file.Length;)
        {
            var length = (int)BinaryPrimitives.ReadUInt64LittleEndian(file.AsSpan(at));
            Assert.Equal(Masked(file.AsSpan(at, 8)), BinaryPrimitives.ReadUInt32LittleEndian(file.AsSpan(at + 8)));
            var data = file.AsSpan(at + 12, length).ToArray();
            Assert.Equal(Masked(data), BinaryPrimitives.ReadUInt32LittleEndian(file.AsSpan(at + 12 + length)));
            at += 16 + length;
            var fields = Fields(data).ToArray();
            var step = (int)fields.Single(f => f.Number == 2).Value;
            foreach (var value in fields.Where(f => f.Number == 5).SelectMany(f => Fields(f.Bytes)))
            {
                var inner = Fields(value.Bytes).ToArray();
                yield return (step, Encoding.UTF8.GetString(inner.Single(f => f.Number == 1).Bytes),
                    BinaryPrimitives.ReadSingleLittleEndian(inner.Single(f => f.Number == 2).Bytes));
            }
        }
    }

    private static IEnumerable<(int Number, ulong Value, byte[] Bytes)> Fields(byte[] message)
    {
        var at = 0;
        ulong Varint()
        {
            ulong value = 0;
            for (var shift = 0; ; shift += 7)
            {
                value |= (ulong)(message[at] & 0x7F) << shift;
                if (message[at++] < 0x80) return value;
            }
        }
        while (at < message.Length)
        {
            var key = Varint();
            switch (key & 7)
            {
                case 0: yield return ((int)(key >> 3), Varint(), []); break;
                case 1: yield return ((int)(key >> 3), 0, message[at..(at += 8)]); break;
                case 5: yield return ((int)(key >> 3), 0, message[at..(at += 4)]); break;
                default:
                    var length = (int)Varint();
                    yield return ((int)(key >> 3), 0, message[at..(at += length)]);
                    break;
            }
        }
    }

    private static uint Masked(ReadOnlySpan<byte> bytes)
    {
        var crc = uint.MaxValue;
        foreach (var b in bytes)
        {
            crc ^= b;
            for (var bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ ((crc & 1) * 0x82F63B78);
        }
        return ((~crc >> 15) | (~crc << 17)) + 0xA282EAD8;
    }
}
