using KtNotebooks.Tests.Cli;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Training;

/// <summary>A fine-tuning run from its config: what it leaves, and what it compares before it goes on.</summary>
[Collection("cpu variant")]
public sealed class FineTuneFilesTests : IDisposable
{
    private readonly Workplace _place = new();

    public void Dispose() => _place.Dispose();

    [Fact]
    public void The_config_as_it_was_understood_gives_the_same_adapter()
    {
        Run("lora_dropout=0.1", "val_size=0.25", "max_steps=3", "default_system='Say: \"yes\"'");
        using (var again = FineTuneRun.Open(Path.Combine(_place.Output, "training_args.yaml"),
            $"output_dir={_place.Output}-again")) again.Run(TestContext.Current.CancellationToken);
        Assert.Equal(Adapter(_place.Output), Adapter(_place.Output + "-again"));
        Assert.Equal(File.ReadAllBytes(Path.Combine(_place.Model, "tokenizer.json")), File.ReadAllBytes(Path.Combine(_place.Output, "tokenizer.json")));
    }

    [Fact]
    public void The_card_names_base_data_settings_and_losses_and_leaves_a_person_s_alone()
    {
        Run("val_size=0.25", "max_steps=3");
        var card = File.ReadAllText(Card);
        foreach (var part in new[] { "\nlicense: other\n", $"\nbase_model: {_place.Model}\n", "\n- lora\n",
            $"\n# out\n\nA LoRA adapter for {_place.Model}, trained on good.\n", "\n- learning_rate: 0.01\n", "\n- Loss of the held-out rows: ", "\n| 3 | " })
            Assert.Contains(part, card, StringComparison.Ordinal);
        Run("max_steps=2", "overwrite_output_dir=true");
        Assert.DoesNotContain("\n| 3 | ", File.ReadAllText(Card), StringComparison.Ordinal); // ours: written anew
        File.WriteAllText(Card, "mine");
        Run("max_steps=2", "overwrite_output_dir=true");
        Assert.Equal("mine", File.ReadAllText(Card));
    }

    /// <summary>One differing setting each: all of them decide what is learned.</summary>
    [Theory]
    [InlineData("learning_rate=2e-2", "learning_rate 0.01, now it is 0.02")]
    [InlineData("lr_scheduler_type=linear", "lr_scheduler_type \"cosine\", now it is \"linear\"")]
    [InlineData("warmup_ratio=0.2", "warmup_ratio 0, now it is 0.2")]
    [InlineData("max_grad_norm=2", "max_grad_norm 1, now it is 2")]
    [InlineData("weight_decay=0.1", "weight_decay 0, now it is 0.1")]
    [InlineData("adam_beta2=0.9", "adam_beta2 0.999, now it is 0.9")]
    [InlineData("seed=43", "seed 42, now it is 43")]
    [InlineData("lora_rank=3", "lora_rank 2, now it is 3")]
    [InlineData("lora_dropout=0.2", "lora_dropout 0, now it is 0.2")]
    [InlineData("lora_target=o_proj", "lora_target \"all\", now it is \"o_proj\"")]
    [InlineData("cutoff_len=39", "cutoff_len 40, now it is 39")]
    [InlineData("max_samples=20", "max_samples not given, now it is 20")]
    [InlineData("template=empty", "template \"deepseek\", now it is \"empty\"")]
    [InlineData("default_system=Meow", "default_system not given, now it is \"Meow\"")]
    [InlineData("train_on_prompt=true", "train_on_prompt false, now it is true")]
    [InlineData("per_device_train_batch_size=3", "per_device_train_batch_size 2, now it is 3")]
    [InlineData("gradient_accumulation_steps=2", "gradient_accumulation_steps 1, now it is 2")]
    [InlineData("loss_reduction=micro", "loss_reduction \"token\", now it is \"micro\"")]
    [InlineData("infer_dtype=float32", "infer_dtype \"bfloat16\", now it is \"float32\"")]
    public void A_run_does_not_go_on_with_another(string pair, string difference)
    {
        Stop();
        var error = Assert.Throws<ArgumentException>(() => FineTuneRun.Open(_place.Train(pair)[1..]).Dispose());
        Assert.Equal($"{Path.Combine(_place.Output, "checkpoint-2")}: was made with {difference}; give another output_dir, or overwrite_output_dir: true "
            + "to start over", error.Message);
    }

    [Fact]
    public void A_run_does_not_go_on_with_other_rows_or_another_base()
    {
        Stop();
        var rows = Path.Combine(_place.Root, "data", "good.json");
        var text = File.ReadAllText(rows);
        File.WriteAllText(rows, text.Replace("on day 7?", "on day 8?", StringComparison.Ordinal));
        Assert.Contains(": was made with rows of dataset (sha256) ",
            Assert.Throws<ArgumentException>(() => FineTuneRun.Open(_place.Train()[1..]).Dispose()).Message, StringComparison.Ordinal);
        File.WriteAllText(rows, text);
        var other = Path.Combine(_place.Root, "other");
        KtNotebooks.Tests.Models.Tiny.Save(other, seed: 5);
        using (var run = FineTuneRun.Open(_place.Train($"model_name_or_path={other}")[1..]))
            Assert.Contains(": was made with weights of model_name_or_path (fingerprint) ",
                Assert.Throws<ArgumentException>(() => run.Run(TestContext.Current.CancellationToken)).Message, StringComparison.Ordinal);
        // The same base elsewhere is the same base, and where it is computed does not matter.
        Directory.Move(_place.Model, other + "-moved");
        using (var run = FineTuneRun.Open(_place.Train($"model_name_or_path={other}-moved", "chunk_size=16", "save_steps=5",
            "logging_steps=3")[1..])) Assert.Equal(12, run.Run(TestContext.Current.CancellationToken).Steps);
    }

    /// <summary>Routers give F32 scores of BF16 rows, with a pair on them too.</summary>
    [Fact]
    public void A_router_with_a_pair_is_trained_in_BF16_as_well()
    {
        using var run = FineTuneRun.Open(_place.Train("lora_target=gate,q_proj", "bf16=true", "max_steps=2", "plot_loss=false")[1..]);
        Assert.Contains(run.Model.AllTrainable, p => p.Name == "model.layers.1.mlp.gate.lora_B.weight");
        run.Run(TestContext.Current.CancellationToken);
        Assert.Contains(run.Model.AllTrainable.Where(p => p.Name.EndsWith("gate.lora_B.weight", StringComparison.Ordinal)),
            p => p.Tensor.ToFloats().Any(v => v != 0));
    }

    /// <summary>What can be learned is said to be learned, once that no answer of it will end.</summary>
    [Fact]
    public void A_template_whose_answers_end_with_no_token_is_told_before_training()
    {
        using (var run = FineTuneRun.Open(_place.Train("template=qwen3", "max_steps=1")[1..]))
            Assert.Contains(run.Notes, n => n.StartsWith("the tokenizer has no token '<|im_end|>', with which the template 'qwen3' ends answers",
                StringComparison.Ordinal));
        using (var run = FineTuneRun.Open(_place.Train("max_steps=1")[1..]))
            Assert.DoesNotContain(run.Notes, n => n.Contains("the tokenizer has no token", StringComparison.Ordinal));
    }

    [Fact]
    public void The_folder_of_the_model_or_of_the_adapter_is_no_output_folder()
    {
        Assert.StartsWith($"output_dir is model_name_or_path too, {_place.Model}: ", Refused($"output_dir={_place.Model}/", "overwrite_output_dir=true"),
            StringComparison.Ordinal);
        Assert.StartsWith("output_dir is adapter_name_or_path too, ", Refused($"adapter_name_or_path={_place.Output}", "overwrite_output_dir=true"),
            StringComparison.Ordinal);
        Assert.Equal("learning_rate must be a number above 0, but is -1", Refused("learning_rate=-1"));
        Assert.False(Directory.Exists(_place.Output));
    }

    private string Card => Path.Combine(_place.Output, "README.md");

    private string Refused(params string[] pairs) => Assert.Throws<ArgumentException>(() => FineTuneRun.Open(_place.Train(pairs)[1..]).Dispose()).Message;

    private void Run(params string[] pairs)
    {
        using var run = FineTuneRun.Open(_place.Train(pairs)[1..]);
        run.Run(TestContext.Current.CancellationToken);
    }

    /// <summary>A run that was stopped after two steps.</summary>
    private void Stop()
    {
        using var run = FineTuneRun.Open(_place.Train()[1..]);
        using var stop = new CancellationTokenSource();
        run.Trainer.OnStep += s =>
        {
            if (s.Step == 2) stop.Cancel();
        };
        Assert.True(run.Run(stop.Token).Interrupted);
    }

    private static byte[] Adapter(string folder) => File.ReadAllBytes(Path.Combine(folder, "adapter_model.safetensors"));
}
