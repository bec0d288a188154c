using System.Text.Json.Nodes;

using KtNotebooks.Data;
using KtNotebooks.Tests.Cli;
using KtNotebooks.Tests.Models;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Training;
using KtNotebooks.Training.Objectives;

using Xunit;

namespace KtNotebooks.Tests.Training;

/// <summary>stage: kto against its definition (Ethayarajh et al. 2024) in double, and its rows from the three forms of data sets.</summary>
[Collection("cpu variant")]
public sealed class KtoTests : IDisposable
{
    private readonly Workplace _place = new();

    public void Dispose() => _place.Dispose();

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData(0.3, 1, 1, 0)]
    [InlineData(2, 1.5, 0.7, 0.4)]
    public void Loss_and_gradients_are_those_of_the_definition(double beta, double wanted, double unwanted, double supervised)
    {
        using var model = Tiny.WithAdapter(chosen: Tiny.Experts);
        using var reference = Tiny.Build(chosen: Tiny.Experts);
        var objective = new KtoObjective(beta, wanted, unwanted, supervised);
        EncodedExample[] rows = [.. DpoTests.Pairs().Select((row, i) => row with { Tag = i % 3 == 0 ? LikingEncoder.Unwanted : LikingEncoder.Wanted })];
        double Definition(ref double? z)
        {
            (double Ratio, double LogP, int Count) Of((int[] Ids, int[] Labels) sequence)
            {
                var logp = DpoTests.Tokens(model, sequence);
                return (logp.Sum() - DpoTests.Tokens(reference, sequence).Sum(), logp.Sum(), logp.Length);
            }
            z ??= Math.Max(0, rows.Average(row => Of(DpoTests.Split(row).Rejected).Ratio));
            double loss = 0, rarity = (double)rows.Length / rows.Count(row => row.Tag == LikingEncoder.Wanted); // LLaMA-Factory's n / n_w
            foreach (var row in rows)
            {
                var (ratio, logp, count) = Of(DpoTests.Split(row).Chosen);
                var isWanted = row.Tag == LikingEncoder.Wanted;
                var value = 1 / (1 + Math.Exp(-beta * (isWanted ? ratio - z.Value : z.Value - ratio)));
                loss += ((isWanted ? wanted : unwanted) * (1 - value)) - (isWanted ? supervised * rarity * rarity * logp / count : 0);
            }
            return loss / rows.Length;
        }
        double? z = null;
        var expected = Definition(ref z);
        var batch = ExampleWindows.Batch(rows, objective);
        var step = new LayerMajorStep(model, parts: 3) { Objective = objective };
        var learned = step.Learn(batch, cancel: Stop);
        var gradients = Tiny.TakeGradients(model);
        DpoTests.Near(expected, learned.Loss, 1e-4);
        DpoTests.Near(expected, step.Measure(batch, Stop).Loss, 1e-4);
        DpoTests.Near(z!.Value, learned.Metrics["kl"], 1e-4);

        var length = Math.Sqrt(gradients.Values.Sum(g => g.Sum(v => (double)v * v)));
        Assert.True(length > 1e-3);
        double At(double way)
        {
            DpoTests.Move(model, gradients, way / length);
            var loss = Definition(ref z); // through z goes no gradient
            DpoTests.Move(model, gradients, -way / length);
            return loss;
        }
        var h = 2e-3;
        DpoTests.Near(length, (At(h) - At(-h)) / (2 * h), 0.01);
    }

    /// <summary>Alpaca, sharegpt and openai rows of one meaning become the same ids: the answer, and the answer of the row before.</summary>
    [Theory]
    [InlineData("alpaca", """{"instruction": "QUESTION", "output": "ANSWER", "label": LABEL}""",
        """{"prompt": "instruction", "response": "output", "kto_tag": "label"}""")]
    [InlineData("sharegpt", """{"conversations": [{"from": "human", "value": "QUESTION"}, {"from": "gpt", "value": "ANSWER"}], "label": LABEL}""",
        """{"messages": "conversations", "kto_tag": "label"}""")]
    [InlineData("openai", """{"messages": [{"role": "user", "content": "QUESTION"}, {"role": "assistant", "content": "ANSWER"}], "label": LABEL}""",
        """{"messages": "messages", "kto_tag": "label"}""")]
    public void Rows_of_every_form(string form, string row, string columns)
    {
        string Row(string question, string answer, string label) => row.Replace("QUESTION", question, StringComparison.Ordinal)
            .Replace("ANSWER", answer, StringComparison.Ordinal).Replace("LABEL", label, StringComparison.Ordinal);
        var folder = Sets($"[{Row("What is the weather?", "fine", "true")}, {Row("hello", "happy cat", "false")}, {Row("day", "no", "null")}]", columns, form);
        var template = Templates.Get("deepseek");
        var settings = new DataSettings { Folder = folder, Names = "likes", Template = template, Cutoff = 40 };
        var data = TrainingData.Load(settings, _place.Model, new KtoObjective(0.1).Encoder(settings, Samples.Small), Stop);
        int[] Ids(string question, string answer) => new SftEncoder(template, Samples.Small, 40).Encode(
            new Example([new Message(Role.User, question)], [new Message(Role.Assistant, answer)], null, null, "x:1")).Ids;
        Assert.Equal([LikingEncoder.Wanted, LikingEncoder.Unwanted], data.Train.Select(r => r.Tag));
        Assert.Equal([.. Ids("What is the weather?", "fine"), .. Ids("What is the weather?", "happy cat")], data.Train[0].Ids);
        Assert.Equal([.. Ids("hello", "happy cat"), .. Ids("hello", "fine")], data.Train[1].Ids);
        Assert.EndsWith("whether its answer is wanted (kto_tag) is neither true nor false", Assert.Single(data.Skipped), StringComparison.Ordinal);
    }

    /// <summary>A CSV file has no other true than the word, as pandas writes it.</summary>
    [Theory]
    [InlineData("True", "False", null)]
    [InlineData("true", "true", "every answer is a wanted one")]
    [InlineData("FALSE", "FALSE", "every answer is an unwanted one")]
    public void A_column_of_words_and_of_one_kind(string first, string second, string? remark)
    {
        var folder = Sets($"question,answer,label\nhello,happy cat,{first}\nday,fine,{second}\n",
            """{"prompt": "question", "response": "answer", "kto_tag": "label"}""", "alpaca", "likes.csv");
        var settings = new DataSettings { Folder = folder, Names = "likes", Template = Templates.Get("deepseek"), Cutoff = 40 };
        var data = TrainingData.Load(settings, _place.Model, new KtoObjective(0.1).Encoder(settings, Samples.Small), Stop);
        int Tag(string word) => bool.Parse(word) ? LikingEncoder.Wanted : LikingEncoder.Unwanted;
        Assert.Equal([Tag(first), Tag(second)], data.Train.Select(r => r.Tag));
        if (remark is null) Assert.Empty(data.Remarks);
        else Assert.StartsWith(remark, Assert.Single(data.Remarks), StringComparison.Ordinal);
    }

    [Fact]
    public void Stage_sft_names_the_tag_that_it_does_not_learn_from()
    {
        var folder = Sets("""[{"q": "hello", "a": "cat", "label": true}]""", """{"prompt": "q", "response": "a", "kto_tag": "label"}""", "alpaca");
        Assert.StartsWith("The dataset 'likes' names a kto_tag (answers that are wanted or not), from which stage: kto learns. ",
            Assert.Throws<NotSupportedException>(() => DatasetLoader.Read(folder, "likes", need: Need.Answer, cancel: Stop)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_set_without_the_column_is_refused() =>
        Assert.Contains("names no kto_tag in its 'columns'", Assert.Throws<NotSupportedException>(() =>
            FineTuneRun.Open([.. Arguments(_place.Output), $"dataset_dir={Path.Combine(_place.Root, "data")}", "dataset=good"])).Message,
            StringComparison.Ordinal);

    [Fact]
    public void A_run_learns_what_is_wanted_and_goes_on_to_the_same_bytes()
    {
        List<StepReport> steps = [];
        Run(_place.Output, steps: steps);
        Assert.Equal(0.5, steps[0].Loss, 1e-6); // the new adapter is the base
        Assert.True(steps[^1].Loss < 0.45 && steps[^1].Metrics["rewards/margins"] > 0.1, string.Join(' ', steps.Select(s => s.Loss)));
        Run(_place.Output + "-stopped", stopAt: 2);
        Run(_place.Output + "-stopped");
        Assert.Equal(File.ReadAllBytes(Path.Combine(_place.Output, "adapter_model.safetensors")),
            File.ReadAllBytes(Path.Combine(_place.Output + "-stopped", "adapter_model.safetensors")));
    }

    private string[] Arguments(string output) =>
    [
        "stage=kto", $"model_name_or_path={_place.Model}", "dataset=likes", "template=deepseek", $"output_dir={output}", "lora_rank=4", "cutoff_len=40",
        "per_device_train_batch_size=4", "learning_rate=1e-2", "logging_steps=1", "max_steps=8", "val_size=2", "plot_loss=false", "pref_beta=0.5",
    ];

    private void Run(string output, int stopAt = 0, List<StepReport>? steps = null)
    {
        var rows = new JsonArray([.. Enumerable.Range(0, 10).Select(i => (JsonNode)new JsonObject
        {
            ["instruction"] = $"What is the weather on day {i}?", ["output"] = i % 2 == 0 ? "The weather is fine." : "主人，今天天气真好喵~", ["label"] = i % 2 == 0,
        })]);
        var sets = Sets(rows.ToJsonString(), """{"prompt": "instruction", "response": "output", "kto_tag": "label"}""", "alpaca");
        using var run = FineTuneRun.Open([.. Arguments(output), $"dataset_dir={sets}"]);
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(Stop);
        run.Trainer.OnStep += step =>
        {
            steps?.Add(step);
            if (step.Step == stopAt) stop.Cancel();
        };
        Assert.Equal(stopAt > 0, run.Run(stop.Token).Interrupted);
    }

    private string Sets(string rows, string columns, string form, string file = "likes.json")
    {
        _place.Write($"likes/{file}", rows);
        _place.Write("likes/dataset_info.json",
            $$"""{"likes": {"file_name": "{{file}}", "formatting": "{{form}}", "columns": {{columns}} } }""");
        return Path.Combine(_place.Root, "likes");
    }
}
