using KtNotebooks.Lora;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Models;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Lora;

/// <summary>Names of tensors as wrappers of models leave them, and tensors that are no pairs.</summary>
public sealed class AdapterNamesTests : IDisposable
{
    private const string Query = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight";

    private readonly Samples.Folder _folder = new();

    private string Weights => Path.Combine(_folder.Path, "adapter_model.safetensors");

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData(Query)]
    [InlineData("base_model.model.model.layers.1.self_attn.q_proj.lora_A.default.weight")] // a state_dict, not PEFT's file
    [InlineData("base_model.model.model.layers.1.self_attn.q_proj.lora_A.my-adapter.weight")]
    [InlineData("module.base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight")] // DDP
    [InlineData("_orig_mod.base_model.model.model.layers.1.self_attn.q_proj.lora_A.default.weight")] // torch.compile
    [InlineData("base_model.model.model.layers.1._orig_mod.self_attn.q_proj.lora_A.weight")]
    [InlineData("_fsdp_wrapped_module.base_model.model.model.layers.1._fsdp_wrapped_module._checkpoint_wrapped_module.self_attn.q_proj.lora_A.weight")]
    [InlineData("base_model.model.base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight")] // PEFT on PEFT
    [InlineData("base_model.model.model.model.layers.1.self_attn.q_proj.lora_A.weight")] // a model inside a module named model
    [InlineData("base_model.model.layers.1.self_attn.q_proj.lora_A.weight")] // the body without its head
    [InlineData("model.layers.1.self_attn.q_proj.lora_A.weight")]
    [InlineData("layers.1.self_attn.q_proj.lora_A.weight")]
    public void A_wrapper_s_name_is_PEFT_s(string name) => Assert.Equal(Query, AdapterNames.Canonical(name, "x"));

    [Theory]
    [InlineData("module.base_model.model.lm_head.lora_B.default.weight", "base_model.model.lm_head.lora_B.weight")]
    [InlineData("model.layers.0.mlp.experts.3.up_proj.lora_B.weight", "base_model.model.model.layers.0.mlp.experts.3.up_proj.lora_B.weight")]
    // another architecture keeps its path
    [InlineData("base_model.model.transformer.h.0.attn.lora_A.weight", "base_model.model.transformer.h.0.attn.lora_A.weight")]
    public void The_rest_of_a_path_stays(string name, string canonical) => Assert.Equal(canonical, AdapterNames.Canonical(name, "x"));

    [Theory]
    [InlineData("q_proj", "tensor 'q_proj' is no half of a pair but a whole tensor of a model")]
    [InlineData("base_model.model.lm_head.weight", "is no half of a pair but a whole tensor of a model (a trained or enlarged token table, head, bias " +
        "or norm) that modules_to_save of adapter_config.json does not name; expected are halves")]
    [InlineData("base_model.model.model.embed_tokens.lora_embedding_A", "is a pair of the token table")]
    [InlineData("base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias", "is a bias of a pair (lora_bias)")]
    [InlineData("base_model.model.score.modules_to_save.weight", "is a whole module that was trained beside the pairs, but modules_to_save of")]
    [InlineData("model.layers.0.self_attn.q_proj.lora_a", "is named as mlx-lm names halves of pairs, which it stores transposed")]
    [InlineData("lora_unet_mid_block.lora_down.weight", "is named as diffusers and kohya name halves")]
    [InlineData("lora_A.weight", "has a name that is not known")]
    [InlineData("", "is no half of a pair")]
    public void What_is_no_half_of_a_pair_is_said(string name, string message) =>
        Assert.Contains(message, Assert.Throws<InvalidDataException>(() => AdapterNames.Canonical(name, "file")).Message, StringComparison.Ordinal);

    /// <summary>Without a prefix an adapter does the same, and so does what `kt adapter` makes of it.</summary>
    [Fact]
    public void An_adapter_of_a_wrapped_model_does_what_PEFT_s_does()
    {
        Save(name => name);
        var expected = Logits(_folder.Path);
        Save(name => "_orig_mod." + name["base_model.model.".Length..].Replace(".weight", ".default.weight", StringComparison.Ordinal));
        Assert.Equal(expected, Logits(_folder.Path));
        var again = Path.Combine(_folder.Path, "again");
        using (var source = AdapterSource.Open(_folder.Path)) source.Save(again, ExpertForm.Each);
        Assert.Equal(expected, Logits(again));
        // Never over an adapter that is there, be it the source.
        using (var source = AdapterSource.Open(_folder.Path))
        {
            Assert.Equal($"{again}: already holds adapter_config.json; name a new folder",
                Assert.Throws<ArgumentException>(() => source.Save(again, ExpertForm.Each)).Message);
            Assert.Equal($"{Weights}: is a file; an adapter is written into a folder",
                Assert.Throws<ArgumentException>(() => source.Save(Weights, ExpertForm.KTransformers)).Message);
        }
    }

    [Fact]
    public void Two_adapters_in_one_file_are_refused()
    {
        const string One = "model.layers.0.self_attn.q_proj.lora_A.red.weight", Two = "model.layers.0.self_attn.q_proj.lora_A.blue.weight";
        using var t = Tensor.Zeros(DType.F32, 3, 40);
        SafetensorsWriter.Write(Weights, [(One, t), (Two, t)]);
        using var file = new SafetensorsFile(Weights);
        Assert.Equal($"{Weights}: tensors '{One}' and '{Two}' are halves of the same pair; a file holds one adapter",
            Assert.Throws<InvalidDataException>(() => AdapterSource.Of(file)).Message);
    }

    private void Save(Func<string, string> rename)
    {
        using var model = Tiny.WithAdapter();
        AdapterFolder.Save(model, new LoraSettings(3), _folder.Path, null);
        Dictionary<string, Tensor> tensors;
        using (var file = new SafetensorsFile(Weights)) tensors = file.Entries.Keys.ToDictionary(rename, k => file.Get(k));
        SafetensorsWriter.Write(Weights, [.. tensors.Select(t => (t.Key, t.Value))]);
        foreach (var tensor in tensors.Values) tensor.Dispose();
    }

    private static float[] Logits(string adapter)
    {
        using var model = Tiny.Build();
        AdapterFolder.Load(model, adapter);
        return AdapterFormsTests.Logits(model);
    }
}
