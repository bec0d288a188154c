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
        return c.Shape.Build(config.ModelType, weights, type, (_, path) => new GqaAttention(weights, path + ".self_attn", type, c.Attention, rotary),
            (layer, path) => c.IsMoe(layer) ? new MoeMlp(weights, path + ".mlp", type, c.Moe)
                : new SwiGluMlp(weights, path + ".mlp", type, c.Shape.Width, c.DenseInner));
    }

    private sealed record Config(Decoder Shape, GqaSettings Attention, double Theta, YarnSettings? Yarn, int SparseStep, IReadOnlyList<int> DenseLayers,
        int DenseInner, MoeSettings Moe)
    {
        public bool IsMoe(int layer) => Moe.Experts > 0 && (layer + 1) % SparseStep == 0 && !DenseLayers.Contains(layer);

        public static Config Read(ConfigFile f)
        {
            var (theta, yarn) = f.Rotary();
            var decoder = Decoder.Read(f);
            var width = decoder.Width;
            f.Refuse("attention_bias", f.Flag("attention_bias"), "biases are not supported for this model");
            f.Refuse("hidden_act", f.Text("hidden_act", "silu") != "silu", "only silu is known");
            f.Refuse("use_sliding_window", f.Flag("use_sliding_window"), "sliding windows are not supported for this model");
            var shape = f.GqaHeads(width);
            var experts = f.MaybeInt("num_experts") ?? f.Int("num_local_experts"); // the original's name, and what transformers 5 writes
            f.CheckExperts(experts, f.Int("num_hidden_layers"));
            var step = f.Int("decoder_sparse_step", 1);
            var router = new RouterSettings(f.Int("num_experts_per_tok"), f.Flag("norm_topk_prob"), 1);
            return new Config(decoder, new GqaSettings(width, shape, decoder.Eps), theta, yarn, step, f.Ints("mlp_only_layers"), f.Int("intermediate_size"),
                new MoeSettings(width, experts, f.Int("moe_intermediate_size"), 0, experts == 0 ? router : f.CheckRouter(router, experts)));
        }
    }
}
