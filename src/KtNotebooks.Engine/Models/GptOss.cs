using KtNotebooks.Experts;
using KtNotebooks.Nn;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Models;

/// <summary>
/// gpt-oss-20b and 120b (arXiv 2508.10925). Unusual: biases everywhere; a learned logit a head in attention's softmax, whose value is zero (sinks); every
/// other layer sees a window of 128 tokens (layer_types); weights are the softmax over the chosen experts alone, which is the normalised softmax over all;
/// experts have a clamped SwiGLU with u + 1, gate and up interleaved in one tensor for all experts, and come in MXFP4.
/// </summary>
[ModelType("gpt_oss")]
public static class GptOss
{
    private const string Full = "full_attention", Sliding = "sliding_attention";

    public static CausalLm Build(ConfigFile config, IWeights weights, DType type)
    {
        var c = Config.Read(config);
        var rotary = new RotaryTable(c.Attention.Heads.Head, c.Theta, c.Yarn);
        return c.Shape.Build(config.ModelType, weights, type, (layer, path) => new GqaAttention(weights, path + ".self_attn", type,
            c.Attention with { Window = c.Kinds[layer] == Sliding ? c.Window : 0 }, rotary),
            (_, path) => new MoeMlp(weights, path + ".mlp", type, c.Moe));
    }

    private sealed record Config(Decoder Shape, GqaSettings Attention, IReadOnlyList<string> Kinds, int Window, double Theta, YarnSettings? Yarn,
        MoeSettings Moe)
    {
        public static Config Read(ConfigFile f)
        {
            var (theta, yarn) = f.Rotary();
            var shape = Decoder.Read(f);
            f.Refuse("hidden_act", f.Text("hidden_act", "silu") != "silu", "only silu is known");
            f.Refuse("attention_bias", !f.Flag("attention_bias", true), "this model's attention has biases");
            var experts = f.CheckExperts(f.MaybeInt("num_local_experts") ?? f.Int("num_experts"), shape.Layers);
            var kinds = f.Texts("layer_types");
            if (kinds.Count == 0) kinds = [.. Enumerable.Range(0, shape.Layers).Select(layer => layer % 2 == 0 ? Sliding : Full)];
            if (kinds.Count < shape.Layers || kinds.Any(k => k is not (Full or Sliding)))
                throw f.Wrong("layer_types", $"a list of {Full} and {Sliding}, one for each of the {shape.Layers} layers");
            var router = new RouterSettings(f.Int("num_experts_per_tok"), Normalise: true, 1);
            return new Config(shape,
                new GqaSettings(shape.Width, f.GqaHeads(shape.Width), shape.Eps) { Norms = false, Biases = true, OutputBias = true, Sinks = true }, kinds,
                f.Int("sliding_window", 128), theta, yarn,
                new MoeSettings(shape.Width, experts, f.Int("intermediate_size"), 0, f.CheckRouter(router, experts))
                {
                    Names = ExpertNames.Interleaved,
                    RouterName = "router",
                    RouterBias = true,
                    Clamp = (float)f.Number("swiglu_limit", 7),
                });
        }
    }
}
