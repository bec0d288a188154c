using System.Text.Json.Nodes;

using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Tests.Cli;
using KtNotebooks.Tests.Models;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Training;
using KtNotebooks.Training.Objectives;

using Xunit;

namespace KtNotebooks.Tests.Training;

/// <summary>stage: dpo against its definition, computed here in double from all logits of the model and of the base.</summary>
[Collection("cpu variant")]
public sealed class DpoTests : IDisposable
{
    private const int Not = -100;

    private readonly Workplace _place = new();

    public void Dispose() => _place.Dispose();

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    public static TheoryData<PreferenceSettings> Losses => new PreferenceSettings[]
    {
        new(), new(Beta: 2, Smoothing: 0.2), new(Beta: 0.5, Smoothing: 0.1, Supervised: 0.7), new(Beta: 1, LongTail: 0.3, Supervised: 0.4),
        new("hinge", Beta: 0.3), new("hinge", Beta: 2, Supervised: 0.5), new("ipo", Beta: 0.4), new("ipo", Beta: 2, LongTail: 0.5, Supervised: 0.2),
        new("kto_pair", Beta: 0.6), new("kto_pair", Beta: 2, Supervised: 0.3), new("orpo", Beta: 0.7), new("orpo", Beta: 0.1, Supervised: 0.5),
        new("simpo", Beta: 2, Gamma: 0.8), new("simpo", Beta: 1, Gamma: 0, LongTail: 0.6),
    }.Aggregate(new TheoryData<PreferenceSettings>(), (all, settings) =>
    {
        all.Add(settings);
        return all;
    });

    [Theory]
    [MemberData(nameof(Losses))]
    public void Loss_metrics_and_gradients_are_those_of_the_definition(PreferenceSettings settings)
    {
        using var model = Tiny.WithAdapter(chosen: Tiny.Experts); // no small change moves a token to another expert
        using var reference = Tiny.Build(chosen: Tiny.Experts);
        var objective = new DpoObjective(settings);
        var pairs = Pairs();
        var batch = ExampleWindows.Batch(pairs, objective);
        var step = new LayerMajorStep(model) { Objective = objective };

        var expected = Definition(model, reference, pairs, settings);
        var frozen = expected.Kl;
        var learned = step.Learn(batch, cancel: Stop);
        var gradients = Tiny.TakeGradients(model);
        Near(expected.Loss, learned.Loss, 1e-4);
        Near(expected.Loss, step.Measure(batch, Stop).Loss, 1e-4);
        foreach (var (name, value) in expected.Metrics) Near(value, learned.Metrics[name], 1e-4);
        Assert.Equal(expected.Metrics.Keys.Order(), learned.Metrics.Keys.Order());

        // The slope of the definition along the gradient is its length.
        var length = Math.Sqrt(gradients.Values.Sum(g => g.Sum(v => (double)v * v)));
        Assert.True(length > 1e-3);
        double At(double way)
        {
            Move(model, gradients, way / length);
            var loss = Definition(model, reference, pairs, settings, frozen).Loss;
            Move(model, gradients, -way / length);
            return loss;
        }
        var h = 2e-3;
        Near(length, (At(h) - At(-h)) / (2 * h), 0.01);
    }

    /// <summary>Each gradient is that of a cross-entropy whose rows weigh as the definition's derivative by hand says.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    public void Gradients_are_those_of_signed_cross_entropy_and_parts_hold_whole_pairs(int parts)
    {
        const double Beta = 0.8;
        using var model = Tiny.WithAdapter();
        using var reference = Tiny.Build();
        var objective = new DpoObjective(new PreferenceSettings(Beta: Beta));
        var pairs = Pairs();
        var batch = ExampleWindows.Batch(pairs, objective);
        var loss = new LayerMajorStep(model, chunkRows: 16, headRows: 5, parts: parts) { Objective = objective }.Run(batch, cancel: Stop);
        var gradients = Tiny.TakeGradients(model);

        var (policy, other) = (Sums(model, pairs), Sums(reference, pairs));
        var builder = new TokenBatch.Builder();
        for (var p = 0; p < pairs.Length; p++)
        {
            var z = Beta * (policy[p].Chosen - other[p].Chosen - policy[p].Rejected + other[p].Rejected);
            var weight = (float)(Beta / (1 + Math.Exp(z)) / pairs.Length);
            var (chosen, rejected) = Split(pairs[p]);
            builder.Add(chosen.Ids, chosen.Labels, weight).Add(rejected.Ids, rejected.Labels, -weight);
        }
        new LayerMajorStep(model).Run(builder.Build(), cancel: Stop);
        var expected = Tiny.TakeGradients(model);
        Near(Definition(model, reference, pairs, new PreferenceSettings(Beta: Beta)).Loss, loss, 1e-4);
        var scale = expected.Values.Max(g => g.Max(Math.Abs));
        foreach (var (name, values) in expected)
            Assert.True(values.Zip(gradients[name]).All(v => Math.Abs(v.First - v.Second) <= 1e-4 * scale), name);
    }

    [Fact]
    public void A_row_is_its_question_with_either_answer()
    {
        var row = new Example([new Message(Role.User, "What is the weather?")], [new Message(Role.Assistant, "fine"), new Message(Role.Assistant, "happy cat")],
            null, null, "x:1");
        var template = Templates.Get("deepseek");
        var settings = new DataSettings { Names = "x", Template = template, Cutoff = 40 };
        var encoded = new DpoObjective(new PreferenceSettings()).Encoder(settings, Samples.Small).Encode(row);
        var answers = row.Responses.Select(r => new SftEncoder(template, Samples.Small, 40).Encode(row with { Responses = [r] })).ToArray();
        Assert.Equal([.. answers[0].Ids, .. answers[1].Ids], encoded.Ids);
        Assert.Equal([.. answers[0].Labels, .. answers[1].Labels], encoded.Labels);
        Assert.Equal([0, answers[0].Ids.Length], encoded.Starts);
        Assert.True(encoded.Apart);
    }

    [Fact]
    public void Pairs_of_one_answer_twice_are_said()
    {
        Example Row(string rejected, string source) => new([new Message(Role.User, "What is the weather?")],
            [new Message(Role.Assistant, "fine"), new Message(Role.Assistant, rejected)], null, null, source);
        var encoder = new PairEncoder(new DataSettings { Names = "x", Template = Templates.Get("deepseek"), Cutoff = 40 }, Samples.Small);
        encoder.EncodeAll([Row("happy cat", "x:1")], TestContext.Current.CancellationToken);
        Assert.Empty(encoder.Remarks);
        encoder.EncodeAll([Row("fine", "x:2"), Row("happy cat", "x:3"), Row("fine", "x:4")], TestContext.Current.CancellationToken);
        Assert.Contains("2 rows have the same tokens for both answers, as x:", Assert.Single(encoder.Remarks), StringComparison.Ordinal);
    }

    [Fact]
    public void A_run_begins_at_log_two_prefers_what_was_chosen_and_goes_on_to_the_same_bytes()
    {
        List<StepReport> steps = [];
        Run(_place.Output, steps: steps);
        Assert.Equal(Math.Log(2), steps[0].Loss, 1e-6); // the new adapter is the base
        Assert.Equal(0, steps[0].Metrics["rewards/margins"], 1e-6);
        Assert.True(steps[^1].Loss < 0.6, string.Join(' ', steps.Select(s => s.Loss)));
        Assert.True(steps[^1].Metrics["rewards/margins"] > 0.1 && steps[^1].Metrics["rewards/accuracies"] > 0.9);

        string[] names = ["rewards/accuracies", "rewards/chosen", "rewards/margins", "rewards/rejected"];
        var log = File.ReadAllLines(Path.Combine(_place.Output, "trainer_log.jsonl")).Select(line => JsonNode.Parse(line)!.AsObject()).ToArray();
        Assert.All(names, name => Assert.Equal(steps[^1].Metrics[name], log.Last(l => l.ContainsKey("loss"))[name]!.GetValue<double>(), 1e-9));
        var history = JsonNode.Parse(File.ReadAllText(Path.Combine(_place.Output, "trainer_state.json")))!["log_history"]!.AsArray();
        Assert.All(names, name => Assert.Contains(history, entry => entry![name] is not null));
        Assert.All(names, name => Assert.Contains(history, entry => entry!["eval_" + name] is not null));

        var stopped = _place.Output + "-stopped";
        Run(stopped, stopAt: 2);
        Run(stopped);
        Assert.Equal(File.ReadAllBytes(Path.Combine(_place.Output, "adapter_model.safetensors")),
            File.ReadAllBytes(Path.Combine(stopped, "adapter_model.safetensors")));
    }

    [Theory]
    [InlineData("pref_beta=0", "'pref_beta' must be above 0, but is '0'")]
    [InlineData("pref_loss=ppo", "'pref_loss' must be one of sigmoid, hinge, ipo, kto_pair, orpo, simpo, but is 'ppo'")]
    [InlineData("ld_alpha=2", "'ld_alpha' must be in (0, 1], but is '2'")]
    [InlineData("pref_ftx=-1", "'pref_ftx' must be 0 or more, but is '-1'")]
    [InlineData("dpo_label_smoothing=0.5", "'dpo_label_smoothing' must be in [0, 0.5), but is '0.5'")]
    [InlineData("packing=true", "'packing' must be false for stage: dpo, which learns pairs of answers, but is 'true'")]
    public void A_wrong_value_by_its_key(string pair, string message) => Assert.Equal($"command line: {message}",
        Assert.Throws<ArgumentException>(() => FineTuneKeys.Read(Settings.Read([.. Arguments(_place.Output), pair]))).Message);

    [Fact]
    public void Rows_without_pairs_are_refused_by_the_set() =>
        Assert.Contains("The dataset 'good' has no ranking: true", Assert.Throws<NotSupportedException>(() =>
            FineTuneRun.Open([.. Arguments(_place.Output), $"dataset_dir={Path.Combine(_place.Root, "data")}", "dataset=good"])).Message,
            StringComparison.Ordinal);

    private string[] Arguments(string output) => ["stage=dpo", .. PairRun(_place, output), "pref_beta=0.5"];

    /// <summary>A short run of a stage of pairs.</summary>
    internal static string[] PairRun(Workplace place, string output) =>
    [
        $"model_name_or_path={place.Model}", $"dataset_dir={Sets(place)}", "dataset=pairs", "template=deepseek", $"output_dir={output}",
        "lora_rank=4", "cutoff_len=40", "per_device_train_batch_size=4", "learning_rate=1e-2", "logging_steps=1", "max_steps=6", "val_size=2",
        "plot_loss=false",
    ];

    private static string Sets(Workplace place)
    {
        place.Write("pairs/pairs.json", new JsonArray([.. Enumerable.Range(0, 10).Select(i => (JsonNode)new JsonObject
        {
            ["instruction"] = $"What is the weather on day {i}?", ["chosen"] = "The weather is fine.", ["rejected"] = "主人，今天天气真好喵~",
        })]).ToJsonString());
        place.Write("pairs/dataset_info.json",
            """{"pairs": {"file_name": "pairs.json", "ranking": true, "columns": {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}}}""");
        return Path.Combine(place.Root, "pairs");
    }

    private void Run(string output, int stopAt = 0, List<StepReport>? steps = null)
    {
        using var run = FineTuneRun.Open(Arguments(output));
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(Stop);
        run.Trainer.OnStep += step =>
        {
            steps?.Add(step);
            if (step.Step == stopAt) stop.Cancel();
        };
        Assert.Equal(stopAt > 0, run.Run(stop.Token).Interrupted);
    }

    /// <summary>Pairs with questions and answers of several lengths.</summary>
    internal static EncodedExample[] Pairs()
    {
        var random = new Random(6);
        int[] Tokens(int count) => [.. Enumerable.Range(0, count).Select(_ => random.Next(Tiny.Vocabulary))];
        return [.. Enumerable.Range(0, 5).Select(i =>
        {
            var (prompt, chosen, rejected) = (Tokens(2 + i), Tokens(3 + (2 * i)), Tokens(9 - i));
            int[] none = [.. prompt.Select(_ => Not)];
            return new EncodedExample([.. prompt, .. chosen, .. prompt, .. rejected], [.. none, .. chosen, .. none, .. rejected], "x:1")
            {
                Starts = [0, prompt.Length + chosen.Length],
                Apart = true,
            };
        })];
    }

    internal static ((int[] Ids, int[] Labels) Chosen, (int[] Ids, int[] Labels) Rejected) Split(EncodedExample pair)
    {
        var at = pair.Starts[1];
        return ((pair.Ids[..at], pair.Labels[..at]), (pair.Ids[at..], pair.Labels[at..]));
    }

    /// <summary>
    /// The losses as the papers write them, with log p of every token: sums, or means where <see cref="PreferenceSettings.Loss"/> takes them; kto_pair's
    /// divergences are constants.
    /// </summary>
    private static (double Loss, Dictionary<string, double> Metrics, double[] Kl) Definition(CausalLm model, CausalLm reference, EncodedExample[] pairs,
        PreferenceSettings x, double[]? frozen = null)
    {
        double LogSigmoid(double z) => -Math.Log(1 + Math.Exp(-z));
        double Sigmoid(double z) => 1 / (1 + Math.Exp(-z));
        var means = x.Loss is "ipo" or "orpo" or "simpo";
        (double Chosen, double Rejected, int Length)[] Scores(CausalLm of, double? tail) => [.. pairs.Select(pair =>
        {
            var (c, r) = (Tokens(of, Split(pair).Chosen), Tokens(of, Split(pair).Rejected));
            var common = Math.Min(c.Length, r.Length);
            double Score(double[] logp) => (logp.Take(common).Sum() + ((tail ?? 1) * logp.Skip(common).Sum())) / (means ? logp.Length : 1);
            return (Score(c), Score(r), c.Length);
        })];
        var (policy, other) = (Scores(model, x.LongTail), Scores(reference, null));
        if (x.Loss is "orpo" or "simpo") other = [.. other.Select(_ => (0.0, 0.0, 0))];
        double[] kl = frozen ?? [Math.Max(0, policy.Zip(other).Average(p => p.First.Chosen - p.Second.Chosen)),
            Math.Max(0, policy.Zip(other).Average(p => p.First.Rejected - p.Second.Rejected))];
        double loss = 0, sft = 0, odds = 0;
        List<(double Chosen, double Rejected)> rewards = [];
        for (var p = 0; p < pairs.Length; p++)
        {
            var ((sc, sr, length), (rc, rr, _)) = (policy[p], other[p]);
            var m = sc - rc - (sr - rr);
            var logOdds = Math.Log(Math.Exp(sc) / (1 - Math.Exp(sc))) - Math.Log(Math.Exp(sr) / (1 - Math.Exp(sr)));
            loss += x.Loss switch
            {
                "hinge" => Math.Max(0, 1 - (x.Beta * m)),
                "ipo" => Math.Pow(m - (1 / (2 * x.Beta)), 2),
                "kto_pair" => (1 - Sigmoid(x.Beta * (sc - rc - kl[1])) + 1 - Sigmoid(x.Beta * (kl[0] - (sr - rr)))) / 2,
                "orpo" => -sc - (x.Beta * LogSigmoid(logOdds)),
                "simpo" => -LogSigmoid((x.Beta * (sc - sr)) - x.Gamma),
                _ => (-(1 - x.Smoothing) * LogSigmoid(x.Beta * m)) - (x.Smoothing * LogSigmoid(-x.Beta * m)),
            };
            loss -= x.Supervised * sc / (means ? 1 : length);
            (sft, odds) = (sft - sc, odds - LogSigmoid(logOdds));
            rewards.Add((x.Beta * (sc - rc), x.Beta * (sr - rr)));
        }
        var metrics = new Dictionary<string, double>
        {
            ["rewards/chosen"] = rewards.Average(r => r.Chosen),
            ["rewards/rejected"] = rewards.Average(r => r.Rejected),
            ["rewards/accuracies"] = rewards.Average(r => r.Chosen > r.Rejected ? 1.0 : 0),
            ["rewards/margins"] = rewards.Average(r => r.Chosen - r.Rejected),
            ["logps/chosen"] = policy.Average(p => p.Chosen),
            ["logps/rejected"] = policy.Average(p => p.Rejected),
        };
        if (x.Loss == "orpo") (metrics["sft_loss"], metrics["odds_ratio_loss"]) = (sft / pairs.Length, odds / pairs.Length);
        return (loss / pairs.Length, metrics, kl);
    }

    /// <summary>Σ log p of each answer.</summary>
    private static (double Chosen, double Rejected)[] Sums(CausalLm model, EncodedExample[] pairs) =>
        [.. pairs.Select(pair => (Tokens(model, Split(pair).Chosen).Sum(), Tokens(model, Split(pair).Rejected).Sum()))];

    /// <summary>log p of every learned token.</summary>
    internal static double[] Tokens(CausalLm model, (int[] Ids, int[] Labels) sequence)
    {
        using var logits = model.Logits(TokenBatch.ForInference([sequence.Ids]));
        var z = logits.ToFloats();
        List<double> all = [];
        for (var t = 1; t < sequence.Ids.Length; t++)
        {
            if (sequence.Labels[t] == Not) continue;
            var row = z.AsSpan((t - 1) * Tiny.Vocabulary, Tiny.Vocabulary).ToArray().Select(v => (double)v).ToArray();
            var max = row.Max();
            all.Add(row[sequence.Labels[t]] - max - Math.Log(row.Sum(v => Math.Exp(v - max))));
        }
        return [.. all];
    }

    internal static void Move(CausalLm model, Dictionary<string, float[]> gradients, double by)
    {
        foreach (var (name, tensor) in model.AllTrainable)
            tensor.Store([.. tensor.ToFloats().Zip(gradients[name]).Select(v => (float)(v.First + (by * v.Second)))]);
    }

    internal static void Near(double expected, double actual, double share) =>
        Assert.True(Math.Abs(expected - actual) <= share * Math.Max(0.1, Math.Abs(expected)), $"wanted {expected}, but it is {actual}");
}
