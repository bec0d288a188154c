using KtNotebooks.Formats;
using KtNotebooks.Interop;
using KtNotebooks.Models;
using KtNotebooks.Planning;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Cli;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Tests.Weights;

using Xunit;

namespace KtNotebooks.Tests.Planning;

public sealed class MemoryPlanTests
{
    private static readonly string V3Rules = Path.Combine(Checkout.Root, "rules/DeepSeek-V3-Chat-sft-amx.yaml");

    /// <summary>What loading would refuse does not fit: a config that is not of the weights beside it, in whatever form these are stored.</summary>
    [Theory]
    [InlineData("\"num_hidden_layers\":3", "\"num_hidden_layers\":4", "model.layers.3.", "is missing, which config.json wants")]
    [InlineData("\"n_routed_experts\":4", "\"n_routed_experts\":5", "mlp.gate.weight' must be [5, 64] by config.json, but is [4, 64]", "")]
    [InlineData("\"hidden_size\":64", "\"hidden_size\":96", "must be [", "96] by config.json, but is [")]
    public void A_config_of_other_weights_does_not_fit(string from, string to, string fault, string more)
    {
        using var folder = new Samples.Folder();
        foreach (var format in (StorageFormat[])[StorageFormat.Fp8, StorageFormat.Int4])
        {
            var model = Path.Combine(folder.Path, format.Name);
            LowBitFolder.Save(model, format, wide: true);
            Assert.Null(MemoryPlan.Open(model).Missing);
            var config = Path.Combine(model, "config.json");
            Assert.Contains(from, File.ReadAllText(config), StringComparison.Ordinal);
            File.WriteAllText(config, File.ReadAllText(config).Replace(from, to, StringComparison.Ordinal));
            var plan = MemoryPlan.Open(model);
            Assert.Contains(fault, plan.Missing, StringComparison.Ordinal);
            Assert.Contains(more, plan.Missing, StringComparison.Ordinal);
            Assert.False(Machine.Here(folder.Path).Judge(plan).Fits);
        }
    }

    [Fact]
    public void DeepSeek_V3_is_counted_from_its_config_alone()
    {
        var plan = MemoryPlan.Open("deepseek-v3", "dense_weights=card", "kt_optimize_rule=" + V3Rules);
        // 671,026,419,200 parameters without the layer that predicts further tokens: token table and head 2 · 129280 · 7168, 61 layers of attention
        // 187,107,328 with their norms, three dense ones of 3 · 18432 · 7168, and 58 of 257 experts 3 · 2048 · 7168 with a router and its bias.
        const long attention = (7168L * 1536) + 1536 + (1536L * 128 * 192) + (7168L * 576) + 512 + (512L * 128 * 256) + (128L * 128 * 7168) + (2 * 7168);
        const long expert = 3L * 2048 * 7168;
        const long all = (2 * 129280L * 7168) + 7168 + (61 * attention) + (3 * 3L * 18432 * 7168) + (58 * ((257 * expert) + (256 * 7168) + 256));
        Assert.Equal(all, plan.Parameters);
        Assert.Equal(plan.Parameters, plan.Rows.Sum(r => r.Parameters));
        var experts = Assert.Single(plan.Rows, r => r.Modules == "model.layers.3-60.mlp.experts");
        Assert.Equal(("cpu", "host", "int8", "cpu", 58), (experts.Compute, experts.Weights, experts.Format, experts.Executor, experts.Count));
        Assert.Equal(58 * 256 * (expert + (4L * ((2 * 2048) + 7168))), experts.Bytes); // a byte each and an F32 scale a row
        Assert.Equal(experts.Bytes + (129280L * 7168 * 2), plan.Bytes("cpu", MemoryPlan.Weights));
        Assert.Equal(["cpu", "cuda:0"], plan.Devices);
    }

    [Theory]
    [InlineData("quantization_bit=4", "command line: 'quantization_bit' is 4, which is not to be had here: ")]
    [InlineData("lora_rnak=4", "command line: unknown key 'lora_rnak'. Did you mean 'lora_rank'?")]
    public void What_a_run_refuses_its_plan_refuses(string pair, string message) =>
        Assert.StartsWith(message, Assert.Throws<ArgumentException>(() => MemoryPlan.Open("deepseek-v2-lite", "tokens_per_step=64", pair)).Message,
            StringComparison.Ordinal);

    [Fact]
    public void Passes_that_wait_get_a_share_of_what_host_memory_has_left()
    {
        string[] run = ["deepseek-v2-lite", "tokens_per_step=16384", "kt_config.kt_expert_weight_format=int4", "experts=cpu"];
        var (some, none) = (MemoryPlan.Open(run), MemoryPlan.Open([.. run, "kept_activations=none"]));
        Assert.Equal(0, none.Bytes("cpu", MemoryPlan.Activations));
        Assert.InRange(some.Bytes("cpu", MemoryPlan.Activations), 0, (long)(0.25 * Math.Max(0, HostMemory.Left * 1.1 - none.Total("cpu"))));
    }

    [Theory]
    [InlineData("experts=cpu", 0)]
    [InlineData("experts=streamed", 2)]
    [InlineData("experts=resident", 58)]
    public void Experts_take_their_memory_where_their_executor_wants_them(string experts, int banksOnCard)
    {
        var plan = MemoryPlan.Open("deepseek-v3", "dense_weights=card", "device=cuda:0", experts, "gpu_memory_limit=80GB");
        var bank = 3 * StorageFormat.Fp8.Bytes(2048, 7168) * 256; // as stored: FP8 with a scale for 128 × 128
        Assert.Equal(banksOnCard == 58 ? 58 * bank : 0, plan.Rows.Where(r => r.Executor == "resident").Sum(r => r.Bytes));
        // A quarter of what the other weights leave, in whole slots.
        var room = 80e9 - plan.Bytes("cuda:0", MemoryPlan.Weights);
        if (banksOnCard == 2) Assert.InRange(plan.Bytes("cuda:0", MemoryPlan.Ring), 0.22 * room, 0.25 * room);
        else Assert.Equal(0, plan.Bytes("cuda:0", MemoryPlan.Ring));
        Assert.Equal(banksOnCard == 58 ? 0 : 58 * bank, plan.Bytes("cpu", banksOnCard == 0 ? MemoryPlan.Mapped : MemoryPlan.Weights));
    }

    [Fact]
    public void A_training_config_counts_adapter_gradients_and_optimizer_exactly()
    {
        var plan = MemoryPlan.Open("deepseek-v2-lite", "dense_weights=card", "device=cuda:0", "lora_rank=8", "lora_experts=true",
            "tokens_per_step=8192", "experts=streamed");
        long Pair(long inputs, long outputs) => 8 * (inputs + outputs);
        var attention = Pair(2048, 16 * 192) + Pair(2048, 576) + Pair(512, 16 * 256) + Pair(2048, 2048);
        var expert = (2 * Pair(2048, 1408)) + Pair(1408, 2048);
        var shared = (2 * Pair(2048, 2816)) + Pair(2816, 2048);
        var dense = (2 * Pair(2048, 10944)) + Pair(10944, 2048);
        var trained = (27 * attention) + dense + (26 * ((64 * expert) + shared));
        Assert.Equal(trained, plan.Trainable);
        Assert.Equal([4 * trained, 4 * trained, 8 * trained], new[]
        {
            MemoryPlan.Adapter, MemoryPlan.Gradients, MemoryPlan.Optimizer
        }.Select(what => plan.Bytes("cuda:0", what)));
        Assert.Equal((54 + 2) * 8192L * 2048 * 2, plan.Bytes("cuda:0", MemoryPlan.Inputs));
    }

    [Fact]
    public void Layer_inputs_beyond_their_limit_wait_in_host_memory()
    {
        var plan = MemoryPlan.Open("deepseek-v2-lite", "device=cuda:0", "tokens_per_step=8192", "experts=streamed", "saved_inputs_limit=500MB");
        const long input = 8192L * 2048 * 2;
        Assert.Equal((55 - 14 - 2) * input, plan.Bytes("cpu", MemoryPlan.Inputs)); // of 55, 14 fit and two are on their way
        Assert.Equal((14 + 2 + 1) * input, plan.Bytes("cuda:0", MemoryPlan.Inputs)); // and the gradient
    }

    [Theory]
    [InlineData("60GB", "resident", "device")]
    [InlineData("40GB", "split", "host")]
    public void Auto_is_decided_as_the_run_decides_it(string limit, string executor, string home)
    {
        var plan = MemoryPlan.Open("deepseek-v2-lite", "dense_weights=card", "device=cuda:0", "experts=auto", "gpu_memory_limit=" + limit);
        Assert.Equal((executor, home), plan.Rows.Where(r => r.Executor.Length > 0).Select(r => (r.Executor, r.Weights)).Distinct().Single());
        Assert.Contains(plan.Notes, n =>
            n.StartsWith($"experts: {executor}", StringComparison.Ordinal) && n.Contains(": they take 28.8 GB, cuda:0 has ", StringComparison.Ordinal));
    }

    /// <summary>
    /// DeepSeek-V3's experts have 3.3 billion elements of LoRA at rank 8: 52 GB with gradients and moments, which no card of 24 GB holds beside anything
    /// else.
    /// </summary>
    [Fact]
    public void Pairs_of_experts_that_no_card_holds_are_planned_in_host_memory()
    {
        string[] keys = ["deepseek-v3", "dense_weights=card", "device=cuda:0", "lora_rank=8", "lora_experts=true", "tokens_per_step=8192",
            "experts=streamed", "gpu_memory_limit=80GB"];
        var experts = 58L * 256 * 3 * 8 * (7168 + 2048);
        var plan = MemoryPlan.Open(keys);
        Assert.Equal([4 * experts, 4 * experts, 8 * experts], new[]
        {
            MemoryPlan.Adapter, MemoryPlan.Gradients, MemoryPlan.Optimizer
        }.Select(what => plan.Bytes("cpu", what)));
        Assert.InRange(plan.Total("cuda:0"), 40e9, 80e9);
        Assert.Equal(0, MemoryPlan.Open([.. keys, "expert_lora=card"]).Bytes("cpu", MemoryPlan.Adapter));
    }

    /// <summary>With experts and their adapters on a disk, DeepSeek-V3 is trained beside 64 GiB of host memory and a card of 24 GB.</summary>
    [Fact]
    public void Experts_and_their_adapters_on_a_disk_leave_little_in_memory()
    {
        var experts = 58L * 256 * 3 * 8 * (7168 + 2048);
        var plan = MemoryPlan.Open("deepseek-v3", "device=cuda:0", "gpu_memory_limit=23.5GB", "expert_weights=disk", "expert_lora=disk", "lora_rank=8",
            "lora_experts=true", "tokens_per_step=8192", "kept_activations=none");
        Assert.Equal(16 * experts, plan.Bytes("cpu", MemoryPlan.AdapterOnDisk));
        Assert.Equal(0, plan.Bytes("cpu", MemoryPlan.Adapter) + plan.Bytes("cpu", MemoryPlan.Optimizer));
        Assert.InRange(plan.Total("cpu"), 30e9, 60e9);
        Assert.InRange(plan.Total("cuda:0"), 10e9, 23.5e9);
    }

    /// <summary>8,192 rows, 26 layers, 6 experts a row, g and u of 1,408 numbers in BF16.</summary>
    [Fact]
    public void Kept_activations_of_experts_on_the_CPU_are_planned()
    {
        string[] keys = ["deepseek-v2-lite", "tokens_per_step=8192", "experts=cpu", "bf16=true", "kept_activations=none"];
        Assert.Equal(0, MemoryPlan.Open(keys).Bytes("cpu", MemoryPlan.Activations));
        foreach (var name in (string[])["kt_cpu_activation", "kt_config.kt_cpu_activation", "kt_config.kt_activation_policy.cpu"])
            Assert.Equal(8192L * 26 * 6 * 2 * 1408 * 2, MemoryPlan.Open([.. keys, name + "=retain"]).Bytes("cpu", MemoryPlan.Activations));
        Assert.Equal(0, MemoryPlan.Open([.. keys, "experts=streamed", "device=cuda:0", "kt_cpu_activation=retain"]).Bytes("cpu", MemoryPlan.Activations));
        Assert.Contains("its other name", Assert.Throws<ArgumentException>(() => MemoryPlan.Open([.. keys, "kt_cpu_activation=retain",
            "kt_config.kt_activation_policy.cpu=recompute"])).Message, StringComparison.Ordinal);
    }

    /// <summary>
    /// Passes that wait for backward: of DeepSeek-V2-Lite's experts g, u and A·x of both pairs in BF16, and what its other ops keep; the keys of other
    /// systems mean the same.
    /// </summary>
    [Fact]
    public void Kept_passes_are_planned()
    {
        string[] keys = ["deepseek-v2-lite", "tokens_per_step=8192", "device=cuda:0", "gpu_memory_limit=80GB", "experts=streamed", "lora_experts=true"];
        long Kept(params string[] more) => MemoryPlan.Open([.. keys, .. more]).Bytes("cuda:0", MemoryPlan.Activations);
        var experts = 8192L * 26 * 6 * ((2 * 1408) + 16) * 2;
        Assert.InRange(Kept("kept_activations=all"), 2 * experts, 4 * experts);
        foreach (var name in (string[])["disable_gradient_checkpointing=true", "kt_config.kt_activation_policy.gpu=retain"])
            Assert.Equal(Kept("kept_activations=all"), Kept(name));
        foreach (var name in (string[])["kept_activations=none", "disable_gradient_checkpointing=false", "kt_config.kt_activation_policy.gpu=recompute"])
            Assert.Equal(0, Kept(name));
        Assert.Equal(2_000_000_000, Kept("kept_activations=2GB"));
        Assert.InRange(Kept(), experts, Kept("kept_activations=all"));
        Assert.InRange(Kept("expert_lora=host"), 1, Kept("kept_activations=all") - experts); // attention alone: pairs that visit cannot wait
        Assert.Contains("its other name", Assert.Throws<ArgumentException>(() => Kept("kept_activations=none", "disable_gradient_checkpointing=true")).Message,
            StringComparison.Ordinal);
        Assert.Contains("auto, none, all or a size such as 20GB", Assert.Throws<ArgumentException>(() => Kept("kept_activations=much")).Message,
            StringComparison.Ordinal);
    }

    /// <summary>gpt-oss has gate and up row by row in turn: they are sorted into memory of ours; down in MXFP4 lies in one piece.</summary>
    [Fact]
    public void Experts_whose_rows_lie_in_turn_are_copied()
    {
        using var folder = new Samples.Folder();
        var rules = folder.Write("rules.yaml", "- match: { name: .* }\n  place: { weights: mmap }\n");
        var plan = MemoryPlan.Open("gpt-oss-20b", "kt_optimize_rule=" + rules);
        var projection = 24 * 32 * StorageFormat.Mxfp4.Bytes(2880, 2880);
        Assert.Equal(3 * projection, Assert.Single(plan.Rows, r => r.Executor == "cpu").Bytes);
        Assert.InRange(plan.Bytes("cpu", MemoryPlan.Weights) - (2 * projection), 0, projection / 20); // and norms, routers, biases in F32
        Assert.InRange(plan.Bytes("cpu", MemoryPlan.Mapped), projection, plan.Parameters);
    }

    [Theory]
    [InlineData("sft", 4 * 512)]
    [InlineData("dpo", 2 * 4 * 512)]
    public void A_row_of_preferences_is_two_sequences(string stage, int tokens) => Assert.Equal(tokens, MemoryPlan.Open("deepseek-v2-lite", "device=cuda:0",
        "output_dir=out", "stage=" + stage, "per_device_train_batch_size=2", "gradient_accumulation_steps=2", "cutoff_len=512").Tokens);

    /// <summary>Experts that the CPU computes from memory of our own are laid out in its kernels' tiles; those that a rule maps stay as they are.</summary>
    [Theory]
    [InlineData("host", true)]
    [InlineData("mmap", false)]
    public void The_plan_says_which_experts_lie_in_tiles(string home, bool areOurs)
    {
        using var folder = new Samples.Folder();
        var rules = folder.Write("rules.yaml", $"- match: {{ class: experts }}\n  place: {{ compute: cpu, weights: {home} }}\n");
        var row = Assert.Single(MemoryPlan.Open("deepseek-v2-lite", "device=cpu", "kt_optimize_rule=" + rules).Rows, r => r.Executor == "cpu");
        Assert.Equal(areOurs && Cpu.MultipliesTiles ? "bf16 tiles" : "bf16", row.Format);
    }

    [Fact]
    public void A_limit_that_is_too_small_is_said()
    {
        var plan = MemoryPlan.Open("deepseek-v2-lite", "dense_weights=card", "device=cuda:0", "experts=resident", "gpu_memory_limit=20GB");
        Assert.Contains(plan.Notes, n => n.StartsWith("cuda:0 may need 31.", StringComparison.Ordinal) && n.Contains("20.0 GB", StringComparison.Ordinal));
    }

    [Fact]
    public void Shapes_hold_no_memory_and_have_no_values()
    {
        var bytes = MetaBuffer.AliveHere;
        using (var model = ModelFolder.Shape(ModelShapes.File("kimi-k2")))
        {
            Assert.True(MetaBuffer.AliveHere - bytes > 2_000_000_000_000); // a trillion parameters of two bytes
            Assert.Equal("[Tensor] a shape without memory has no values", Assert.Throws<InvalidOperationException>(() => model.Norm.Weight.ToFloats()).Message);
        }
        Assert.Equal(bytes, MetaBuffer.AliveHere);
    }

    [Fact]
    public void The_text_of_a_plan_is_this()
    {
        using var work = new Workplace();
        var (exit, output, errors) = Kt.Run("plan", Path.Combine(work.Model, "config.json"), "device=cuda:0", "experts=streamed", "gpu_memory_limit=1GB",
            "lora_experts=true", "tokens_per_step=256", "cutoff_len=64", "bf16=false", "template=deepseek");
        Assert.True(exit == 0, errors);
        var machine = new System.Text.RegularExpressions.Regex("\n\n(fits|does not fit): (.|\n)*$"); // MachineTests ask for it
        Assert.Equal(File.ReadAllText(Path.Combine(Checkout.Root, "tests/KtNotebooks.Tests/Planning/plan.txt")), machine.Replace(output, "\n")
            .Replace(work.Root, "FOLDER", StringComparison.Ordinal), ignoreLineEndingDifferences: true);
    }

    [Fact]
    public void JSON_holds_the_same_plan()
    {
        var (_, output, _) = Kt.Run("plan", "deepseek-v2-lite", "device=cuda:0", "--json");
        using var json = System.Text.Json.JsonDocument.Parse(output);
        Assert.Equal(MemoryPlan.Open("deepseek-v2-lite", "device=cuda:0").Parameters, json.RootElement.GetProperty("parameters").GetInt64());
        Assert.Equal("cuda:0", json.RootElement.GetProperty("rows")[1].GetProperty("compute").GetString());
    }

    [Theory]
    [InlineData("nowhere.yaml: no such file", "plan", "nowhere.yaml")]
    [InlineData("deepseek-ai/DeepSeek-V3: no such folder here, and no model or adapter of that name in ", "plan", "deepseek-ai/DeepSeek-V3")]
    [InlineData("'nowhere/' is no training config, model folder, config.json or known shape here, and nothing is downloaded. Known: deepseek-v2, ", "plan",
        "nowhere/")]
    [InlineData("command line: 'model_name_or_path' is required", "plan", "device=cpu")]
    [InlineData("nowhere/config.json: no such file; a model is a folder", "train", "model_name_or_path=nowhere", "template=auto",
        "dataset=neko", "output_dir=out")]
    [InlineData("command line: unknown kt_backend 'AMX8'.", "plan", "deepseek-v3", "kt_config.kt_backend=AMX8")]
    public void A_wrong_plan_is_one_line(string expected, params string[] arguments) =>
        Assert.StartsWith(expected, Kt.Refuses(arguments), StringComparison.Ordinal);
}
