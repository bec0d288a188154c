using KtNotebooks.Ops;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Models;

/// <summary>
/// DeepSeek-V3, V3.1 and R1 (arXiv 2412.19437), and Kimi-K2 (arXiv 2507.20534), which is V3 with other sizes under a `model_type` of its own. The decoder
/// is DeepSeek-V2's. Unusual: the router's scores are sigmoids, and a bias that pre-training moved for balance takes part in the choice and in no weight
/// (`noaux_tc`). V3's checkpoints hold one layer more than num_hidden_layers, which predicts a second token (num_nextn_predict_layers, MTP): it is not part
/// of the model here.
/// </summary>
[ModelType("deepseek_v3", "kimi_k2")]
public static class DeepseekV3
{
    public static CausalLm Build(ConfigFile config, IWeights weights, DType type) => DeepseekV2.Build(config, weights, type, Router);

    /// <summary>Configs that transformers 5 has written leave scoring_func and topk_method out; the originals say sigmoid and noaux_tc.</summary>
    private static RouterSettings Router(ConfigFile f)
    {
        f.Refuse("scoring_func", f.Text("scoring_func", "sigmoid") != "sigmoid", "only sigmoid scores are known for this model");
        f.Refuse("topk_method", f.Text("topk_method", "noaux_tc") != "noaux_tc", "only noaux_tc is known for this model");
        return new RouterSettings(f.Int("num_experts_per_tok"), f.Flag("norm_topk_prob", true), (float)f.Number("routed_scaling_factor", 1),
            Scoring: RouterScoring.Sigmoid, Groups: f.Int("n_group"), KeptGroups: f.Int("topk_group"));
    }
}
