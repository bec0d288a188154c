using KtNotebooks.Experts;
using KtNotebooks.Nn;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Models;

/// <summary>
/// GLM-4.5, 4.5-Air and 4.6 (arXiv 2508.06471). Unusual: grouped-query attention with biases on queries, keys and values, of which half of every head turns
/// (partial_rotary_factor), with normalised heads in the large models alone (use_qk_norm); DeepSeek-V3's router, shared experts and dense first layers. The
/// checkpoints hold one layer more than num_hidden_layers, which predicts a second token (num_nextn_predict_layers): it is not part of the model here.
/// </summary>
[ModelType("glm4_moe")]
public static class Glm4Moe
{
    public static CausalLm Build(ConfigFile config, IWeights weights, DType type)
    {
        var c = Config.Read(config);
        var rotary = new RotaryTable(c.Turning, c.Theta, c.Yarn);
        return c.Shape.Build(config.ModelType, weights, type, (_, path) => new GqaAttention(weights, path + ".self_attn", type, c.Attention, rotary),
            (layer, path) => layer >= c.FirstDense ? new MoeMlp(weights, path + ".mlp", type, c.Moe)
                : new SwiGluMlp(weights, path + ".mlp", type, c.Shape.Width, c.DenseInner));
    }

    /// <param name="Turning">Elements of a head that turn.</param>
    private sealed record Config(Decoder Shape, GqaSettings Attention, int Turning, double Theta, YarnSettings? Yarn, int FirstDense, int DenseInner,
        MoeSettings Moe)
    {
        public static Config Read(ConfigFile f)
        {
            var (theta, yarn) = f.Rotary();
            var shape = Decoder.Read(f);
            f.Refuse("hidden_act", f.Text("hidden_act", "silu") != "silu", "only silu is known");
            var heads = f.GqaHeads(shape.Width);
            var turning = (int)(heads.Head * f.PartialRotary(0.5));
            if (turning < 2 || turning % 2 != 0) throw f.Wrong("partial_rotary_factor", $"a share that makes an even part of head_dim, {heads.Head}");
            var experts = f.CheckExperts(f.Int("n_routed_experts"), shape.Layers);
            var inner = f.Int("moe_intermediate_size");
            var router = new RouterSettings(f.Int("num_experts_per_tok"), f.Flag("norm_topk_prob", true), (float)f.Number("routed_scaling_factor", 1),
                Scoring: RouterScoring.Sigmoid, Groups: f.Int("n_group", 1), KeptGroups: f.Int("topk_group", 1));
            return new Config(shape, new GqaSettings(shape.Width, heads, shape.Eps) { Biases = f.Flag("attention_bias"), Norms = f.Flag("use_qk_norm") },
                turning, theta, yarn, f.Int("first_k_dense_replace", 1), f.Int("intermediate_size"),
                new MoeSettings(shape.Width, experts, inner, inner * (f.MaybeInt("n_shared_experts") ?? 0), f.CheckRouter(router, experts)));
        }
    }
}
