namespace KtNotebooks.Models;

/// <summary>
/// What the numbers of a config.json may be. Every field that is read is looked up here, before anything is built or allocated: a size of 2³¹ or −1 is then a
/// line that names file and key, and not minutes
/// without end or a model that means nothing. The limits stand far above every known model.
/// </summary>
internal static class ConfigLimits
{
    /// <summary>Most experts of all layers together; Kimi-K2 has 23,040.</summary>
    public const int Experts = 400_000;

    /// <summary>Whole numbers by key.</summary>
    public static IReadOnlyDictionary<string, (int Least, int Most)> Whole { get; } = new Dictionary<string, (int, int)>
    {
        ["num_hidden_layers"] = (1, 1_000), // the most known is 126
        ["hidden_size"] = (1, 131_072),
        ["vocab_size"] = (1, 4_000_000),
        ["intermediate_size"] = (1, 1_000_000),
        ["moe_intermediate_size"] = (1, 1_000_000),
        ["n_routed_experts"] = (1, 10_000),
        ["num_experts"] = (0, 10_000), // Qwen3-MoE: none is a dense model
        ["num_local_experts"] = (0, 10_000),
        ["n_shared_experts"] = (0, 100),
        ["first_k_dense_replace"] = (0, 1_000),
        ["num_nextn_predict_layers"] = (0, 100),
        ["num_attention_heads"] = (1, 10_000),
        ["num_key_value_heads"] = (1, 10_000),
        ["head_dim"] = (2, 10_000),
        ["q_lora_rank"] = (1, 131_072),
        ["kv_lora_rank"] = (1, 131_072),
        ["qk_nope_head_dim"] = (1, 10_000),
        ["qk_rope_head_dim"] = (2, 10_000),
        ["v_head_dim"] = (1, 10_000),
        ["max_position_embeddings"] = (1, 100_000_000),
        ["sliding_window"] = (1, 100_000_000), // 128 of gpt-oss
        ["moe_layer_freq"] = (1, 1_000),
        ["decoder_sparse_step"] = (1, 1_000),
    };

    /// <summary>Other numbers by key, those of the rotary block included.</summary>
    public static IReadOnlyDictionary<string, (double Least, double Most)> Real { get; } = new Dictionary<string, (double, double)>
    {
        ["rms_norm_eps"] = (1e-12, 0.1), // usual are 1e-5 and 1e-6
        ["rope_theta"] = (1, 1e12), // usual are 1e4 to 1e7
        ["routed_scaling_factor"] = (1e-6, 1e6), // 1 to 16
        ["swiglu_limit"] = (1e-3, 1e6), // 7 of gpt-oss
        ["partial_rotary_factor"] = (0, 1), // 0.5 of GLM
        ["factor"] = (1, 1e5), // 40 of DeepSeek
        ["original_max_position_embeddings"] = (1, 1e8),
        ["beta_fast"] = (1e-6, 1e6),
        ["beta_slow"] = (1e-6, 1e6),
        ["mscale"] = (0, 1e3),
        ["mscale_all_dim"] = (0, 1e3),
        ["attention_factor"] = (1e-6, 1e3),
    };
}
