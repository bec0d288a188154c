using KtNotebooks.Configuration;
using KtNotebooks.Formats;
using KtNotebooks.Placement;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Placement;

/// <summary>The newer generation's options: each is understood, refused with what to write instead, or noted.</summary>
public class KtConfigTests
{
    private const string Block = "kt_config.";

    /// <summary>Every option that KTransformers 0.6.1 to 0.7.2 documents, with a value that it allows.</summary>
    private static readonly Dictionary<string, string> Documented = """
        enabled=true lora_rank=8 kt_backend=INT8 kt_num_threads=3 kt_tp_enabled=true kt_threadpool_count=2 kt_weight_path=folder
        kt_non_expert_weight_path=folder kt_expert_weight_format=int8 kt_weight_lifecycle=ephemeral kt_expert_checkpoint_path=folder kt_num_gpu_experts=4
        kt_skip_expert_loading=true kt_share_backward_bb=true kt_share_cache_pool=auto kt_force_fused_expert_lora=true kt_max_cache_depth=2
        kt_model_max_length=4096 kt_activation_policy.cpu=retain kt_activation_policy.gpu=recompute kt_lora_rank=8 kt_lora_alpha=16 kt_lora_dropout=0
        kt_train_mode=lora kt_full_weight_grad=true kt_use_lora_experts=true kt_lora_expert_num=2 kt_lora_expert_intermediate_size=512 kt_checkpoint_files=a
        kt_sharded_metadata=a kt_wrap_fn=a kt_wrap_kwargs=a kt_cpu_activation=retain
        """.Split((char[])[' ', '\n']).Select(pair => pair.Split('=')).ToDictionary(pair => pair[0], pair => pair[1]);

    public static TheoryData<string> Options => [.. Documented.Keys];

    [Fact]
    public void The_table_is_complete() =>
        Assert.Equal(Documented.Keys.Order(), Keys.All.Select(k => k.Name).Where(n => n.StartsWith(Block, StringComparison.Ordinal))
            .Select(n => n[Block.Length..]).Order());

    [Theory]
    [MemberData(nameof(Options))]
    public void Every_option_does_what_the_table_says(string name)
    {
        var key = Keys.Find(Block + name)!;
        var settings = Settings.Read([$"{key.Name}={Documented[name]}"]);
        PlacementSettings.Read(settings);
        TrainingMemoryKeys.Read(settings);
        switch (key.Effect)
        {
            case KeyEffect.Acts:
                Assert.Empty(settings.Finish("kt train"));
                break;
            case KeyEffect.NoEffect:
                Assert.Equal(key.AsksForNothing(Documented[name]) ? [] : [$"no effect here: {key.Name} ({key.Help})"], settings.Finish("kt train"));
                break;
            default:
                Assert.Equal($"command line: '{key.Name}' is {Documented[name]}, which is not to be had here: {key.Help}",
                    Assert.Throws<ArgumentException>(() => settings.Finish("kt train")).Message);
                Assert.Empty(Settings.Read([$"{key.Name}=false"]).Finish("kt train"));
                break;
        }
    }

    [Fact]
    public void A_new_generation_config_computes_experts_on_the_CPU_in_its_format()
    {
        var placement = Shapes.Resolve("deepseek-v2-lite", "use_kt=true", "device=cuda:0", "kt_config.kt_backend=AMXINT8", "kt_config.kt_num_threads=7");
        var bank = placement.Of("model.layers.1.mlp.experts");
        Assert.Equal((ExecutorKind.Cpu, StorageFormat.Int8, WeightHome.Host), (bank.Executor, bank.Format, bank.Weights));
        Assert.Equal("cuda:0", placement.Of("model.layers.1.self_attn.q_proj").Compute.ToString());
        Assert.Equal(Math.Min(7, Environment.ProcessorCount), placement.Settings.Threads);
        Assert.Equal(WeightHome.Mmap, Shapes.Resolve("deepseek-v2-lite", "kt_config.kt_weight_lifecycle=ephemeral").Of("model.layers.1.mlp.experts").Weights);
        Assert.Equal(ExecutorKind.Streamed, Shapes.Resolve("deepseek-v2-lite", "device=cuda", "kt_config.kt_backend=FP8", "experts=streamed")
            .Of("model.layers.1.mlp.experts").Executor);
    }

    [Theory]
    [InlineData("command line: unknown kt_backend 'INT9'. Did you mean 'INT8'?", "kt_config.kt_backend=INT9")]
    [InlineData("command line: 'kt_config.kt_expert_weight_format' must be int8, as kt_backend says, but is 'fp8'", "kt_config.kt_backend=INT8",
        "kt_config.kt_expert_weight_format=fp8")]
    [InlineData("command line: 'kt_config.kt_lora_rank' must be lora_rank's 16, but is '8'", "kt_config.kt_lora_rank=8", "lora_rank=16")]
    [InlineData("command line: 'kt_config.kt_lora_alpha' must be lora_alpha's 32, but is '8'", "kt_config.kt_lora_alpha=8", "lora_rank=16")]
    [InlineData("command line: 'kt_config.kt_train_mode' must be lora", "kt_config.kt_train_mode=full")]
    [InlineData("command line: 'kt_config.enabled' must be what use_kt says, but is 'false'", "kt_config.enabled=false", "use_kt=true")]
    [InlineData("command line: 'device' must be auto, cpu or cuda:N, but is 'gpu'", "device=gpu")]
    [InlineData("command line: 'experts' must be one of auto, cpu, streamed, resident, split, but is 'gpu'", "experts=gpu")]
    [InlineData("command line: 'gpu_memory_limit' must be a size such as 20GB or 20GiB, but is '20'", "gpu_memory_limit=20")]
    [InlineData("command line: 'cpu_infer' must be positive, but is '0'", "cpu_infer=0")]
    [InlineData("command line: 'mode' must be normal", "mode=long_context")]
    public void What_cannot_be_honoured_is_one_line(string expected, params string[] keys) =>
        Assert.StartsWith(expected, Assert.Throws<ArgumentException>(() => Read(keys)).Message, StringComparison.Ordinal);

    [Fact]
    public void Use_kt_false_leaves_its_block_and_rules_aside()
    {
        var settings = Settings.Read(["use_kt=false", "kt_config.kt_backend=INT8", "kt_optimize_rule=nowhere.yaml"]);
        var read = PlacementSettings.Read(settings);
        Assert.Equal((null, null, null), (read.Rules, read.Experts, read.ExpertFormat));
        Assert.Equal(["no effect here: kt_optimize_rule, kt_config.kt_backend (use_kt is false)"], settings.Finish("kt train"));
    }

    [Fact]
    public void Rules_of_another_checkout_are_found_by_their_name()
    {
        var read = Read("kt_optimize_rule=examples/kt_optimize_rules/DeepSeek-V3-Chat-sft-amx-multi-gpu.yaml");
        Assert.EndsWith("rules/DeepSeek-V3-Chat-sft-amx-multi-gpu.yaml", read.Rules!.Path, StringComparison.Ordinal);
        Assert.Contains(read.Notes, n =>
            n.StartsWith("command line: examples/kt_optimize_rules/DeepSeek-V3-Chat-sft-amx-multi-gpu.yaml is not there; ", StringComparison.Ordinal));
        Assert.Contains("Did you mean 'DeepSeek-V2-Lite-Chat-sft.yaml'?",
            Assert.Throws<FileNotFoundException>(() => Read("kt_optimize_rule=my/DeepSeek-V2-Lite-Chat-sfd.yaml")).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void More_threads_than_processors_are_said()
    {
        Assert.Equal(1, Read("cpu_infer=1").Threads);
        var many = Read("cpu_infer=100000");
        Assert.Equal(Environment.ProcessorCount, many.Threads);
        Assert.Equal([$"command line: cpu_infer is 100000, but this process may use {Environment.ProcessorCount} processors: "
            + $"{Environment.ProcessorCount} threads"], many.Notes);
    }

    [Fact]
    public void Sizes_have_units()
    {
        Assert.Equal(20_000_000_000, Read("gpu_memory_limit=20GB").GpuMemoryLimit);
        Assert.Equal(3L << 29, Read("gpu_memory_limit=1.5 GiB").GpuMemoryLimit);
    }

    private static PlacementSettings Read(params string[] keys) => PlacementSettings.Read(Settings.Read(keys));
}
