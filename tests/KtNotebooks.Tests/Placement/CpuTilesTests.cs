using KtNotebooks.Configuration;
using KtNotebooks.Formats;
using KtNotebooks.Generation;
using KtNotebooks.Interop;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Optim;
using KtNotebooks.Placement;
using KtNotebooks.Planning;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Interop;
using KtNotebooks.Tests.Models;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Placement;

/// <summary>A model that the CPU computes alone lies in its kernels' tiles where memory is ample, and is the model that it was.</summary>
[Collection("cpu variant")]
public sealed class CpuTilesTests : IDisposable
{
    private const string Query = "model.layers.1.self_attn.q_proj.weight", UpProjection = "model.layers.1.self_attn.kv_b_proj.weight",
        Router = "model.layers.1.mlp.gate.weight", Experts = "model.layers.1.mlp.experts";

    private const long Ample = 1L << 40;

    private readonly Samples.Folder _folder = new();

    public CpuTilesTests() => Tiny.Save(Model);

    public static TheoryData<string> Variants => OnVariant.All;

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    private string Model => Path.Combine(_folder.Path, "model");

    public void Dispose() => _folder.Dispose();

    /// <summary>Each of four ranks on a machine may take a quarter of what one could.</summary>
    [Fact]
    public void Ranks_of_one_machine_share_its_memory()
    {
        var alone = HostMemory.Left;
        try
        {
            HostMemory.Sharers = 4;
            Assert.InRange(HostMemory.Left, 0.15 * alone, 0.35 * alone);
            Assert.InRange(TrainingMemory.OnHost(new TrainingMemoryKeys()).KeptBytes, 1, 0.1 * alone);
        }
        finally
        {
            HostMemory.Sharers = 1;
        }
    }

    [Fact]
    public void What_nobody_places_lies_in_tiles_where_memory_is_ample()
    {
        using var on = new OnVariant("amx-emulated");
        var plan = Plan(Ample);
        foreach (var name in (string[])[Query, Experts, "lm_head.weight", "model.layers.0.mlp.down_proj.weight",
            "model.layers.1.mlp.shared_experts.up_proj.weight"])
            Assert.Equal((true, false, WeightHome.Host, (Device?)null), (plan.IsTiled(name), plan.IsRead(name), plan.HomeOf(name), plan.SentTo(name)));
        // Read in parts; in F32; looked up; no matrix.
        foreach (var name in (string[])[UpProjection, Router, "model.embed_tokens.weight", "model.norm.weight"]) Assert.False(plan.IsTiled(name));
        Assert.Empty(plan.Notes);
        Assert.False(Plan(Ample, DType.F32).IsTiled(Query));
        Assert.False(Plan(Ample, trains: name => name == Query).IsTiled(Query));
        Assert.False(Plan(Ample, trains: name => name.StartsWith(Experts, StringComparison.Ordinal)).IsTiled(Experts));
        Assert.False(Plan(Ample, keys: ["device=cuda:0", "experts=cpu"]).IsTiled(Experts)); // a card computes the rest
        using var avx2 = new OnVariant("avx2");
        Assert.False(Plan(Ample).IsTiled(Query));
    }

    /// <summary>Biases of a bank stand below its path and are no matrices: gpt-oss, whose experts are stored in one tensor.</summary>
    [Fact]
    public void Experts_with_biases_lie_in_tiles_and_answer_alike()
    {
        using var on = new OnVariant("amx-emulated");
        var folder = Path.Combine(Checkout.Root, "tests/KtNotebooks.Tests/Golden/gpt_oss/model");
        var plan = ModelFolder.Plan(folder, PlacementSettings.Read(Settings.Read(["model_name_or_path=" + folder, "device=cpu"])), DType.BF16);
        Assert.True(plan.IsTiled("model.layers.0.mlp.experts"));
        Assert.False(plan.IsTiled("model.layers.0.mlp.experts.gate_up_proj_bias"));
        float[] Logits(ResidencyPlan? plan)
        {
            using var model = ModelFolder.Load(folder, DType.BF16, plan);
            var tokens = new TokenBatch.Builder();
            tokens.Add([1, 5, 9, 2, 77, 200], [-100, 5, 9, 2, 77, 200], 1);
            using var logits = model.Logits(tokens.Build());
            return logits.ToFloats();
        }
        var (rows, tiles) = (Logits(null), Logits(plan));
        var distance = Math.Sqrt(rows.Zip(tiles, (a, b) => Math.Pow((double)a - b, 2)).Sum() / rows.Sum(a => (double)a * a));
        Assert.True(distance < 0.02, $"{distance:P2}");
    }

    /// <summary>Linear layers first, which every token meets; then the experts.</summary>
    [Fact]
    public void What_has_no_room_stays_mapped_and_that_is_said()
    {
        using var on = new OnVariant("amx-emulated");
        var none = Plan(0);
        Assert.False(none.IsTiled(Query) || none.IsTiled(Experts));
        Assert.Equal(["weights of linear layers stay mapped from the file", "experts stay mapped from the file"], none.Notes.Select(n => n.Split(':')[0]));
        Assert.Equal(WeightHome.Mmap, none.Bank(Experts)!.Place.Weights);
        using var shape = ModelFolder.Shape(ModelShapes.File("deepseek-v2-lite"));
        var some = Plan(24_000_000_000, of: shape);
        Assert.True(some.IsTiled(Query) && !some.IsTiled(Experts));
        Assert.Equal("experts stay mapped from the file: in the kernels' tiles, which are faster, they would take 28.8 GB, and host memory has 9.9 GB "
            + "for them", Assert.Single(some.Notes));
    }

    [Theory]
    [InlineData("{ class: experts }", "{ weights: mmap }", false, true)]
    [InlineData("{ name: self_attn }", "{ weights: mmap }", true, false)]
    [InlineData("{ name: .* }", "{ weights: mmap }", false, false)]
    [InlineData("{ name: .* }", "{ weights: host }", true, true)]
    [InlineData("{ name: .* }", "{ compute: cpu }", true, true)]
    public void A_rule_that_says_where_weights_live_is_followed(string match, string place, bool experts, bool query)
    {
        using var on = new OnVariant("amx-emulated");
        var rules = _folder.Write("rules.yaml", $"- match: {match}\n  place: {place}\n");
        var plan = Plan(Ample, keys: ["kt_optimize_rule=" + rules]);
        Assert.Equal((experts, query), (plan.IsTiled(Experts), plan.IsTiled(Query)));
    }

    [Fact]
    public void The_plan_that_is_printed_says_it()
    {
        using var on = new OnVariant("amx-emulated");
        var plan = MemoryPlan.Open(Model, "device=cpu", "bf16=true");
        Assert.Contains(plan.Rows, r => r is { Modules: "model.layers.0.mlp", Weights: "host", Format: "bf16 tiles" });
        Assert.Contains(plan.Rows, r => r is { Executor: "cpu", Weights: "host", Format: "bf16 tiles" });
        Assert.Contains(plan.Rows, r => r is { Modules: "model.embed_tokens", Format: "bf16" });
    }

    /// <summary>Every weight has its values, and whoever writes or hashes the model finds rows.</summary>
    [Fact]
    public void Whoever_wants_rows_gets_them()
    {
        using var on = new OnVariant("amx-emulated");
        using var rows = Load(0);
        using var tiles = Load(Ample);
        var stored = rows.AllWeights.ToDictionary(w => w.Name, w => w.Tensor);
        foreach (var (name, tensor) in tiles.AllWeights)
        {
            Assert.True(tensor.HasShape(stored[name].Shape), name);
            Assert.Equal(stored[name].ToFloats(), tensor.ToFloats());
        }
        // Attention, the dense feed-forward part, shared experts, the head, experts.
        Parameter[] tiled = [.. tiles.AllWeights.Where(w => !w.Tensor.IsInRows)];
        Assert.Equal((3 * 3) + 3 + (2 * 3) + 1 + (2 * 4 * 3), tiled.Length);
        var query = tiled.Single(w => w.Name == Query).Tensor;
        Assert.Contains("has no rows in memory", Assert.Throws<InvalidOperationException>(() => query.Span<ushort>()).Message, StringComparison.Ordinal);
        using (var part = query.Slice(3, 5))
        using (var expected = stored[Query].Slice(3, 5)) Assert.Equal(expected.ToFloats(), part.ToFloats());
        using (var wide = query.To(DType.F32)) Assert.Equal(stored[Query].ToFloats(), wide.ToFloats());
        Assert.Equal(AdapterFolder.Fingerprint(rows), AdapterFolder.Fingerprint(tiles));
        var config = Path.Combine(Model, "config.json");
        foreach (var (model, name) in ((CausalLm, string)[])[(rows, "a"), (tiles, "b")])
        {
            Directory.CreateDirectory(Path.Combine(_folder.Path, name));
            ModelWriter.Save(model, config, Path.Combine(_folder.Path, name));
        }
        byte[] Written(string name) => File.ReadAllBytes(Path.Combine(_folder.Path, name, "model.safetensors"));
        Assert.Equal(Written("a"), Written("b"));
    }

    /// <summary>More rows than are multiplied by dots: the very bits. With few rows, sums of another order: near.</summary>
    [Theory, MemberData(nameof(Variants))]
    public void It_computes_what_it_computed(string variant)
    {
        using var on = new OnVariant(variant);
        Assert.SkipUnless(Cpu.MultipliesTiles, $"{variant} does not multiply tiles");
        float[] Logits(CausalLm model, int tokens)
        {
            using var logits = model.Logits(Tiny.Batch(1, tokens));
            return logits.ToFloats();
        }
        using var rows = Load(0);
        using var tiles = Load(Ample);
        Assert.Equal(Logits(rows, 60), Logits(tiles, 60));
        var (expected, actual) = (Logits(rows, 2), Logits(tiles, 2));
        Assert.True(Math.Sqrt(expected.Zip(actual, (a, b) => Math.Pow((double)a - b, 2)).Sum() / expected.Sum(a => (double)a * a)) < 0.01);
        int[] Drawn(CausalLm model) => [.. Scheduler.Generate(model, new GenerationRequest([5, 9, 2, 7], Sampling.Greedy(12)), rowsAlike: true, cancel: Stop)];
        Assert.Equal(Drawn(rows), Drawn(tiles));
    }

    [Theory]
    [InlineData("lora_experts=true")]
    [InlineData("use_dora=true")]
    [InlineData("pissa_init=true")]
    public void It_learns_what_it_learned(string key)
    {
        using var on = new OnVariant("amx-emulated");
        float[] Learn(long bytes)
        {
            using var model = Load(bytes);
            LoraAdapter.Attach(model, FineTuneKeys.ReadLora(Settings.Read(["model_name_or_path=" + Model, "lora_rank=4", key])), 1);
            using var optimizer = new AdamW(model.AllTrainable, new AdamWSettings());
            List<float> losses = [];
            for (var s = 0; s < 3; s++)
            {
                losses.Add((float)new LayerMajorStep(model, 16).Run(Tiny.Batch(1, [40, 50, 60]), cancel: Stop));
                optimizer.Step(1e-2, 1);
            }
            return [.. losses, .. model.AllTrainable.SelectMany(p => p.Tensor.ToFloats())];
        }
        var expected = Learn(0);
        Assert.NotEqual(expected[0], expected[2]);
        Assert.Equal(expected, Learn(Ample));
    }

    private CausalLm Load(long hostBytes) => ModelFolder.Load(Model, DType.BF16, Plan(hostBytes));

    private ResidencyPlan Plan(long hostBytes, DType type = DType.BF16, Func<string, bool>? trains = null, CausalLm? of = null, string[]? keys = null)
    {
        using var shape = of is null ? ModelFolder.Shape(new ConfigFile(Path.Combine(Model, "config.json")), type) : null;
        var settings = PlacementSettings.Read(Settings.Read(["model_name_or_path=" + Model, .. keys ?? ["device=cpu"]]));
        return ResidencyPlan.Resolve(of ?? shape!, type, ModelPlacement.Resolve(of ?? shape!, "deepseek_v2", settings), _ => StorageFormat.Of(type),
            new GpuMemory(null, _ => 80_000_000_000), trains, hostBytes);
    }
}
