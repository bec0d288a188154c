using System.Security.Cryptography;

using KtNotebooks.Configuration;
using KtNotebooks.Interop;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Cli;
using KtNotebooks.Tests.Experts;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Training;

/// <summary>
/// Every key of kt train reaches what it is for: with another value the adapter's bytes, the files or the notes of a small run are others. Keys of cards
/// are asked in the tests of cards.
/// </summary>
[Collection(Alone.Name)]
public class KeyEffectTests(Workplace place) : IClassFixture<Workplace>
{
    /// <summary>Keys whose value decides what is learned, with a value other than the run's, and what must be given with both.</summary>
    private static readonly Dictionary<string, (string Value, string[] With)> Learned = new()
    {
        ["learning_rate"] = ("2e-2", []),
        ["weight_decay"] = ("0.5", []),
        ["adam_beta1"] = ("0.5", []),
        ["adam_beta2"] = ("0.9", []),
        ["adam_epsilon"] = ("1e-2", []),
        ["max_grad_norm"] = ("1e-3", []),
        ["num_train_epochs"] = ("2", []),
        ["max_steps"] = ("3", []),
        ["lr_scheduler_type"] = ("constant", []),
        ["lr_scheduler_kwargs.power"] = ("3", ["lr_scheduler_type=polynomial"]),
        ["lr_scheduler_kwargs.warmup_lr_rate"] = ("0.9",
            ["lr_scheduler_type=cosine_warmup_with_min_lr", "lr_scheduler_kwargs.min_lr_rate=0.1", "warmup_steps=3"]),
        ["optim"] = ("lion", []),
        ["use_muon"] = ("true", []),
        ["loraplus_lr_ratio"] = ("4", []),
        ["streaming"] = ("true", ["max_steps=2", "buffer_size=3"]),
        ["buffer_size"] = ("3", ["streaming=true", "max_steps=2"]),
        ["moe_aux_loss_coef"] = ("1", []),
        ["moe_aux_loss_form"] = ("sequence", ["moe_aux_loss_coef=1"]),
        ["router_z_loss_coef"] = ("1", []),
        ["neftune_noise_alpha"] = ("5", []),
        ["warmup_ratio"] = ("0.5", []),
        ["warmup_steps"] = ("2", []),
        ["seed"] = ("7", []),
        ["data_seed"] = ("7", []),
        ["disable_shuffling"] = ("true", []),
        ["bf16"] = ("false", []),
        ["pure_bf16"] = ("true", ["bf16=false"]),
        ["infer_dtype"] = ("float32", []),
        ["lora_rank"] = ("3", []),
        ["lora_alpha"] = ("1", []),
        ["lora_dropout"] = ("0.3", []),
        ["lora_target"] = ("o_proj", []),
        ["use_rslora"] = ("true", []),
        ["lora_experts"] = ("true", []),
        ["lora_form"] = ("fused", ["lora_experts=true"]),
        ["use_dora"] = ("true", []),
        ["additional_target"] = ("lm_head,norm", []),
        ["pissa_init"] = ("true", []),
        ["pissa_iter"] = ("1", ["pissa_init=true"]),
        ["finetuning_type"] = ("full", []),
        ["freeze_trainable_layers"] = ("1", ["finetuning_type=freeze"]),
        ["freeze_trainable_modules"] = ("mlp.experts", ["finetuning_type=freeze"]),
        ["freeze_extra_modules"] = ("norm", ["finetuning_type=freeze"]),
        ["train_router"] = ("false", ["finetuning_type=full"]),
        ["rank_pattern.q_proj"] = ("3", []),
        ["alpha_pattern.q_proj"] = ("3", []),
        ["per_device_train_batch_size"] = ("3", []),
        ["gradient_accumulation_steps"] = ("2", []),
        ["loss_reduction"] = ("micro", ["gradient_accumulation_steps=3"]),
        ["use_kt"] = ("true", ["gradient_accumulation_steps=3"]),
        ["template"] = ("qwen3_nothink", []),
        ["dataset"] = ("short", []),
        ["cutoff_len"] = ("20", []),
        ["max_samples"] = ("6", []),
        ["val_size"] = ("0.5", []),
        ["train_on_prompt"] = ("true", []),
        ["mask_history"] = ("true", ["dataset=talks"]),
        ["mix_strategy"] = ("interleave_under", ["dataset=good,short"]),
        ["interleave_probs"] = ("0.9,0.1", ["dataset=good,short", "mix_strategy=interleave_under"]),
        ["packing"] = ("true", ["cutoff_len=120"]),
        ["neat_packing"] = ("true", ["packing=true", "cutoff_len=120"]),
        ["preprocessing_batch_size"] = ("4", ["packing=true", "per_device_train_batch_size=1"]),
        ["default_system"] = ("Answer.", []),
        ["enable_thinking"] = ("false", ["template=qwen3"]),
        ["tool_format"] = ("qwen", ["dataset=tools"]),
        ["identity_name"] = ("Kitty", ["dataset=names"]),
        ["identity_author"] = ("us", ["dataset=names"]),
        ["stage"] = ("pt", []),
        ["pref_beta"] = ("0.5", ["stage=dpo", "dataset=pairs"]),
        ["pref_ftx"] = ("0.5", ["stage=dpo", "dataset=pairs"]),
        ["pref_loss"] = ("hinge", ["stage=dpo", "dataset=pairs"]),
        ["simpo_gamma"] = ("1", ["stage=dpo", "dataset=pairs", "pref_loss=simpo"]),
        ["ld_alpha"] = ("0.5", ["stage=dpo", "dataset=pairs"]),
        ["kto_chosen_weight"] = ("2", ["stage=kto", "dataset=likes"]),
        ["kto_rejected_weight"] = ("2", ["stage=kto", "dataset=likes"]),
        ["use_dft_loss"] = ("true", []),
        ["use_eaft_loss"] = ("true", []),
        ["eaft_alpha"] = ("0.5", ["use_eaft_loss=true"]),
        ["dpo_label_smoothing"] = ("0.3", ["stage=dpo", "dataset=pairs"]),
    };

    /// <summary>Keys that decide which files or lines a run leaves, with a value other than the run's.</summary>
    private static readonly Dictionary<string, (string Value, string[] With)> Left = new()
    {
        ["logging_steps"] = ("3", []),
        ["logging_strategy"] = ("epoch", []),
        ["logging_first_step"] = ("true", ["logging_steps=4"]),
        ["save_steps"] = ("2", []),
        ["save_strategy"] = ("epoch", ["num_train_epochs=2"]),
        ["save_total_limit"] = ("1", ["save_steps=1"]),
        ["save_only_model"] = ("true", ["save_steps=2"]),
        ["eval_dataset"] = ("short", []),
        ["eval_strategy"] = ("steps", ["val_size=4", "logging_steps=2"]),
        ["eval_steps"] = ("2", ["val_size=4"]),
        ["eval_on_start"] = ("true", ["val_size=4"]),
        ["early_stopping_steps"] = ("1", ["val_size=4", "eval_steps=1", "learning_rate=1e-12"]),
        ["log_routing"] = ("true", []),
        ["report_to"] = ("tensorboard", []),
        ["logging_dir"] = ("LOGS", ["report_to=tensorboard"]),
        ["overwrite_cache"] = ("true", []),
    };

    public static TheoryData<string> LearnedKeys => [.. Learned.Keys];

    public static TheoryData<string> LeftKeys => [.. Left.Keys];

    [Theory]
    [MemberData(nameof(LearnedKeys))]
    public void What_is_learned_depends_on_it(string key)
    {
        var (value, with) = Learned[key];
        Assert.NotEqual(Adapter(Run([], with)), Adapter(Run([$"{key}={value}"], with)));
    }

    [Theory]
    [MemberData(nameof(LeftKeys))]
    public void What_is_left_depends_on_it(string key)
    {
        var (value, with) = Left[key];
        Assert.NotEqual(Traces(Run([], with)), Traces(Run([$"{key}={value}"], with)));
    }

    [Fact]
    public void The_same_run_leaves_the_same()
    {
        Assert.Equal(Adapter(Run([], [])), Adapter(Run([], [])));
        Assert.Equal(Traces(Run([], [])), Traces(Run([], [])));
    }

    [Fact]
    public void Threads_and_kernel_reach_the_native_pool()
    {
        var rules = place.Write("kernel.yaml", "- match: {class: linear}\n  place: {compute: cpu, kernel: plain}\n");
        using (Open(["cpu_infer=1"])) Assert.Equal((1, 1), (Cpu.Threads, Ranges()));
        using (Open([$"kt_optimize_rule={rules}"])) Assert.Equal(Cpu.Plain, Cpu.Variant);
        using (Open([])) Assert.Equal(Environment.GetEnvironmentVariable(Cpu.VariantVariable) ?? Cpu.Variants[0], Cpu.Variant);
        static int Ranges() // into which managed loops are cut
        {
            var count = 0;
            RowParallel.For(1 << 10, 1 << 10, (_, _) => Interlocked.Increment(ref count));
            return count;
        }
        var two = place.Write("two.yaml",
            "- match: {class: linear}\n  place: {compute: cpu, kernel: plain}\n- match: {class: norm}\n  place: {compute: cpu, kernel: avx2}\n");
        Assert.Contains("one CPU variant serves the whole process", Assert.Throws<InvalidDataException>(() => Open([$"kt_optimize_rule={two}"])).Message,
            StringComparison.Ordinal);
        var none = place.Write("none.yaml", "- match: {class: linear}\n  place: {compute: cpu, kernel: amx}\n");
        if (!Cpu.Variants.Contains("amx"))
            Assert.Contains("does not run on this processor", Assert.Throws<NotSupportedException>(() => Open([$"kt_optimize_rule={none}"])).Message,
                StringComparison.Ordinal);
        if (!Cpu.Variants.Contains("amx_int8")) return;
        var bytes = place.Write("bytes.yaml", "- match: {class: linear}\n  place: {compute: cpu, kernel: amx_int8}\n");
        Assert.Contains("multiplies weights stored in int8", Assert.Throws<InvalidDataException>(() => Open([$"kt_optimize_rule={bytes}"])).Message,
            StringComparison.Ordinal);
    }

    [Fact]
    public void Do_train_false_trains_nothing()
    {
        var error = Assert.Throws<ArgumentException>(() => Open(["do_train=false", "do_predict=true"]));
        Assert.Contains("(predictions: `kt predict` with the same file)", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("device=cuda:0", "cuda:0")]
    [InlineData("use_cpu=true", "cpu")]
    [InlineData("no_cuda=true", "cpu")]
    public void A_device_is_where_the_model_goes(string pair, string device) =>
        Assert.Equal(device, SlotsInBytes.Plan(place.Model, PlacementSettings.Read(Settings.Read([pair]))).Placement.Devices[^1].ToString());

    private FineTuneRun Open(string[] pairs) => FineTuneRun.Open([.. Arguments(Path.Combine(place.Root, Path.GetRandomFileName())), .. pairs]);

    private string[] Arguments(string output) =>
    [
        $"model_name_or_path={place.Model}", $"dataset_dir={Sets()}", "dataset=good", "template=deepseek", $"output_dir={output}", "lora_rank=2",
        "cutoff_len=40", "per_device_train_batch_size=6", "learning_rate=1e-2",
        "logging_steps=1", "num_train_epochs=1", "plot_loss=false",
    ];

    private string Run(string[] pairs, string[] with)
    {
        var output = Path.Combine(place.Root, Path.GetRandomFileName());
        using var run = FineTuneRun.Open([.. Arguments(output), .. with, .. pairs]);
        File.WriteAllLines(Path.Combine(Directory.CreateDirectory(output + "-notes").FullName, "notes"), run.Notes);
        run.Run(TestContext.Current.CancellationToken);
        return output;
    }

    private string Sets()
    {
        var folder = Path.Combine(place.Root, "sets");
        if (Directory.Exists(folder)) return folder;
        place.Write("sets/good.json", File.ReadAllText(Path.Combine(place.Root, "data/good.json")));
        place.Write("sets/short.json",
            """[{"instruction": "Hello", "output": "Good day to you"}, {"instruction": "Bye", "output": "See you"}, """
                + """{"instruction": "Thanks", "output": "Welcome"}]""");
        place.Write("sets/talks.json",
            """[{"instruction": "Now", "output": "Then", "history": [["Hello", "Good day"]]}, """
                + """{"instruction": "Why", "output": "So", "history": [["Bye", "See you"]]}]""");
        place.Write("sets/names.json",
            """[{"instruction": "Who are you?", "output": "I am {{name}}, made by {{author}}."}, """
                + """{"instruction": "Name?", "output": "{{name}} of {{author}}"}]""");
        place.Write("sets/pairs.json",
            """[{"instruction": "Hello", "chosen": "Good day to you", "rejected": "What"}, """
                + """{"instruction": "Bye", "chosen": "See you", "rejected": "No"}]""");
        place.Write("sets/likes.json",
            """[{"instruction": "Hello", "output": "Good day to you", "label": true}, {"instruction": "Bye", "output": "No", "label": false}]""");
        place.Write("sets/tools.json",
            """[{"conversations": [{"from": "human", "value": "Add 1"}, {"from": "gpt", "value": "2"}], """
                + """ "tools": "[{\"name\": \"add\", \"description\": \"adds\", \"parameters\": {\"type\": \"object\", \"properties\": {}}}]"}]""");
        place.Write("sets/dataset_info.json", """
            {
              "good": {"file_name": "good.json"}, "short": {"file_name": "short.json"}, "names": {"file_name": "names.json"},
              "talks": {"file_name": "talks.json", "columns": {"prompt": "instruction", "response": "output", "history": "history"}},
              "pairs": {"file_name": "pairs.json", "ranking": true, "columns": {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}},
              "likes": {"file_name": "likes.json", "columns": {"prompt": "instruction", "response": "output", "kto_tag": "label"}},
              "tools": {"file_name": "tools.json", "formatting": "sharegpt", "columns": {"messages": "conversations", "tools": "tools"}}
            }
            """);
        return folder;
    }

    /// <summary>Hash of the weights that a run leaves: an adapter's or a model's.</summary>
    private static string Adapter(string output) =>
        Convert.ToHexString(SHA256.HashData(File.ReadAllBytes(Directory.EnumerateFiles(output, "*model.safetensors").Single())));

    /// <summary>Names of all files, the steps of the log's lines with what they say, and the notes.</summary>
    private static string Traces(string output)
    {
        var files = Directory.EnumerateFiles(output, "*", SearchOption.AllDirectories).Select(f => Path.GetRelativePath(output, f))
            .Order(StringComparer.Ordinal);
        var log = File.ReadAllLines(Path.Combine(output, "trainer_log.jsonl")).Select(line => System.Text.Json.Nodes.JsonNode.Parse(line)!.AsObject())
            .Select(l => $"{l["current_steps"]} {string.Join(' ', l.Select(p => p.Key))}");
        var notes = File.ReadAllLines(Path.Combine(output + "-notes", "notes")).Where(n => n.Contains("encoded", StringComparison.Ordinal));
        return string.Join('\n', [.. files, .. log, .. notes]);
    }
}
