using System.Text.Json.Nodes;

using KtNotebooks.Generation;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Evaluation;
using KtNotebooks.Tests.Models;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Lora;

/// <summary>Adapters as others write them, with ranks of their own, and several beside one base.</summary>
[Collection("cpu variant")] // bits are compared: nobody may change the kernels meanwhile
public sealed class AdapterFormsTests : IDisposable
{
    /// <summary>What PEFT 0.21 writes for an adapter of all linear layers: every field, most at its default.</summary>
    private const string FromPeft = """
        {"alora_invocation_tokens": null, "alpha_pattern": {}, "arrow_config": null, "auto_mapping": null, "base_model_name_or_path": "Qwen/Qwen3-30B-A3B",
         "bias": "none", "corda_config": null, "ensure_weight_tying": false,
         "eva_config": null, "exclude_modules": null, "fan_in_fan_out": false, "inference_mode": true, "init_lora_weights": true, "kasa_config": null,
         "layer_replication": null, "layers_pattern": null,
         "layers_to_transform": null, "loftq_config": {}, "lora_alpha": 16, "lora_bias": false, "lora_dropout": 0.0, "lora_ga_config": null,
         "megatron_config": null, "megatron_core": "megatron.core",
         "modules_to_save": null, "monteclora_config": null, "peft_type": "LORA", "peft_version": "0.21.0", "qalora_group_size": 16, "r": 4,
         "rank_pattern": {}, "revision": null,
         "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "gate_proj", "up_proj",
         "down_proj"], "target_parameters": null,
         "task_type": "CAUSAL_LM", "trainable_token_indices": null, "use_bdlora": null, "use_dora": false, "use_qalora": false, "use_rslora": false,
         "velora_config": null}
        """;

    private readonly Samples.Folder _folder = new();

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("deepseek_v2_lite")]
    [InlineData("deepseek_v2")]
    [InlineData("deepseek_v3")]
    [InlineData("qwen3_moe")]
    public void What_PEFT_wrote_loads_and_is_written_again_byte_for_byte(string name)
    {
        var theirs = Peft(name);
        using var model = Load(name);
        var settings = AdapterFolder.Load(model, theirs);
        Close(Expected(name), Logits(model, name));
        AdapterFolder.Save(model, settings, At("ours"), "Qwen/Qwen3-30B-A3B");
        Same(Path.Combine(theirs, "adapter_model.safetensors"), Path.Combine(At("ours"), "adapter_model.safetensors"));
        using var again = Load(name);
        AdapterFolder.Save(again, AdapterFolder.Load(again, At("ours")), At("again"), "Qwen/Qwen3-30B-A3B");
        foreach (var file in (string[])["adapter_model.safetensors", "adapter_config.json"])
            Assert.Equal(File.ReadAllBytes(Path.Combine(At("ours"), file)), File.ReadAllBytes(Path.Combine(At("again"), file)));
    }

    [Fact]
    public void Ranks_and_alphas_of_their_own_come_back()
    {
        var settings = new LoraSettings(3, 6, Experts: true, RankPattern: new Dictionary<string, int>
        {
            ["self_attn.q_proj"] = 5,
            [@"experts\.\d+\.(gate|up)_proj"] = 2,
            [@"experts\.\d+\.down_proj"] = 4,
        },
            AlphaPattern: new Dictionary<string, double>
            {
                [@"experts\.\d+\.(gate|up)_proj"] = 3,
                [@"experts\.\d+\.down_proj"] = 6,
                ["layers.2.self_attn.q_proj"] = 40,
            });
        using var model = Tiny.Build();
        LoraAdapter.Attach(model, settings);
        Randomise(model);
        var shapes = AdapterTensors.Of(model).ToDictionary(t => t.Name[AdapterTensors.Prefix.Length..], t => t.Tensor.Shape.ToArray());
        Assert.Equal([5L, 40], shapes["model.layers.1.self_attn.q_proj.lora_A.weight"]);
        Assert.Equal([3L, 40], shapes["model.layers.1.self_attn.kv_a_proj_with_mqa.lora_A.weight"]);
        Assert.Equal([18L, 2], shapes["model.layers.1.mlp.experts.3.up_proj.lora_B.weight"]);
        Assert.Equal([4L, 18], shapes["model.layers.1.mlp.experts.3.down_proj.lora_A.weight"]);
        Assert.Equal((8f, 1.2f, 1.5f), (settings.ScaleOf("model.layers.2.self_attn.q_proj"), settings.ScaleOf("model.layers.1.self_attn.q_proj"),
            settings.ScaleOf("model.layers.1.mlp.experts.0.down_proj")));
        AdapterFolder.Save(model, settings, At("a"), null);
        using var other = Tiny.Build();
        var read = AdapterFolder.Load(other, At("a"));
        Assert.Equal(settings.RankPattern, read.RankPattern);
        Assert.Equal(settings.AlphaPattern, read.AlphaPattern);
        Assert.Equal(Logits(model), Logits(other));
        using var flat = Tiny.Build();
        Assert.Contains("for this base and rank 3", Assert.Throws<InvalidDataException>(() => LoadWith(flat,
            config => config["rank_pattern"] = config["alpha_pattern"] = null)).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("experts.1.gate_proj", 5,
        "rank_pattern gives model.layers.1.mlp.experts.1.gate_proj the rank 5, but expert 0 of its layer 3; the experts of a layer need one rank a projection")]
    [InlineData("experts\\.\\d+\\.up_proj", 6,
        "rank_pattern and alpha_pattern scale model.layers.1.mlp.experts.0.up_proj by 1, but others of its layer by 2; the experts of a layer need one scale")]
    public void Experts_of_a_layer_need_one_rank_and_one_scale(string pattern, int rank, string message)
    {
        using var model = Tiny.Build();
        Assert.Equal(message, Assert.Throws<ArgumentException>(() =>
            LoraAdapter.Attach(model, new LoraSettings(3, 6, Experts: true, RankPattern: new Dictionary<string, int> { [pattern] = rank }))).Message);
    }

    [Fact]
    public void Rank_stabilised_scales_are_alpha_over_the_root_and_stay_so()
    {
        using var model = Tiny.WithAdapter(); // rank 3, scale 2
        var plain = Logits(model);
        AdapterFolder.Save(model, new LoraSettings(3, 2 * Math.Sqrt(3), Experts: true, RankStabilised: true), At("a"), null);
        using var other = Tiny.Build();
        var settings = AdapterFolder.Load(other, At("a"));
        Assert.True(settings.RankStabilised);
        Assert.Equal(2f, settings.Scale);
        Assert.Equal(plain, Logits(other));
    }

    [Theory]
    [InlineData("deepseek_v3")]
    [InlineData("qwen3_moe")]
    public void KTransformers_form_goes_out_and_comes_back(string name)
    {
        using (var source = AdapterSource.Open(Peft(name))) source.Save(At("fused"), ExpertForm.KTransformers);
        using (var fused = new SafetensorsFile(Path.Combine(At("fused"), "fused_expert_lora.safetensors")))
        using (var plain = new SafetensorsFile(Path.Combine(At("fused"), "adapter_model.safetensors")))
        {
            Assert.Equal(18, fused.Entries.Count); // six tensors for each of three MoE layers
            var last = name == "qwen3_moe" ? (Layer: 2, E: 8L) : (3, 16);
            Assert.All(fused.Entries.Values, e => Assert.Equal(DType.BF16, e.Type));
            Assert.Equal([last.E, 4, 64], fused.Entries[$"layers.{last.Layer}.experts.gate_lora_a"].Shape);
            Assert.Equal([last.E, 64, 4], fused.Entries[$"layers.{last.Layer}.experts.down_lora_b"].Shape);
            Assert.DoesNotContain(plain.Entries.Keys, k => k.Contains(".experts.", StringComparison.Ordinal));
        }
        using var model = Load(name);
        AdapterFolder.Load(model, At("fused"));
        Close(Expected(name), Logits(model, name), 0.02); // the experts' pairs are rounded to BF16
        using (var source = AdapterSource.Open(At("fused"))) source.Save(At("back"), ExpertForm.Each);
        using (var source = AdapterSource.Open(At("back"))) source.Save(At("again"), ExpertForm.KTransformers);
        foreach (var file in Directory.GetFiles(At("fused")))
            Assert.Equal(File.ReadAllBytes(file), File.ReadAllBytes(Path.Combine(At("again"), Path.GetFileName(file))));
    }

    [Fact]
    public void A_fused_file_that_lacks_an_expert_or_has_another_tensor_is_named()
    {
        using (var source = AdapterSource.Open(Peft("qwen3_moe"))) source.Save(At("fused"), ExpertForm.KTransformers);
        var path = Path.Combine(At("fused"), "fused_expert_lora.safetensors");
        using (var t = Tensor.Zeros(DType.BF16, 2, 3)) SafetensorsWriter.Write(path, [("layers.0.experts.router_lora_a", t)]);
        Assert.Equal($"{path}: tensor 'layers.0.experts.router_lora_a' is BF16[2, 3]; expected are layers.N.experts.gate_lora_a [E, r, in] and the like",
            Assert.Throws<InvalidDataException>(() => AdapterSource.Open(At("fused"))).Message);
        using (var t = Tensor.Zeros(DType.BF16, 5000, 1, 1)) SafetensorsWriter.Write(path, [("layers.0.experts.gate_lora_a", t)]);
        Assert.Equal($"{path}: tensor 'layers.0.experts.gate_lora_a' is BF16[5000, 1, 1]; experts are 1 to 4,096, and no side is 0",
            Assert.Throws<InvalidDataException>(() => AdapterSource.Open(At("fused"))).Message);
        using (var t = Tensor.Zeros(DType.BF16, 7, 4, 64)) SafetensorsWriter.Write(path, [("layers.0.experts.gate_lora_a", t)]);
        using var model = Load("qwen3_moe");
        Assert.Contains("lora_B.weight' is missing; an adapter holds both halves of every pair and every expert of a layer",
            Assert.Throws<InvalidDataException>(() => AdapterFolder.Load(model, At("fused"))).Message, StringComparison.Ordinal);
        Assert.Empty(model.AllTrainable);
    }

    [Fact]
    public void Each_tensor_is_logged_with_where_it_went()
    {
        List<string> lines = [];
        using var model = Load("qwen3_moe");
        AdapterFolder.Load(model, Peft("qwen3_moe"), lines.Add);
        Assert.Equal(model.AllTrainable.Count - 18 + (3 * 6 * 8), lines.Count);
        Assert.Contains("Loaded adapter weight: base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight -> "
            + "model.layers.0.self_attn.q_proj.lora_A.default.weight", lines);
    }

    [Fact]
    public void Adapters_beside_each_other_give_what_each_gives_alone()
    {
        foreach (var (name, seed) in ((string, int)[])[("red", 3), ("blue", 4)])
        {
            using var trained = Tiny.Build();
            LoraAdapter.Attach(trained, new LoraSettings(seed, Dropout: 0.2, Experts: name == "red"));
            Randomise(trained, seed);
            AdapterFolder.Save(trained, new LoraSettings(seed, Dropout: 0.2, Experts: name == "red"), At(name), null);
        }
        using var model = Tiny.Build();
        Assert.Equal(["red", "azure"], NamedAdapters.Load(model, [At("red"), $"azure={At("blue")}"]));
        Assert.Equal(["azure", "red"], NamedAdapters.Of(model));
        Assert.Empty(model.AllTrainable);
        var alone = new Dictionary<string, (float[] Logits, int[] Tokens)>();
        foreach (var (name, path) in ((string, string?)[])[("red", At("red")), ("azure", At("blue")), ("base", null)])
        {
            using var single = Tiny.Build();
            if (path is not null) AdapterFolder.Load(single, path);
            alone[name] = (Logits(single), Tokens(single, null));
        }
        Assert.Equal(3, alone.Values.Select(v => string.Join(',', v.Logits)).Distinct().Count());
        foreach (var name in (string[])["red", "base", "azure", "red"])
        {
            Assert.Equal(alone[name].Logits, Logits(model, adapter: name));
            Assert.Equal(alone[name].Tokens, Tokens(model, name));
        }
        // Two answers at once, token by token in turns.
        using var one = Generate(model, "red").GetEnumerator();
        using var two = Generate(model, "azure").GetEnumerator();
        List<int> red = [], azure = [];
        while (one.MoveNext() && two.MoveNext()) (red, azure) = ([.. red, one.Current], [.. azure, two.Current]);
        Assert.Equal(alone["red"].Tokens, red);
        Assert.Equal(alone["azure"].Tokens, azure);
        // An attached adapter is what a request without a name gets.
        AdapterFolder.Load(model, At("blue"));
        Assert.Equal(alone["azure"].Logits, Logits(model));
        Assert.Equal(alone["base"].Logits, Logits(model, adapter: "base"));
        Assert.Equal("no adapter is named 'green'; there are base, azure, red",
            Assert.Throws<ArgumentException>(() => Generate(model, "green")).Message);
        NamedAdapters.Remove(model, "red");
        Assert.Equal(["azure"], NamedAdapters.Of(model));
    }

    [Fact]
    public void Two_adapters_of_one_name_and_one_named_base_are_refused()
    {
        Peft("qwen3_moe");
        using var model = Load("qwen3_moe");
        Assert.Equal($"two adapters are named 'peft'; name one yourself: NAME={At("peft")}/",
            Assert.Throws<ArgumentException>(() => NamedAdapters.Load(model, [At("peft"), At("peft") + "/"])).Message);
        Assert.StartsWith("'base' means the model without an adapter",
            Assert.Throws<ArgumentException>(() => NamedAdapters.Load(model, [$"base={At("peft")}"])).Message, StringComparison.Ordinal);
    }

    internal static float[] Logits(CausalLm model, int[][]? ids = null, string? adapter = null)
    {
        var batch = TokenBatch.ForInference(ids ?? [[.. Enumerable.Range(3, 30)]]);
        var pass = Pass.Inference(batch, adapter: adapter);
        using var tape = KtNotebooks.Autograd.Tape.Scratch();
        return model.Logits(model.Hidden(batch, pass), pass).ToFloats();
    }

    internal static float[] Logits(CausalLm model, string golden) =>
        Logits(model, [.. JsonNode.Parse(File.ReadAllText(Path.Combine(GoldenTests.Of(golden), "expected.json")))!["input_ids"]!.AsArray()
            .Select(r => r!.AsArray().Select(v => v!.GetValue<int>()).ToArray())]);

    internal static CausalLm Load(string golden) => ModelFolder.Load(Path.Combine(GoldenTests.Of(golden), "model"), DType.F32);

    internal static void Close(float[] expected, float[] actual, double limit = 2e-4)
    {
        Assert.Equal(expected.Length, actual.Length);
        var scale = expected.Max(Math.Abs);
        Assert.All(expected.Zip(actual), p => Assert.True(Math.Abs(p.First - p.Second) <= limit * scale, $"{p.Second} instead of {p.First}"));
    }

    /// <summary>The reference's logits with its first adapter.</summary>
    internal static float[] Expected(string golden)
    {
        using var file = new SafetensorsFile(Path.Combine(GoldenTests.Of(golden), "expected.safetensors"));
        using var logits = file.Get("lora_logits");
        return logits.ToFloats();
    }

    private static int[] Tokens(CausalLm model, string? adapter) => [.. Generate(model, adapter)];

    private static IEnumerable<int> Generate(CausalLm model, string? adapter) =>
        Scheduler.Generate(model, new GenerationRequest([1, 2, 3], Sampling.Greedy(8)) { Adapter = adapter }, cancel: Stop);

    private static void Randomise(CausalLm model, int seed = 1)
    {
        var random = new Random(seed);
        foreach (var (_, tensor) in model.AllTrainable)
            tensor.Store([.. Enumerable.Range(0, (int)tensor.Count).Select(_ => (random.NextSingle() - 0.5f) * 0.3f)]);
    }

    private static void Same(string expected, string actual)
    {
        using var a = new SafetensorsFile(expected);
        using var b = new SafetensorsFile(actual);
        Assert.Equal(a.Entries.Keys.Order(StringComparer.Ordinal), b.Entries.Keys.Order(StringComparer.Ordinal));
        foreach (var name in a.Entries.Keys)
        {
            using var x = a.Get(name);
            using var y = b.Get(name);
            Assert.Equal(x.Shape.ToArray(), y.Shape.ToArray());
            Assert.Equal(x.Span<int>().ToArray(), y.Span<int>().ToArray()); // F32 as bits
        }
    }

    private string At(string name) => Path.Combine(_folder.Path, name);

    private string Peft(string golden)
    {
        Directory.CreateDirectory(At("peft"));
        File.Copy(Path.Combine(GoldenTests.Of(golden), "adapter_init.safetensors"), Path.Combine(At("peft"), "adapter_model.safetensors"));
        File.WriteAllText(Path.Combine(At("peft"), "adapter_config.json"), FromPeft);
        return At("peft");
    }

    private LoraSettings LoadWith(CausalLm model, Action<JsonObject> edit)
    {
        var path = Path.Combine(At("a"), "adapter_config.json");
        var config = JsonNode.Parse(File.ReadAllText(path))!.AsObject();
        edit(config);
        File.WriteAllText(path, config.ToJsonString());
        return AdapterFolder.Load(model, At("a"));
    }
}
