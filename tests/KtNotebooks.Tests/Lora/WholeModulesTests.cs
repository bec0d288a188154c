using System.Text.Json.Nodes;

using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Planning;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Cli;
using KtNotebooks.Tests.Models;
using KtNotebooks.Training;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Lora;

/// <summary>
/// additional_target: which weights its names are, that they learn what full fine-tuning would, and how files hold them; what a run leaves, and how it goes
/// on, is asked in <see cref="DoraTests"/>, PEFT's own numbers and file in GoldenStageTests.
/// </summary>
[Collection("cpu variant")]
public sealed class WholeModulesTests : IDisposable
{
    private readonly Workplace _place = new();

    public void Dispose() => _place.Dispose();

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    private string File => Path.Combine(_place.Output, "adapter_model.safetensors");

    /// <summary>PEFT takes every module whose path ends in the name, and of a module all that is in it.</summary>
    [Theory]
    [InlineData("lm_head", "lm_head.weight")]
    [InlineData("norm", "model.norm.weight model.layers.0.input_layernorm.weight model.layers.1.self_attn.kv_a_layernorm.weight")]
    [InlineData("mlp.gate", "model.layers.1.mlp.gate.weight model.layers.2.mlp.gate.weight")]
    [InlineData("layers.0.mlp", "model.layers.0.mlp.gate_proj.weight model.layers.0.mlp.up_proj.weight model.layers.0.mlp.down_proj.weight")]
    [InlineData("1.self_attn.q_proj", "model.layers.1.self_attn.q_proj.weight")]
    public void A_name_is_the_end_of_paths(string name, string weights)
    {
        using var model = Tiny.Build();
        var of = WholeModules.WeightsOf(model, [name]);
        Assert.Empty(weights.Split(' ').Except(of));
        if (name != "norm") Assert.Equal(weights.Split(' ').Length, of.Count);
        else Assert.Equal((3 * 3) + 1, of.Count);
    }

    /// <summary>A fresh pair changes nothing, so the gradients of its first step are those of the weights trained alone; others have none.</summary>
    [Fact]
    public void Gradients_are_those_of_full_fine_tuning()
    {
        string[] names = ["embed_tokens", "lm_head", "norm", "gate", "kv_b_proj", "shared_experts.down_proj", "layers.0.mlp.up_proj"];
        var batch = Tiny.Batch(3, [5, 11, 1, 13, 8, 2]);
        using var full = Tiny.Build(chosen: Tiny.Experts);
        var weights = WholeModules.WeightsOf(full, names).ToHashSet();
        full.Unfreeze(weights.Contains);
        new LayerMajorStep(full).Run(batch, cancel: Stop);
        var expected = Tiny.TakeGradients(full);

        using var model = Tiny.Build(chosen: Tiny.Experts);
        LoraAdapter.Attach(model, new LoraSettings(3, Additional: names));
        Assert.DoesNotContain(model.All().OfType<Linear>(), l => l.Adapter is not null && weights.Contains(l.Path + ".weight")); // whole, and so no pair
        new LayerMajorStep(model).Run(batch, cancel: Stop);
        var actual = Tiny.TakeGradients(model);
        Assert.Equal(weights, expected.Keys.ToHashSet());
        Assert.Equal(weights, actual.Keys.Where(k => !k.Contains("lora_", StringComparison.Ordinal)).ToHashSet());
        foreach (var (name, values) in expected)
        {
            var scale = values.Max(Math.Abs);
            Assert.True(scale > 0, name);
            Assert.All(values.Zip(actual[name]), v => Assert.Equal(v.First, v.Second, 1e-5 * scale));
        }
    }

    [Theory]
    [InlineData("per_expert")]
    [InlineData("fused")]
    public void The_files_are_PEFT_s(string form)
    {
        using (var run = Open("additional_target=lm_head,gate", "lora_experts=true", "lora_form=" + form)) run.Run(Stop);
        using var file = new SafetensorsFile(File);
        Assert.Equal(["base_model.model.lm_head.weight", "base_model.model.model.layers.1.mlp.gate.weight", "base_model.model.model.layers.2.mlp.gate.weight"],
            file.Entries.Keys.Where(k => !k.Contains("lora_", StringComparison.Ordinal)).Order(StringComparer.Ordinal));
        var config = Config();
        Assert.Equal("""["lm_head","gate"]""", config["modules_to_save"]!.ToJsonString());
        Assert.DoesNotContain(config["target_modules"]!.AsArray(), t => t!.GetValue<string>() is "lm_head" or "gate");
        Assert.False(config.ContainsKey("ensure_weight_tying"));
        using var model = Loaded();
        using var stored = file.Get("base_model.model.lm_head.weight");
        Assert.Equal(stored.ToFloats(), model.Head.Weight.ToFloats());
        using var first = ModelFolder.Load(_place.Model, DType.F32);
        Assert.NotEqual(first.Head.Weight.ToFloats(), model.Head.Weight.ToFloats());
    }

    /// <summary>A wrapped model's names, as PEFT's own state dict has them, are the same modules.</summary>
    [Fact]
    public void Other_forms_keep_them()
    {
        using (var run = Open("additional_target=lm_head", "lora_experts=true")) run.Run(Stop);
        var again = Path.Combine(_place.Root, "again");
        using (var source = AdapterSource.Open(_place.Output))
        {
            source.Save(again, ExpertForm.Parameters);
            Assert.Contains("which KTransformers does not read", Assert.Throws<InvalidDataException>(() =>
                source.Save(Path.Combine(_place.Root, "kt"), ExpertForm.KTransformers)).Message, StringComparison.Ordinal);
        }
        using var converted = AdapterSource.Open(again);
        using var first = AdapterSource.Open(_place.Output);
        Assert.Equal(first.Modules["lm_head.weight"].Read(), converted.Modules["lm_head.weight"].Read());
        Assert.Equal("lm_head.weight", WholeModules.WeightName("base_model.model.lm_head.modules_to_save.default.weight", ["lm_head"]));
        Assert.Null(WholeModules.WeightName("base_model.model.lm_head.lora_A.weight", ["lm_head"]));
        Assert.Null(WholeModules.WeightName("base_model.model.model.norm.weight", ["lm_head"]));
    }

    [Fact]
    public void A_tied_head_and_its_table_are_one()
    {
        Tie();
        using (var run = Open("additional_target=lm_head")) run.Run(Stop);
        Assert.Equal("""["lm_head","embed_tokens"]""", Config()["modules_to_save"]!.ToJsonString());
        Assert.True(Config()["ensure_weight_tying"]!.GetValue<bool>());
        using (var file = new SafetensorsFile(File))
        using (var head = file.Get("base_model.model.lm_head.weight"))
        using (var table = file.Get("base_model.model.model.embed_tokens.weight"))
        using (var model = Loaded())
        {
            Assert.Equal(table.ToFloats(), head.ToFloats());
            Assert.Equal(table.ToFloats(), model.Embedding.Weight.ToFloats());
        }
        var merged = Path.Combine(_place.Root, "merged");
        using (var export = new AdapterExport(new ExportSettings(_place.Model, [_place.Output], merged))) export.Run(cancel: Stop);
        using (var result = ModelFolder.Load(merged, DType.F32))
        using (var model = Loaded())
            Assert.Equal(model.Embedding.Weight.ToFloats(), result.Embedding.Weight.ToFloats());

        // PEFT before 0.18, and without ensure_weight_tying, trains one of the two and leaves the other: no tied model is that.
        Change(config => config.Remove("ensure_weight_tying"), tensors => tensors.Remove("base_model.model.lm_head.weight"));
        Assert.Contains("has one of the two alone", Assert.Throws<InvalidDataException>(Loaded).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void What_does_not_fit_is_named()
    {
        using (var run = Open("additional_target=lm_head")) run.Run(Stop);
        var twice = Path.Combine(_place.Root, "merged");
        var error = Assert.Throws<InvalidDataException>(() => new AdapterExport(new ExportSettings(_place.Model, [_place.Output, _place.Output], twice)));
        Assert.Contains("only one of them can take the place of the base's", error.Message, StringComparison.Ordinal);
        using (var model = ModelFolder.Load(_place.Model, DType.F32))
        {
            Assert.Contains("of which a model has one", Assert.Throws<InvalidDataException>(() => AdapterFolder.LoadNamed(model, "a", _place.Output)).Message,
                StringComparison.Ordinal);
            Assert.Contains("of which a model has one", Assert.Throws<InvalidDataException>(() => AdapterFolder.Read(model, _place.Output)).Message,
                StringComparison.Ordinal);
            Assert.Contains("lies in its mapped file", Assert.Throws<InvalidDataException>(() => AdapterFolder.Load(model, _place.Output)).Message,
                StringComparison.Ordinal);
        }
        var other = Path.Combine(_place.Root, "other");
        Assert.Contains("goes on with lm_head", Assert.Throws<ArgumentException>(() =>
            Open($"output_dir={other}", $"adapter_name_or_path={_place.Output}", "additional_target=norm")).Message, StringComparison.Ordinal);
        using (var on = Open($"output_dir={other}", $"adapter_name_or_path={_place.Output}", "additional_target=lm_head"))
            Assert.Contains(on.Model.AllTrainable, p => p.Name == "lm_head.weight");
        Change(config => config["modules_to_save"] = null, _ => { });
        Assert.Contains("modules_to_save of adapter_config.json does not name", Assert.Throws<InvalidDataException>(() => AdapterSource.Open(_place.Output))
            .Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("additional_target=mlp", "lora_rank=2", "has routed experts in it (model.layers.1.mlp.experts)")]
    [InlineData("additional_target=top", "lora_rank=2", "is the end of no module's path in this model; known are down_proj, embed_tokens, gate")]
    [InlineData("additional_target=lm_head", "lora_target=lm_head", "additional_target and lora_target both name lm_head")]
    [InlineData("additional_target=lm_head", "finetuning_type=full", "'additional_target' must be left out with finetuning_type: full")]
    public void What_cannot_be_is_refused_by_the_plan_already(string key, string other, string message)
    {
        string[] pairs = [.. _place.Train(key, other, "infer_dtype=float32").Skip(1)];
        Assert.Contains(message, Assert.Throws<ArgumentException>(() => MemoryPlan.Open(pairs)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_plan_counts_them()
    {
        MemoryPlan Of(params string[] keys) => MemoryPlan.Open([.. _place.Train([.. keys, "infer_dtype=float32", "lora_target=q_proj"]).Skip(1)]);
        var (plain, whole) = (Of(), Of("additional_target=lm_head,embed_tokens"));
        const long Elements = 2L * Tiny.Vocabulary * 40;
        Assert.Equal(plain.Trainable + Elements, whole.Trainable);
        Assert.Equal(plain.Bytes("cpu", MemoryPlan.Adapter), whole.Bytes("cpu", MemoryPlan.Adapter));
        Assert.Equal(4 * Elements, whole.Bytes("cpu", MemoryPlan.Gradients) - plain.Bytes("cpu", MemoryPlan.Gradients));
        Assert.Equal(8 * Elements, whole.Bytes("cpu", MemoryPlan.Optimizer) - plain.Bytes("cpu", MemoryPlan.Optimizer));
        var rules = Path.Combine(_place.Root, "mapped.yaml");
        System.IO.File.WriteAllText(rules, "- match: { name: .* }\n  place: { weights: mmap }\n");
        MemoryPlan Lite(string key) => MemoryPlan.Open("deepseek-v2-lite", "use_cpu=true", "tokens_per_step=512", "kt_optimize_rule=" + rules, key);
        var (head, inPlace) = (102400L * 2048, Lite("additional_target=lm_head"));
        Assert.Equal(Lite("lora_rank=8").Bytes("cpu", MemoryPlan.Mapped) - (2 * head), inPlace.Bytes("cpu", MemoryPlan.Mapped)); // read, to be written
        Assert.Equal(Lite("lora_rank=8").Bytes("cpu", MemoryPlan.Weights) + (2 * head), inPlace.Bytes("cpu", MemoryPlan.Weights));
        Assert.Contains(whole.Notes, n => n.Contains("40,960 of the model's own weights", StringComparison.Ordinal));
    }

    private FineTuneRun Open(params string[] keys) =>
        FineTuneRun.Open([.. _place.Train("plot_loss=false", "infer_dtype=float32", "max_steps=2").Skip(1), .. keys]);

    private CausalLm Loaded() => KtNotebooks.Generation.ModelKeys.Read(KtNotebooks.Configuration.Settings.Read([$"model_name_or_path={_place.Model}",
        $"adapter_name_or_path={_place.Output}", "template=deepseek", "infer_dtype=float32"])).Load().Model;

    private JsonObject Config() => JsonNode.Parse(System.IO.File.ReadAllText(Path.Combine(_place.Output, "adapter_config.json")))!.AsObject();

    /// <summary>The model with tie_word_embeddings, its head gone.</summary>
    private void Tie() => Tiny.Save(_place.Model, change: config => config.Replace("\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true",
        StringComparison.Ordinal));

    private void Change(Action<JsonObject> config, Action<Dictionary<string, Tensor>> tensors)
    {
        var changed = Config();
        config(changed);
        System.IO.File.WriteAllText(Path.Combine(_place.Output, "adapter_config.json"), changed.ToJsonString());
        Dictionary<string, Tensor> all = [];
        using (var file = new SafetensorsFile(File))
            foreach (var name in file.Entries.Keys)
            {
                using var stored = file.Get(name);
                all[name] = Tensor.From(stored.ToFloats(), stored.Shape);
            }
        tensors(all);
        SafetensorsWriter.Write(File, [.. all.Select(t => (t.Key, t.Value))]);
        foreach (var tensor in all.Values) tensor.Dispose();
    }
}
