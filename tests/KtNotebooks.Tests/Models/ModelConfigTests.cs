using System.Text.Json.Nodes;

using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Evaluation;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Models;

/// <summary>What config.json may say: the keys that real checkpoints have, and one clear line for what cannot be.</summary>
public sealed class ModelConfigTests : IDisposable
{
    private readonly Samples.Folder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("deepseek_v2", "topk_method", "\"noaux_tc\"", "'topk_method' is noaux_tc: only greedy and group_limited_greedy are known for this model")]
    [InlineData("deepseek_v2", "n_group", "5", "'n_group' must be a divisor of 12, the number of routed experts, but is 5")]
    [InlineData("deepseek_v2", "topk_group", "9", "'topk_group' must be 1 to 4: 3 experts a token of groups of 3, but is 9")]
    [InlineData("deepseek_v2", "kv_lora_rank", null, "'kv_lora_rank' is missing")]
    [InlineData("deepseek_v3", "scoring_func", "\"softmax\"", "'scoring_func' is softmax: only sigmoid scores are known for this model")]
    [InlineData("deepseek_v3", "topk_method", "\"greedy\"", "'topk_method' is greedy: only noaux_tc is known for this model")]
    [InlineData("deepseek_v3", "num_experts_per_tok", "17", "'num_experts_per_tok' must be 1 to 16, the number of routed experts, but is 17")]
    [InlineData("deepseek_v3", "topk_group", "0", "'topk_group' must be 1 to 4: 4 experts a token of groups of 4, but is 0")]
    [InlineData("deepseek_v3", "n_group", null, "'n_group' is missing")]
    [InlineData("deepseek_v3", "n_group", "16", "'topk_group' must be 4 to 16: 4 experts a token of groups of 1, but is 2")]
    [InlineData("deepseek_v3", "rope_interleave", "false",
        "'rope_interleave' is False: rotary pairs are neighbours in DeepSeek's checkpoints, and only those are read")]
    [InlineData("deepseek_v3", "moe_layer_freq", "0", "'moe_layer_freq' must be 1 to 1,000, but is 0")]
    [InlineData("deepseek_v3", "num_hidden_layers", "0", "'num_hidden_layers' must be 1 to 1,000, but is 0")]
    [InlineData("deepseek_v3", "num_hidden_layers", "2147483648", "'num_hidden_layers' must be 1 to 1,000, but is 2147483648")]
    [InlineData("deepseek_v3", "n_routed_experts", "100000", "'n_routed_experts' must be 1 to 10,000, but is 100000")]
    [InlineData("deepseek_v3", "n_shared_experts", "-1", "'n_shared_experts' must be 0 to 100, but is -1")]
    [InlineData("deepseek_v3", "hidden_size", "0", "'hidden_size' must be 1 to 131,072, but is 0")]
    [InlineData("deepseek_v3", "intermediate_size", "-1", "'intermediate_size' must be 1 to 1,000,000, but is -1")]
    [InlineData("deepseek_v3", "moe_intermediate_size", "0", "'moe_intermediate_size' must be 1 to 1,000,000, but is 0")]
    [InlineData("deepseek_v3", "vocab_size", "99999999999999999999", "'vocab_size' must be 1 to 4,000,000, but is 99999999999999999999")]
    [InlineData("deepseek_v3", "qk_rope_head_dim", "7", "'qk_rope_head_dim' must be even, but is 7")]
    [InlineData("deepseek_v3", "num_attention_heads", "0", "'num_attention_heads' must be 1 to 10,000, but is 0")]
    [InlineData("deepseek_v3", "rms_norm_eps", "1e300", "'rms_norm_eps' must be 1E-12 to 0.1, but is 1e300")]
    [InlineData("deepseek_v3", "rms_norm_eps", "0", "'rms_norm_eps' must be 1E-12 to 0.1, but is 0")]
    [InlineData("deepseek_v3", "rope_parameters", "{\"rope_type\":\"yarn\",\"rope_theta\":1e4,\"factor\":-1,\"original_max_position_embeddings\":64}",
        "'factor' must be 1 to 100000, but is -1")]
    [InlineData("deepseek_v3", "rope_parameters", "{\"rope_type\":\"default\",\"rope_theta\":1e999}", "'rope_theta' must be 1 to 1000000000000, but is 1e999")]
    [InlineData("glm4_moe", "rope_parameters", "{\"rope_type\":\"default\",\"partial_rotary_factor\":0.01}",
        "'partial_rotary_factor' must be a share that makes an even part of head_dim, 32, but is 0.5")]
    [InlineData("glm4_moe", "rope_parameters", "{\"rope_type\":\"default\",\"partial_rotary_factor\":1.5}",
        "'partial_rotary_factor' must be 0 to 1, but is 1.5")]
    [InlineData("glm4_moe", "n_routed_experts", null, "'n_routed_experts' is missing")]
    [InlineData("gpt_oss", "layer_types", "[\"full_attention\"]",
        "'layer_types' must be a list of full_attention and sliding_attention, one for each of the 4 layers, but is [\"full_attention\"]")]
    [InlineData("gpt_oss", "sliding_window", "0", "'sliding_window' must be 1 to 100,000,000, but is 0")]
    [InlineData("gpt_oss", "attention_bias", "false", "'attention_bias' is False: this model's attention has biases")]
    [InlineData("qwen3_moe", "num_attention_heads", "0", "'num_attention_heads' must be 1 to 10,000, but is 0")]
    [InlineData("qwen3_moe", "num_key_value_heads", "0", "'num_key_value_heads' must be 1 to 10,000, but is 0")]
    [InlineData("qwen3_moe", "num_key_value_heads", "3", "'num_key_value_heads' must be a divisor of num_attention_heads, 4, but is 3")]
    [InlineData("qwen3_moe", "head_dim", "7", "'head_dim' must be even and positive, but is 7")]
    [InlineData("qwen3_moe", "mlp_only_layers", "1", "'mlp_only_layers' must be a list of whole numbers, but is 1")]
    [InlineData("qwen3_moe", "use_sliding_window", "true", "'use_sliding_window' is True: sliding windows are not supported for this model")]
    [InlineData("qwen3_moe", "num_local_experts", null, "'num_local_experts' is missing")]
    [InlineData("qwen3_moe", "model_type", "\"qwen9\"",
        "model_type 'qwen9' is not known; known are deepseek_v2, deepseek_v3, glm4_moe, gpt_oss, kimi_k2, kimi_k25, qwen3_moe")]
    public void A_config_that_cannot_be_is_one_line_with_file_and_key(string model, string key, string? value, string message)
    {
        var path = Config(model, config =>
        {
            if (value is null) config.Remove(key);
            else config[key] = JsonNode.Parse(value);
        });
        var error = Assert.ThrowsAny<Exception>(() => Build(path).Dispose());
        Assert.Equal($"{path}: {message}", error.Message);
    }

    [Fact]
    public void More_experts_than_any_model_has_are_refused_before_they_are_counted_out()
    {
        var path = Config("deepseek_v3", config => (config["num_hidden_layers"], config["n_routed_experts"]) = (1000, 10_000));
        var error = Assert.Throws<InvalidDataException>(() => Build(path).Dispose());
        Assert.Equal($"{path}: 1000 layers ('num_hidden_layers') of 10000 experts make 10,000,000, more than 400,000", error.Message);
    }

    /// <summary>Shared experts that config.json does not count would be left out without a word.</summary>
    [Fact]
    public void Tensors_that_the_config_has_no_use_for_are_said()
    {
        Checkout.Copy(Path.Combine(GoldenTests.Of("deepseek_v3"), "model"), _folder.Path);
        var path = Config("deepseek_v3", config => config["n_shared_experts"] = 0);
        using var model = ModelFolder.Load(_folder.Path, DType.F32);
        var note = Assert.Single(model.Notes);
        Assert.StartsWith($"{path}: ", note, StringComparison.Ordinal);
        Assert.Matches(@": \d+ tensors of the checkpoint are not used by a model of this config; the first is 'model.layers.\d.mlp.shared_experts.\w+.weight'$",
            note);
    }

    /// <summary>The keys of Kimi-K2-Instruct's config.json beside the sizes.</summary>
    [Fact]
    public void What_Kimi_says_about_itself_does_not_disturb()
    {
        var path = Config("deepseek_v3", config =>
        {
            foreach (var (key, value) in JsonNode.Parse("""
                {"model_type": "kimi_k2", "architectures": ["DeepseekV3ForCausalLM"], "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config",
                "AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM"},
                 "aux_loss_alpha": 0.001, "seq_aux": true, "ep_size": 1, "moe_layer_freq": 1, "n_group": 1, "topk_group": 1, "num_nextn_predict_layers": 0,
                 "routed_scaling_factor": 2.827, "rope_theta": 50000.0,
                 "rope_scaling": {"beta_fast": 1.0, "beta_slow": 1.0, "factor": 32.0, "mscale": 1.0, "mscale_all_dim": 1.0,
                 "original_max_position_embeddings": 4096, "type": "yarn"}, "rope_parameters": null,
                 "scoring_func": "sigmoid", "topk_method": "noaux_tc", "pretraining_tp": 1, "torch_dtype": "bfloat16", "use_cache": true,
                 "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}}
                """)!.AsObject().ToArray()) config[key] = value?.DeepClone();
        });
        using var model = Build(path);
        Assert.Equal("kimi_k2", model.Info.ModelType);
        using var logits = model.Logits(TokenBatch.ForInference([[1, 2, 3, 200]]));
        Assert.All(logits.ToFloats(), v => Assert.True(float.IsFinite(v)));
    }

    [Theory]
    [InlineData("[]", 1, "MMM")]
    [InlineData("[1]", 1, "MDM")]
    [InlineData("[]", 2, "DMD")]
    [InlineData("[1]", 2, "DDD")]
    public void A_layer_of_Qwen_is_a_mixture_by_its_number(string dense, int step, string expected)
    {
        using var model = Build(Config("qwen3_moe", config => (config["mlp_only_layers"], config["decoder_sparse_step"]) = (JsonNode.Parse(dense), step)));
        Assert.Equal(expected, Kinds(model));
    }

    [Theory]
    [InlineData(1, 1, "DMMM")]
    [InlineData(3, 1, "DDDM")]
    [InlineData(1, 2, "DDMD")]
    public void A_layer_of_DeepSeek_is_a_mixture_by_its_number(int first, int frequency, string expected)
    {
        using var model = Build(Config("deepseek_v3", config => (config["first_k_dense_replace"], config["moe_layer_freq"]) = (first, frequency)));
        Assert.Equal(expected, Kinds(model));
    }

    /// <summary>GLM-4.5 has norms on its heads, GLM-4.5-Air has none.</summary>
    [Theory]
    [InlineData(true, true)]
    [InlineData(false, true)]
    [InlineData(false, false)]
    public void Norms_and_biases_of_GLM_s_attention_are_settings(bool norms, bool biases)
    {
        var path = Config("glm4_moe", config => (config["use_qk_norm"], config["attention_bias"]) = (norms, biases));
        using var model = Build(path);
        var names = model.AllWeights.Select(w => w.Name).Where(n => n.StartsWith("model.layers.0.self_attn.", StringComparison.Ordinal));
        string[] attention = ["q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight",
            .. norms ? new[] { "q_norm.weight", "k_norm.weight" } : [], .. biases ? new[] { "q_proj.bias", "k_proj.bias", "v_proj.bias" } : []];
        Assert.Equal(attention.Order(), names.Select(n => n["model.layers.0.self_attn.".Length..]).Order());
        using var logits = model.Logits(TokenBatch.ForInference([[1, 2, 3, 200]]));
        Assert.All(logits.ToFloats(), v => Assert.True(float.IsFinite(v)));
    }

    [Fact]
    public void Without_a_head_dim_the_heads_share_the_width()
    {
        using var model = Build(Config("qwen3_moe", config =>
        {
            config.Remove("head_dim");
            config["num_experts"] = config["num_local_experts"]!.DeepClone(); // the name in the original checkpoints
            config.Remove("num_local_experts");
        }));
        Assert.Equal([64L, 64], Weight(model, "model.layers.0.self_attn.q_proj.weight").Shape.ToArray());
        Assert.Equal([32L, 64], Weight(model, "model.layers.0.self_attn.v_proj.weight").Shape.ToArray());
        Assert.Equal([16L], Weight(model, "model.layers.0.self_attn.k_norm.weight").Shape.ToArray());
    }

    [Theory]
    [InlineData("qwen3_moe")]
    [InlineData("deepseek_v3")]
    public void A_tied_head_is_the_token_table(string type)
    {
        using var model = Build(Config(type, config => config["tie_word_embeddings"] = true));
        Assert.Same(model.Embedding.Weight, model.Head.Weight);
        Assert.DoesNotContain(model.AllWeights, w => w.Name == "lm_head.weight");
        model.Unfreeze();
        Assert.Single(model.AllTrainable, p => p.Tensor == model.Embedding.Weight);
        Assert.DoesNotContain(model.AllTrainable, p => p.Name.EndsWith("correction_bias", StringComparison.Ordinal));
    }

    /// <summary>DeepSeek-V3 ships layer 61 for a second token; here the golden model loses its last layer to it.</summary>
    [Theory]
    [InlineData(1, "they predict further tokens (num_nextn_predict_layers) and are not part of this model")]
    [InlineData(0, "num_hidden_layers is 3")]
    public void Layers_beyond_the_last_are_said_once(int further, string why)
    {
        Checkout.Copy(Path.Combine(GoldenTests.Of("deepseek_v3"), "model"), _folder.Path);
        var path = Config("deepseek_v3", config => (config["num_hidden_layers"], config["num_nextn_predict_layers"]) = (3, further));
        using var model = ModelFolder.Load(_folder.Path, DType.F32);
        Assert.Equal([$"{path}: 62 tensors of layer 3 are not loaded: {why}"], model.Notes);
        using var whole = ModelFolder.Load(Path.Combine(GoldenTests.Of("deepseek_v3"), "model"), DType.F32);
        Assert.Empty(whole.Notes);
    }

    [Fact]
    public void YaRN_s_attention_factor_wins_over_its_formula()
    {
        using var plain = Build(Config("qwen3_moe",
            config => config["rope_parameters"] =
                JsonNode.Parse("""{"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 64}""")));
        using var given = Build(Config("qwen3_moe",
            config => config["rope_parameters"] =
                JsonNode.Parse(
                    """{"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 64, """
                    + $"\"attention_factor\": {(0.1 * Math.Log(4)) + 1:R}}}")));
        using var other = Build(Config("qwen3_moe",
            config => config["rope_parameters"] =
                JsonNode.Parse(
                    """{"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 64, "attention_factor": 1.0}""")));
        Assert.Equal(Logits(plain), Logits(given));
        Assert.NotEqual(Logits(plain), Logits(other));
    }

    private static float[] Logits(CausalLm model)
    {
        using var logits = model.Logits(TokenBatch.ForInference([[.. Enumerable.Range(0, 20)]]));
        return logits.ToFloats();
    }

    private static string Kinds(CausalLm model) =>
        string.Concat(model.Stages.Where(s => !s.NeedsWholeSequences).Select(s => s.All().Any(m => m is KtNotebooks.Experts.MoeMlp) ? 'M' : 'D'));

    private static Tensor Weight(CausalLm model, string name) => model.AllWeights.Single(w => w.Name == name).Tensor;

    private static CausalLm Build(string config) => ModelFolder.Build(new ConfigFile(config), new RandomWeights(1, deviation: 0.2f), DType.F32);

    /// <summary>The golden model's config, changed.</summary>
    private string Config(string model, Action<JsonObject> edit)
    {
        var config = JsonNode.Parse(File.ReadAllText(Path.Combine(GoldenTests.Of(model), "model", "config.json")))!.AsObject();
        edit(config);
        return _folder.Write("config.json", config.ToJsonString());
    }
}
