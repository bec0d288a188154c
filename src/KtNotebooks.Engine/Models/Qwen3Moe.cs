using KtNotebooks.Experts;
using KtNotebooks.Nn;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Models;

/// <summary>
/// Qwen3-MoE (arXiv 2505.09388): Qwen3-30B-A3B, Qwen3-235B-A22B. Unusual: query and key heads are normalised before they are rotated (in halves, GPT-NeoX's
/// way), a head's width is a setting of its own (H · d need not be D), no shared experts, and a layer is a mixture by its number (decoder_sparse_step)
/// unless mlp_only_layers names it.
/// </summary>
[ModelType("qwen3_moe")]
public static class Qwen3Moe
{
    public static CausalLm Build(ConfigFile config, IWeights weights, DType type)
    {
        var c = Config.Read(config);
        var rotary = new RotaryTable(c.Attention.Heads.Head, c.Theta, c.Yarn);
        var stages = new List<Stage>();
        for (var layer = 0; layer < c.Layers; layer++)
        {
            var path = $"model.layers.{layer}";
            Nn.RmsNorm Norm(string name) => new(weights, $"{path}.{name}", c.Width, c.Eps);
            var attention = new GqaAttention(weights, path + ".self_attn", type, c.Attention, rotary);
            stages.Add(new Residual(path, Norm("input_layernorm"), attention, attention.Forward, wholeSequences: true));
            var norm = Norm("post_attention_layernorm");
            if (c.IsMoe(layer))
            {
                var moe = new MoeMlp(weights, path + ".mlp", type, c.Width, c.Experts, c.ExpertInner, sharedInner: 0, c.Router);
                stages.Add(new Residual(path, norm, moe, moe.Forward));
            }
            else
            {
                var dense = new SwiGluMlp(weights, path + ".mlp", type, c.Width, c.DenseInner);
                stages.Add(new Residual(path, norm, dense, dense.Forward));
            }
        }
        var embedding = new Embedding(weights, "model.embed_tokens", type, c.Vocabulary, c.Width);
        var head = c.Tied ? Nn.Linear.Tied("lm_head", embedding) : new Nn.Linear(weights, "lm_head", type, c.Vocabulary, c.Width);
        var last = new Nn.RmsNorm(weights, "model.norm", c.Width, c.Eps);
        return new CausalLm(new ModelInfo(config.ModelType, c.Vocabulary, c.Width, c.Layers, c.MaxPositions), type, embedding, stages, last, head);
    }

    private sealed record Config(int Vocabulary, int Width, int Layers, int MaxPositions, float Eps, bool Tied, GqaSettings Attention, double Theta,
        YarnSettings? Yarn,
        int SparseStep, IReadOnlyList<int> DenseLayers, int DenseInner, int Experts, int ExpertInner, RouterSettings Router)
    {
        public bool IsMoe(int layer) => Experts > 0 && (layer + 1) % SparseStep == 0 && !DenseLayers.Contains(layer);

        public static Config Read(ConfigFile f)
        {
            var (theta, yarn) = f.Rotary();
            var (width, heads, eps) = (f.Int("hidden_size"), f.Int("num_attention_heads"), (float)f.Number("rms_norm_eps", 1e-6));
            f.Refuse("attention_bias", f.Flag("attention_bias"), "biases are not supported for this model");
            f.Refuse("hidden_act", f.Text("hidden_act", "silu") != "silu", "only silu is known");
            f.Refuse("use_sliding_window", f.Flag("use_sliding_window"), "sliding windows are not supported for this model");
            var shape = new GqaShape(heads, f.MaybeInt("num_key_value_heads") ?? heads, f.MaybeInt("head_dim") ?? (width / heads));
            if (heads % shape.Hk != 0) throw f.Wrong("num_key_value_heads", $"a divisor of num_attention_heads, {heads}");
            if (shape.Head < 2 || shape.Head % 2 != 0) throw f.Wrong("head_dim", "even and positive");
            var experts = f.MaybeInt("num_experts") ?? f.Int("num_local_experts"); // the original's name, and what transformers 5 writes
            f.CheckExperts(experts, f.Int("num_hidden_layers"));
            var step = f.Int("decoder_sparse_step", 1);
            var router = new RouterSettings(f.Int("num_experts_per_tok"), f.Flag("norm_topk_prob"), 1);
            return new Config(f.Int("vocab_size"), width, f.Int("num_hidden_layers"), f.Int("max_position_embeddings"), eps, f.Flag("tie_word_embeddings"),
                new GqaSettings(width, shape, eps), theta, yarn,
                step, f.Ints("mlp_only_layers"), f.Int("intermediate_size"), experts, f.Int("moe_intermediate_size"), experts == 0 ? router
                    : f.CheckRouter(router, experts));
        }
    }
}
