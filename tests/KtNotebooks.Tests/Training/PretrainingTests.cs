using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Tests.Cli;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Tokenizers;
using KtNotebooks.Training;
using KtNotebooks.Training.Objectives;

using Xunit;

namespace KtNotebooks.Tests.Training;

/// <summary>stage: pt. Texts in a row, cut every cutoff_len tokens, as LLaMA-Factory's PretrainDatasetProcessor does it; every token is learned.</summary>
[Collection("cpu variant")]
public sealed class PretrainingTests : IDisposable
{
    private readonly Workplace _place = new();

    public PretrainingTests()
    {
        _place.Write("texts/texts.jsonl", string.Concat(Enumerable.Range(0, 40).Select(i => $"{{\"text\": \"{Text(i)}\"}}\n")));
        _place.Write("texts/answers.jsonl", """{"text": "What is the weather?", "output": "Fine"}""" + "\n");
        _place.Write("texts/dataset_info.json",
            """
            {
              "texts": {"file_name": "texts.jsonl", "columns": {"prompt": "text"}},
              "answers": {"file_name": "answers.jsonl", "columns": {"prompt": "text", "response": "output"}}
            }
            """);
    }

    public void Dispose() => _place.Dispose();

    [Theory]
    [InlineData(null, 16, 16, false)]
    [InlineData(null, 16, 16, true)]
    [InlineData(true, 16, 15, false)] // upstream takes one token off where packing is given
    public void Texts_follow_each_other_and_are_cut(bool? packing, int cutoff, int length, bool begin)
    {
        var tokenizer = Tokenizer(begin);
        var rows = Pack(new PretrainingObjective(packing), tokenizer, cutoff, horizon: 3, count: 7);
        List<int[]> expected = [];
        foreach (var batch in Enumerable.Range(0, 7).Chunk(3))
        {
            int[] stream = [.. batch.SelectMany(i => tokenizer.Encode(Text(i)).Append(tokenizer.EosId!.Value))];
            for (var from = 0; from + length <= stream.Length; from += length) expected.Add(stream[from..(from + length)]);
        }
        if (begin) foreach (var ids in expected) ids[0] = tokenizer.BosId!.Value;
        Assert.True(expected.Count > 5);
        Assert.Equal(expected, rows.Select(r => r.Ids));
        Assert.All(rows, row => Assert.Equal(row.Ids, row.Labels)); // all of it is learned
        Assert.All(rows, row => Assert.Equal([0], row.Starts));
        Assert.Equal(["x:1", "x:2"], rows.Select(r => r.Source).Distinct().Take(2));
    }

    /// <summary>Upstream leaves the rest of the texts over without a word, and all of them where they fill no sequence.</summary>
    [Theory]
    [InlineData("cutoff_len=2000", "the 40 rows to train on have ")]
    [InlineData("cutoff_len=100 val_size=2", "the 2 rows held out have ")]
    public void Texts_that_fill_no_sequence_are_said(string pairs, string message)
    {
        var error = Assert.Throws<InvalidDataException>(() => FineTuneRun.Open([.. Arguments(_place.Output), .. pairs.Split(' ')]));
        Assert.Contains(message, error.Message, StringComparison.Ordinal);
        Assert.Contains("packing: false, which makes each text a sequence of its own", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Without_packing_a_text_is_a_row(bool begin)
    {
        var tokenizer = Tokenizer(begin);
        var rows = Pack(new PretrainingObjective(false), tokenizer, cutoff: 12, horizon: 3, count: 4);
        Assert.Equal(4, rows.Length);
        for (var i = 0; i < 4; i++)
        {
            int[] whole = [.. begin ? [tokenizer.BosId!.Value] : Array.Empty<int>(), .. tokenizer.Encode(Text(i)), tokenizer.EosId!.Value];
            Assert.Equal(whole[..Math.Min(12, whole.Length)], rows[i].Ids);
            Assert.Equal(rows[i].Ids, rows[i].Labels);
        }
    }

    [Fact]
    public void Steps_lower_the_loss_and_a_stopped_run_goes_on_to_the_same_bytes()
    {
        List<double> losses = [];
        Run(_place.Output, losses: losses);
        Assert.Equal(8, losses.Count);
        Assert.True(losses[^1] < losses[0] - 0.1, string.Join(' ', losses));
        Assert.Contains("\n- pt\n", File.ReadAllText(Path.Combine(_place.Output, "README.md")), StringComparison.Ordinal);

        var stopped = _place.Output + "-stopped";
        Run(stopped, stopAt: 3);
        Assert.Contains("was made with stage \"pt\", now it is not given (sft)", Assert.Throws<ArgumentException>(() =>
            FineTuneRun.Open([.. Arguments(stopped), "stage=sft", "dataset=answers"])).Message, StringComparison.Ordinal);
        Run(stopped);
        Assert.Equal(Adapter(_place.Output), Adapter(stopped));

        var again = _place.Output + "-again";
        using (var run = FineTuneRun.Open(Path.Combine(_place.Output, "training_args.yaml"), $"output_dir={again}"))
            run.Run(TestContext.Current.CancellationToken);
        Assert.Equal(Adapter(_place.Output), Adapter(again));
    }

    [Fact]
    public void Keys_of_conversations_have_no_effect_and_those_of_answers_are_refused()
    {
        var c = Settings.Read(Arguments(_place.Output));
        FineTuneKeys.Read(c);
        Assert.Contains("no effect here: template (stage: pt learns plain text, which no template tells)", c.Finish("kt train"));
        foreach (var key in new[] { "train_on_prompt", "mask_history", "neat_packing" })
            Assert.Equal($"command line: '{key}' must be false for stage: pt, which learns every token of its texts; it goes with stage: sft, but is 'true'",
                Assert.Throws<ArgumentException>(() => FineTuneKeys.Read(Settings.Read([.. Arguments(_place.Output), $"{key}=true"]))).Message);
    }

    [Fact]
    public void An_answer_that_is_not_learned_is_told()
    {
        using var run = FineTuneRun.Open([.. Arguments(_place.Output), "dataset=answers", "packing=false"]);
        Assert.Contains("1 rows have an answer, which stage: pt does not learn: it takes the text of the column 'prompt' alone", run.Notes);
    }

    private static string Text(int i) => $"The weather of day {i} is fine, and the cat is happy{new string('!', i % 3)}";

    private static EncodedExample[] Pack(PretrainingObjective objective, Tokenizer tokenizer, int cutoff, int horizon, int count)
    {
        var encoder = objective.Encoder(new DataSettings { Names = "x", Template = Templates.Get("empty"), Cutoff = cutoff, PackingHorizon = horizon },
            tokenizer);
        Example[] rows = [.. Enumerable.Range(0, count).Select(i => new Example([new Message(Role.User, Text(i))], [], null, null, $"x:{i + 1}"))];
        return encoder.Pack(encoder.EncodeAll(rows, TestContext.Current.CancellationToken));
    }

    /// <summary>The small tokenizer, with add_bos_token or without.</summary>
    private Tokenizer Tokenizer(bool begin)
    {
        var folder = Directory.CreateDirectory(Path.Combine(_place.Root, Path.GetRandomFileName())).FullName;
        Samples.Small.Save(folder);
        var file = Path.Combine(folder, "tokenizer_config.json");
        var config = System.Text.Json.Nodes.JsonNode.Parse(File.ReadAllText(file))!.AsObject();
        config["add_bos_token"] = begin;
        File.WriteAllText(file, config.ToJsonString());
        return KtNotebooks.Tokenizers.Tokenizer.Load(folder);
    }

    private string[] Arguments(string output) =>
    [
        "stage=pt", $"model_name_or_path={_place.Model}", $"dataset_dir={Path.Combine(_place.Root, "texts")}", "dataset=texts", "template=deepseek",
        $"output_dir={output}", "lora_rank=4", "cutoff_len=24", "per_device_train_batch_size=8", "learning_rate=2e-2", "lora_dropout=0.1", "logging_steps=1",
        "max_steps=8", "plot_loss=false",
    ];

    private void Run(string output, int stopAt = 0, List<double>? losses = null)
    {
        using var run = FineTuneRun.Open(Arguments(output));
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(TestContext.Current.CancellationToken);
        run.Trainer.OnStep += step =>
        {
            losses?.Add(step.Loss);
            if (step.Step == stopAt) stop.Cancel();
        };
        Assert.Equal(stopAt > 0, run.Run(stop.Token).Interrupted);
    }

    private static byte[] Adapter(string folder) => File.ReadAllBytes(Path.Combine(folder, "adapter_model.safetensors"));
}
