using System.Text.Json.Nodes;

using KtNotebooks.Configuration;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Evaluation;
using KtNotebooks.Tests.Models;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Training;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Lora;

[Collection("cpu variant")] // bits are compared: nobody may change the kernels meanwhile
public sealed class AdapterTests : IDisposable
{
    private const string Q = "base_model.model.model.layers.1.self_attn.q_proj";
    private readonly Samples.Folder _folder = new();

    private string Weights => Path.Combine(_folder.Path, "adapter_model.safetensors");

    private string Config => Path.Combine(_folder.Path, "adapter_config.json");

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData(DType.F32)]
    [InlineData(DType.BF16)]
    public void A_fresh_adapter_changes_no_bit(DType type)
    {
        using var model = Tiny.Build(type);
        var before = Logits(model);
        Assert.Equal(5 * 3 + 3 + 2 * 3 + 2 * 3 * Tiny.Experts - 3, LoraAdapter.Attach(model, new LoraSettings(Rank: 5, Experts: true)));
        Assert.Equal(before, Logits(model));
        LoraAdapter.Detach(model);
        Assert.Equal(before, Logits(model));
        Assert.Empty(model.AllTrainable);
    }

    [Fact]
    public void Names_and_shapes_are_PEFT_s()
    {
        using var model = ModelFolder.Load(Path.Combine(GoldenTests.Lite, "model"), DType.F32);
        LoraAdapter.Attach(model, new LoraSettings(Rank: 4, Alpha: 16, Experts: true));
        using var reference = new SafetensorsFile(Path.Combine(GoldenTests.Lite, "adapter_init.safetensors"));
        var ours = Take(model).ToDictionary(t => t.Name, t => t.Shape);
        Assert.Equal(reference.Entries.Keys.Order(StringComparer.Ordinal), ours.Keys.Order(StringComparer.Ordinal));
        Assert.All(reference.Entries.Values, e => Assert.Equal(e.Shape, ours[e.Name]));
    }

    [Fact]
    public void A_saved_adapter_comes_back_bit_by_bit()
    {
        using var trained = Tiny.WithAdapter();
        AdapterFolder.Save(trained, new LoraSettings(Rank: 3, Alpha: 5, Dropout: 0.25, Experts: true), _folder.Path, "some/base");
        Assert.Equal([Config, Weights], Directory.GetFileSystemEntries(_folder.Path).Order());
        using var fresh = Tiny.Build();
        var settings = AdapterFolder.Load(fresh, _folder.Path);
        Assert.Equal((3, 5.0, 0.25), (settings.Rank, settings.EffectiveAlpha, settings.Dropout));
        foreach (var (a, b) in Take(trained).Zip(Take(fresh)))
        {
            Assert.Equal(a.Name, b.Name);
            Assert.Equal(a.Values, b.Values);
        }
        Assert.All(fresh.AllTrainable, p => Assert.True(p.Tensor.RequiresGrad));
        var config = JsonNode.Parse(File.ReadAllText(Config))!;
        Assert.Equal(("LORA", "CAUSAL_LM", "some/base", 3),
            (config["peft_type"]!.GetValue<string>(), config["task_type"]!.GetValue<string>(), config["base_model_name_or_path"]!.GetValue<string>(),
                config["r"]!.GetValue<int>()));
        Assert.Equal(["down_proj", "gate_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj", "q_proj", "up_proj"], config["target_modules"]!.AsArray()
            .Select(n => n!.GetValue<string>()));
    }

    [Fact]
    public void Alpha_is_twice_the_rank_unless_it_is_given()
    {
        Assert.Equal((16.0, 2f), (new LoraSettings(8).EffectiveAlpha, new LoraSettings(8).Scale));
        Assert.Equal(0.5f, new LoraSettings(8, 4).Scale);
        Assert.Equal(0f, new LoraSettings(8, 0).Scale);
        Assert.Equal(-0.5f, new LoraSettings(8, -4).Scale);
        // LLaMA-Factory's key takes 0 for nothing given.
        Assert.Equal(16.0, FineTuneKeys.ReadLora(Settings.Read(["lora_rank=8", "lora_alpha=0"])).EffectiveAlpha);
        Assert.Equal(4.0, FineTuneKeys.ReadLora(Settings.Read(["lora_rank=8", "lora_alpha=4"])).EffectiveAlpha);
    }

    [Theory]
    [InlineData("q_proj", 3)]
    [InlineData("q_proj,o_proj", 6)]
    [InlineData("gate_proj", 3)] // one dense layer and two shared experts
    [InlineData("layers.1.self_attn.q_proj", 1)]
    [InlineData("all", 21)]
    [InlineData("all,q_proj", 21)]
    public void Targets_are_the_last_words_of_a_path(string targets, int count)
    {
        using var model = Tiny.Build();
        Assert.Equal(count, LoraAdapter.Attach(model, new LoraSettings(Target: targets.Split(','))));
        Assert.All(model.All().OfType<KtNotebooks.Nn.Linear>().Where(l => l.Adapter is not null),
            l => Assert.False(l.Path is "lm_head" || l.Path.EndsWith(".gate", StringComparison.Ordinal)));
    }

    [Fact]
    public void An_unknown_target_names_the_known_ones()
    {
        using var model = Tiny.Build();
        Assert.Equal("lora_target 'qproj' is no linear layer of this model; known are all, down_proj, gate, gate_proj, kv_a_proj_with_mqa, kv_b_proj, "
            + "lm_head, o_proj, q_proj, up_proj",
            Assert.Throws<ArgumentException>(() => LoraAdapter.Attach(model, new LoraSettings(Target: ["q_proj", "qproj"]))).Message);
        Assert.Empty(model.AllTrainable);
    }

    [Theory]
    [InlineData(Q + ".lora_A.weight")]
    [InlineData(Q + ".lora_B.weight")]
    [InlineData("base_model.model.model.layers.2.mlp.experts.3.up_proj.lora_B.weight")]
    public void A_missing_half_is_named(string name)
    {
        Save(tensors => tensors.Remove(name));
        Assert.StartsWith($"{Weights}: tensor '{name}' is missing; ", Refused(), StringComparison.Ordinal);
    }

    [Fact]
    public void A_tensor_that_fits_nothing_is_named()
    {
        Save(tensors => tensors["base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight"] = Tensor.Zeros(DType.F32, 3, 40));
        Assert.Equal($"{Weights}: tensor 'base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight' fits no linear layer of this model, which " +
            "has 3 layers (1 such)", Refused());
    }

    [Fact]
    public void A_wrong_shape_is_named_with_expected_and_found()
    {
        Save(tensors => tensors[Q + ".lora_A.weight"] = Tensor.Zeros(DType.F32, 3, 41));
        Assert.Equal($"{Weights}: tensor '{Q}.lora_A.weight' must be [3, 40] for this base and rank 3, but is F32[3, 41]", Refused());
    }

    [Theory]
    [InlineData("r", "4",
        "adapter_model.safetensors: tensor 'base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight' must be [4, 40] for this base and rank 4, but is "
            + "F32[3, 40]")]
    [InlineData("r", "0", "adapter_config.json: lora_rank must be at least 1, but is 0")]
    [InlineData("r", "100000", "adapter_model.safetensors: its rank (r) 100000 is larger than 40, the smaller side of the largest matrix that it " +
        "adapts (model.layers.0.mlp.gate_proj, 44 × 40)")]
    [InlineData("r", "2147483647", "adapter_model.safetensors: its rank (r) 2147483647 is larger than ")]
    [InlineData("rank_pattern", "{\"q_proj\": 0}", "adapter_config.json: rank_pattern gives 'q_proj' the rank 0; it must be at least 1")]
    [InlineData("rank_pattern", "{\"q_proj\": 2}",
        "adapter_model.safetensors: tensor 'base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight' must be [2, 40] for this base and rank 2, but is "
            + "F32[3, 40]")]
    [InlineData("rank_pattern", "{\"q_proj\": 99999}", "adapter_model.safetensors: its rank (r) 99999 is larger than 40, the smaller side")]
    [InlineData("alpha_pattern", "{\"(\": 2}", "adapter_config.json: pattern '(': not a regular expression: ")]
    [InlineData("alpha_pattern", "{\"x\": 1e38}", "adapter_config.json: alpha_pattern gives 'x' the alpha 1E+38; it must lie between -1,000,000 and 1,000,000")]
    [InlineData("lora_alpha", "1e30", "adapter_config.json: lora_alpha must lie between -1,000,000 and 1,000,000, but is 1E+30")]
    [InlineData("lora_dropout", "1", "adapter_config.json: lora_dropout must be in [0, 1), but is 1")]
    public void A_config_that_does_not_fit_is_named(string key, string? value, string message)
    {
        Save(_ => { });
        var config = JsonNode.Parse(File.ReadAllText(Config))!.AsObject();
        if (value is null) config.Remove(key);
        else config[key] = JsonNode.Parse(value);
        File.WriteAllText(Config, config.ToJsonString());
        Assert.StartsWith(Path.Combine(_folder.Path, message), Refused(), StringComparison.Ordinal);
    }

    [Fact]
    public void The_adapter_of_another_base_is_refused()
    {
        Save(_ => { });
        using var other = Tiny.Build(seed: 2);
        Assert.StartsWith($"{Weights}: was trained on another base model (fingerprint ",
            Assert.Throws<InvalidDataException>(() => AdapterFolder.Load(other, _folder.Path)).Message, StringComparison.Ordinal);
        using var inBf16 = Tiny.Build(DType.BF16);
        AdapterFolder.Load(inBf16, _folder.Path); // the same base in another precision
    }

    [Fact]
    public void A_base_that_was_trained_further_is_another_base()
    {
        using var model = Tiny.Build();
        var before = AdapterFolder.Fingerprint(model);
        model.Norm.Weight.Store([.. model.Norm.Weight.ToFloats().Select(v => v * 1.02f)]);
        Assert.NotEqual(before, AdapterFolder.Fingerprint(model));
    }

    [Fact]
    public void A_file_without_our_metadata_loads()
    {
        Save(_ => { }, keepMetadata: false);
        using var model = Tiny.Build();
        AdapterFolder.Load(model, _folder.Path);
        Assert.Equal(21 * 2 + 2 * 6, model.AllTrainable.Count);
    }

    [Fact]
    public void The_adapter_of_another_architecture_is_said_to_be_one()
    {
        using (var t = Tensor.Zeros(DType.F32, 3, 40)) SafetensorsWriter.Write(Weights, [("base_model.model.h.0.c_attn.lora_A.weight", t)]);
        File.WriteAllText(Config, """{"r": 3, "lora_alpha": 6, "peft_type": "LORA"}""");
        Assert.Equal($"{Weights}: none of its 1 tensors fits this model; the first is 'base_model.model.h.0.c_attn.lora_A.weight'. It belongs to another "
            + "architecture", Refused());
    }

    [Fact]
    public void A_folder_without_an_adapter_says_what_should_be_there() =>
        Assert.Equal($"{Config}: no such file; an adapter folder holds adapter_config.json and adapter_model.safetensors", Refused<FileNotFoundException>());

    /// <summary>Saves a tiny adapter, changed; PEFT's files have no metadata of ours.</summary>
    private void Save(Action<Dictionary<string, Tensor>> change, bool keepMetadata = true)
    {
        using var model = Tiny.WithAdapter();
        AdapterFolder.Save(model, new LoraSettings(Rank: 3, Experts: true), _folder.Path, "base");
        Dictionary<string, Tensor> tensors;
        Dictionary<string, string> metadata;
        using (var file = new SafetensorsFile(Weights))
        {
            tensors = file.Entries.Keys.ToDictionary(k => k, k => file.Get(k));
            metadata = new(file.Metadata.Where(m => keepMetadata && m.Key != "format"));
        }
        change(tensors);
        SafetensorsWriter.Write(Weights, [.. tensors.Select(t => (t.Key, t.Value))], metadata);
        foreach (var tensor in tensors.Values) tensor.Dispose();
    }

    private string Refused() => Refused<Exception>();

    private string Refused<T>()
        where T : Exception
    {
        using var model = Tiny.Build();
        var error = Assert.ThrowsAny<T>(() => AdapterFolder.Load(model, _folder.Path));
        Assert.Empty(model.AllTrainable); // a refused adapter is not half there
        Assert.DoesNotContain('\n', error.Message);
        return error.Message;
    }

    private static float[] Logits(CausalLm model)
    {
        using var logits = model.Logits(TokenBatch.ForInference([[.. Enumerable.Range(3, 30)]]));
        return logits.ToFloats();
    }

    private static List<(string Name, long[] Shape, float[] Values)> Take(CausalLm model)
    {
        var tensors = AdapterTensors.Of(model);
        try
        {
            return [.. tensors.Select(t => (t.Name, t.Tensor.Shape.ToArray(), t.Tensor.ToFloats()))];
        }
        finally
        {
            foreach (var (_, tensor) in tensors) tensor.Dispose();
        }
    }
}
