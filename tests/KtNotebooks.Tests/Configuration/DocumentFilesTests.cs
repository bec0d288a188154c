using KtNotebooks.Configuration;
using KtNotebooks.Formats;
using KtNotebooks.Generation;
using KtNotebooks.Tests.Cli;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Configuration;

/// <summary>
/// The three files of the document that this project started from, as they stand (Documents/), with no more than other paths of model and data; and
/// LLaMA-Factory's KTransformers examples, key by key.
/// </summary>
public class DocumentFilesTests(Workplace place) : IClassFixture<Workplace>
{
    /// <summary>What each of LLaMA-Factory's KTransformers examples adds to the keys that they share.</summary>
    private static readonly Dictionary<string, string[]> Examples = new()
    {
        ["deepseek2_lora_sft_kt"] = ["kt_optimize_rule=examples/kt_optimize_rules/DeepSeek-V2-Lite-Chat-sft-amx.yaml", "cpu_infer=32", "chunk_size=8192"],
        ["deepseek_v2_lora_sft_kt"] = ["max_samples=10000", "ddp_timeout=7200", "gradient_accumulation_steps=4"],
        ["deepseek_v3_lora_sft_kt"] = ["kt_cpu_activation=retain", .. Block("bf16", "AMXBF16")],
        ["deepseek_v3_int8_lora_sft_kt"] = ["lora_alpha=16", "kt_cpu_activation=retain", "kt_config.kt_weight_lifecycle=persistent", .. Block("int8", "auto")],
        ["qwen3moe_lora_sft_kt"] = ["template=qwen3"],
        ["qwen3_5moe_lora_sft_kt"] = ["kt_cpu_activation=retain", "kt_config.kt_model_max_length=2176", .. Block("bf16", "AMXBF16")],
    };

    public static TheoryData<string> Names => [.. Examples.Keys];

    [Fact]
    public void The_training_file_says_what_it_says()
    {
        var c = Settings.Read([Document("deepseek3_lora_sft_kt.yaml"), $"model_name_or_path={place.Model}"]);
        var keys = FineTuneKeys.Read(c);
        Assert.Equal(
        [
            "no effect here: trust_remote_code (no code of a model's folder is run; the models are built in)",
            "no effect here: preprocessing_num_workers (rows are encoded on all processors)",
            "no effect here: dataloader_num_workers (rows are in memory before the first step)",
            "no effect here: ddp_timeout (the ranks that mpirun, srun or torchrun start share every step; nothing of it is set here)",
        ], c.Finish("kt train"));
        Assert.Equal((LossReduction.Micro, 1, 8, 3.0, 1e-4, "cosine", 0.1),
            (keys.Reduction, keys.Batch, keys.Accumulation, keys.Epochs, keys.Training.LearningRate, keys.Training.Schedule, keys.Training.WarmupRatio));
        Assert.Equal((8, 16.0, 2048, "identity", "data"), (keys.Lora.Rank, keys.Lora.EffectiveAlpha, keys.Data.Cutoff, keys.Data.Names, keys.Data.Folder));
        Assert.EndsWith("rules/DeepSeek-V3-Chat-sft-amx-multi-gpu.yaml", keys.Placement.Rules!.Path, StringComparison.Ordinal);
    }

    [Fact]
    public void It_trains_and_its_chat_and_api_files_take_the_adapter()
    {
        // Its rules name two cards; `device: cpu` is what the refusal of a machine without them tells to write.
        string[] here = [$"model_name_or_path={place.Model}", $"dataset_dir={Path.Combine(place.Root, "data")}", "dataset=good",
            $"output_dir={place.Output}-document", "device=cpu"];
        using (var run = FineTuneRun.Open([Document("deepseek3_lora_sft_kt.yaml"), .. here]))
        {
            var result = run.Run(TestContext.Current.CancellationToken);
            Assert.Equal((9, 9), (result.Steps, result.TotalSteps)); // 24 rows: ⌈24 / 8⌉ steps, 3 epochs
        }
        Assert.True(File.Exists(Path.Combine($"{place.Output}-document", "adapter_model.safetensors")));
        Assert.True(File.Exists(Path.Combine($"{place.Output}-document", "all_results.json")));
        foreach (var file in (string[])["chat.yaml", "api.yaml"])
        {
            using var chat = ChatSession.Open(Document(file), $"model_name_or_path={place.Model}", $"adapter_name_or_path={place.Output}-document",
                "device=cpu", "max_new_tokens=4");
            Assert.NotNull(chat.Adapter);
        }
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void Every_example_of_LLaMA_Factory_is_read(string name)
    {
        string[] shared =
        [
            $"model_name_or_path={place.Model}", "trust_remote_code=true", "stage=sft", "do_train=true", "finetuning_type=lora", "lora_rank=8",
            "lora_target=all", "dataset=identity, alpaca_en_demo", "template=deepseek3", "cutoff_len=2048",
            "max_samples=100000", "overwrite_cache=true", "preprocessing_num_workers=16", "dataloader_num_workers=4", $"output_dir={place.Output}",
            "logging_steps=10", "save_steps=500", "plot_loss=true", "overwrite_output_dir=true",
            "save_only_model=false", "report_to=none", "per_device_train_batch_size=1", "gradient_accumulation_steps=8", "learning_rate=1.0e-4",
            "num_train_epochs=3.0", "lr_scheduler_type=cosine", "warmup_ratio=0.1", "bf16=true",
            "ddp_timeout=180000000", "resume_from_checkpoint=null", "use_kt=true",
        ];
        var c = Settings.Read([.. shared, .. Examples[name]]);
        var keys = FineTuneKeys.Read(c);
        Assert.All(c.Finish("kt train"), note => Assert.StartsWith("no effect here: ", note, StringComparison.Ordinal));
        Assert.Equal(name.Contains("int8", StringComparison.Ordinal) ? StorageFormat.Int8
            : name.Contains("v3_lora", StringComparison.Ordinal) || name.Contains("3_5", StringComparison.Ordinal) ? StorageFormat.BF16 : null,
            keys.Placement.ExpertFormat);
        Assert.Equal(name.StartsWith("deepseek2", StringComparison.Ordinal), keys.Placement.Rules is not null);
    }

    [Fact]
    public void Weights_beside_the_checkpoint_are_refused_with_what_to_write()
    {
        var c = Settings.Read(["kt_weight_path=/path/to/routed-int8-experts"]);
        Assert.Equal("command line: 'kt_weight_path' is /path/to/routed-int8-experts, which is not to be had here: write the folder that `kt convert` made as "
            + "model_name_or_path: experts and all else live in one checkpoint",
            Assert.Throws<ArgumentException>(() => c.Finish("kt train")).Message);
    }

    private static string[] Block(string format, string backend) =>
    [
        $"kt_config.kt_expert_weight_format={format}", $"kt_config.kt_backend={backend}", "kt_config.kt_num_threads=96", "kt_config.kt_tp_enabled=true",
        "kt_config.kt_threadpool_count=2", "kt_config.kt_max_cache_depth=2",
        "kt_config.kt_share_backward_bb=true",
    ];

    private static string Document(string name) => Path.Combine(Checkout.Root, "tests/KtNotebooks.Tests/Configuration/Documents", name);
}
