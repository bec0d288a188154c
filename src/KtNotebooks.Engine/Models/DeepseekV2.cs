using KtNotebooks.Experts;
using KtNotebooks.Nn;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Models;

/// <summary>
/// DeepSeek-V2 and V2-Lite (arXiv 2405.04434). Unusual: keys and values come from one latent per token (MLA), the first layers are dense, all others have
/// shared experts that every token visits beside the routed ones, the router's weights are softmax scores that are not normalised over the chosen k, and
/// YaRN's temperature is squared into the softmax scale. V2 chooses experts from the best groups alone (`group_limited_greedy`), V2-Lite from all (`greedy`).
/// </summary>
[ModelType("deepseek_v2")]
public static class DeepseekV2
{
    public static CausalLm Build(ConfigFile config, IWeights weights, DType type) => Build(config, weights, type, Router);

    /// <summary>The decoder that V3 and Kimi-K2 have as well, with the router that a reader of the config says.</summary>
    internal static CausalLm Build(ConfigFile config, IWeights weights, DType type, Func<ConfigFile, RouterSettings> router)
    {
        var c = Config.Read(config, router);
        var rotary = new RotaryTable(c.Heads.Rope, c.Theta, c.Yarn);
        return c.Shape.Build(config.ModelType, weights, type, (_, path) => new MlaAttention(weights, path + ".self_attn", type, c.Attention, rotary),
            (layer, path) => c.IsMoe(layer) ? new MoeMlp(weights, path + ".mlp", type, c.Moe)
                : new SwiGluMlp(weights, path + ".mlp", type, c.Shape.Width, c.DenseInner));
    }

    private static RouterSettings Router(ConfigFile f)
    {
        f.Refuse("scoring_func", f.Text("scoring_func", "softmax") != "softmax", "only softmax scores are known for this model");
        var method = f.Text("topk_method", "greedy");
        f.Refuse("topk_method", method is not ("greedy" or "group_limited_greedy"), "only greedy and group_limited_greedy are known for this model");
        var (groups, kept) = method == "greedy" ? (1, 1) : (f.Int("n_group"), f.Int("topk_group"));
        return new RouterSettings(f.Int("num_experts_per_tok"), f.Flag("norm_topk_prob"), (float)f.Number("routed_scaling_factor", 1), Groups: groups,
            KeptGroups: kept);
    }

    private sealed record Config(Decoder Shape, int? QueryRank, int KvRank, MlaShape Heads, double Theta, YarnSettings? Yarn, int FirstDense, int Frequency,
        int DenseInner, MoeSettings Moe)
    {
        /// <summary>1/√(n+r), times YaRN's squared temperature.</summary>
        public float SoftmaxScale => (float)(Math.Pow(Heads.Head, -0.5) * (Yarn is { MscaleAllDim: > 0 } yarn ? Math.Pow(yarn.Magnitude(yarn.MscaleAllDim), 2)
            : 1));

        public MlaSettings Attention => new(Shape.Width, QueryRank, KvRank, Heads, SoftmaxScale, Shape.Eps);

        /// <summary>
        /// The first layers are dense, and after them those whose number moe_layer_freq does not divide (1 in every checkpoint so far: none).
        /// </summary>
        public bool IsMoe(int layer) => layer >= FirstDense && layer % Frequency == 0;

        public static Config Read(ConfigFile f, Func<ConfigFile, RouterSettings> router)
        {
            var (theta, yarn) = f.Rotary();
            var inner = f.Int("moe_intermediate_size");
            f.Refuse("attention_bias", f.Flag("attention_bias"), "biases are not supported for this model");
            f.Refuse("hidden_act", f.Text("hidden_act", "silu") != "silu", "only silu is known");
            f.Refuse("rope_interleave", !f.Flag("rope_interleave", true), "rotary pairs are neighbours in DeepSeek's checkpoints, and only those are read");
            var experts = f.CheckExperts(f.Int("n_routed_experts"), f.Int("num_hidden_layers"));
            var frequency = f.Int("moe_layer_freq", 1);
            if (f.Int("qk_rope_head_dim") % 2 != 0) throw f.Wrong("qk_rope_head_dim", "even");
            var shape = Decoder.Read(f);
            return new Config(shape, f.MaybeInt("q_lora_rank"), f.Int("kv_lora_rank"),
                new MlaShape(f.Int("num_attention_heads"), f.Int("qk_nope_head_dim"), f.Int("qk_rope_head_dim"), f.Int("v_head_dim")), theta, yarn,
                f.Int("first_k_dense_replace", 0), frequency, f.Int("intermediate_size"),
                new MoeSettings(shape.Width, experts, inner, inner * (f.MaybeInt("n_shared_experts") ?? 0), f.CheckRouter(router(f), experts)));
        }
    }
}
