using KtNotebooks.Experts;
using KtNotebooks.Nn;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Models;

/// <summary>
/// DeepSeek-V2 and V2-Lite (arXiv 2405.04434). Unusual: keys and values come from one latent per token (MLA), the first layers are dense, all others have shared experts that every token visits
/// beside the routed ones, the router's weights are softmax scores that are not normalised over the chosen k, and YaRN's temperature is squared into the softmax scale.
/// </summary>
[ModelType("deepseek_v2")]
public static class DeepseekV2
{
    public static CausalLm Build(ConfigFile config, IWeights weights, DType type)
    {
        var c = Config.Read(config);
        var rotary = new RotaryTable(c.Heads.Rope, c.Theta, c.Yarn);
        var stages = new List<Stage>();
        for (var layer = 0; layer < c.Layers; layer++)
        {
            var path = $"model.layers.{layer}";
            stages.Add(new AttentionStage(weights, path, type, c, rotary));
            stages.Add(layer < c.FirstDense ? new DenseStage(weights, path, type, c) : new MoeStage(weights, path, type, c));
        }
        var embedding = new Embedding(weights, "model.embed_tokens", type, c.Vocabulary, c.Width);
        var norm = new Nn.RmsNorm(weights, "model.norm", c.Width, c.Eps);
        var head = new Nn.Linear(weights, "lm_head", type, c.Vocabulary, c.Width);
        return new CausalLm(new ModelInfo("deepseek_v2", c.Vocabulary, c.Width, c.Layers, c.MaxPositions), type, embedding, stages, norm, head);
    }

    private sealed record Config(int Vocabulary, int Width, int Layers, int MaxPositions, float Eps, int? QueryRank, int KvRank, MlaShape Heads, double Theta, YarnSettings? Yarn,
        int FirstDense, int DenseInner, int Experts, int ExpertInner, int SharedInner, RouterSettings Router)
    {
        /// <summary>1/√(n+r), times YaRN's squared temperature.</summary>
        public float SoftmaxScale => (float)(Math.Pow(Heads.Head, -0.5) * (Yarn is { MscaleAllDim: > 0 } yarn ? Math.Pow(yarn.Magnitude(yarn.MscaleAllDim), 2) : 1));

        public MlaSettings Attention => new(Width, QueryRank, KvRank, Heads, SoftmaxScale, Eps);

        public static Config Read(ConfigFile f)
        {
            var (theta, yarn) = f.Rotary();
            var inner = f.Int("moe_intermediate_size");
            f.Refuse("tie_word_embeddings", f.Flag("tie_word_embeddings"), "tied embeddings are not supported for this model");
            f.Refuse("attention_bias", f.Flag("attention_bias"), "biases are not supported for this model");
            f.Refuse("hidden_act", f.Text("hidden_act", "silu") != "silu", "only silu is known");
            f.Refuse("topk_method", f.Text("topk_method", "greedy") != "greedy", "only greedy routing is supported so far");
            f.Refuse("scoring_func", f.Text("scoring_func", "softmax") != "softmax", "only softmax scores are known for this model");
            f.Refuse("moe_layer_freq", f.Int("moe_layer_freq", 1) != 1, "only 1 is supported");
            return new Config(f.Int("vocab_size"), f.Int("hidden_size"), f.Int("num_hidden_layers"), f.Int("max_position_embeddings"), (float)f.Number("rms_norm_eps", 1e-6), f.MaybeInt("q_lora_rank"), f.Int("kv_lora_rank"),
                new MlaShape(f.Int("num_attention_heads"), f.Int("qk_nope_head_dim"), f.Int("qk_rope_head_dim"), f.Int("v_head_dim")), theta, yarn,
                f.Int("first_k_dense_replace", 0), f.Int("intermediate_size"), f.Int("n_routed_experts"), inner, inner * (f.MaybeInt("n_shared_experts") ?? 0),
                new RouterSettings(f.Int("num_experts_per_tok"), f.Flag("norm_topk_prob"), (float)f.Number("routed_scaling_factor", 1)));
        }
    }

    private sealed class AttentionStage(IWeights weights, string layer, DType type, Config c, RotaryTable rotary) : Stage(layer)
    {
        private readonly Nn.RmsNorm _norm = new(weights, layer + ".input_layernorm", c.Width, c.Eps);
        private readonly MlaAttention _attention = new(weights, layer + ".self_attn", type, c.Attention, rotary);

        public override bool NeedsWholeSequences => true;

        public override IEnumerable<Module> Children => [_norm, _attention];

        public override Tensor Forward(Tensor x, Pass pass) => Add.Apply(x, _attention.Forward(_norm.Forward(x), pass));
    }

    private sealed class DenseStage(IWeights weights, string layer, DType type, Config c) : Stage(layer)
    {
        private readonly Nn.RmsNorm _norm = new(weights, layer + ".post_attention_layernorm", c.Width, c.Eps);
        private readonly SwiGluMlp _mlp = new(weights, layer + ".mlp", type, c.Width, c.DenseInner);

        public override IEnumerable<Module> Children => [_norm, _mlp];

        public override Tensor Forward(Tensor x, Pass pass) => Add.Apply(x, _mlp.Forward(_norm.Forward(x), pass));
    }

    private sealed class MoeStage(IWeights weights, string layer, DType type, Config c) : Stage(layer)
    {
        private readonly Nn.RmsNorm _norm = new(weights, layer + ".post_attention_layernorm", c.Width, c.Eps);
        private readonly MoeMlp _mlp = new(weights, layer + ".mlp", type, c.Width, c.Experts, c.ExpertInner, c.SharedInner, c.Router);

        public override IEnumerable<Module> Children => [_norm, _mlp];

        public override Tensor Forward(Tensor x, Pass pass) => Add.Apply(x, _mlp.Forward(_norm.Forward(x), pass));
    }
}
