using static KtNotebooks.Configuration.Key;

namespace KtNotebooks.Configuration.Tables;

/// <summary>Keys that neither LLaMA-Factory nor KTransformers has.</summary>
internal static class OwnTable
{
    public static Key[] Keys { get; } =
    [
        Acts("device", "auto | cpu | cuda:N", "auto", KeyUse.Model | KeyUse.Pretrain,
            "the device of all that no rule places; auto: the CPU, or cuda:0 where the rules name cards"),
        Acts("cards", "int or all", null, KeyUse.Model, "layers lie on the first so many cards in turn"),
        Acts("experts", "auto | cpu | streamed | resident | split", null, KeyUse.Model, "who computes routed experts, whatever the rules say"),
        Acts("expert_weights", "host | disk", null, KeyUse.Model,
            "where experts wait that a card streams: pinned host memory, or the checkpoint's shards, for models that are larger than it"),
        Acts("dense_weights", "auto | card | host", "auto", KeyUse.Model,
            "where the matrices of layers are that are no experts: on their card, or in pinned host memory, from where they come when their layer is at work; "
                + "auto: on the card where that leaves room for the rest"),
        Acts("gpu_memory_limit", "size", null, KeyUse.Model, "the most that is taken of a card, as 20GB"),
        Acts("lora_experts", "bool", "false", KeyUse.Train | KeyUse.Plan, "an adapter on every routed expert as well"),
        Acts("loss_reduction", "token | micro", null, KeyUse.Train,
            "token: mean over all tokens of a step; micro: mean of its micro-batches' means, as KTransformers trains; not given: micro with use_kt, else "
                + "token"),
        Acts("rank_pattern", "dict", null, KeyUse.Train | KeyUse.Plan, "other ranks for modules, as {q_proj: 16}: PEFT's patterns, of the end of a path"),
        Acts("alpha_pattern", "dict", null, KeyUse.Train | KeyUse.Plan, "other alphas for modules, likewise"),
        Acts("moe_aux_loss_form", "pooled | sequence", "pooled", KeyUse.Train,
            "pooled: over all layers and tokens, as transformers has it; sequence: each layer and sequence by itself, as DeepSeek-V2 and V3"),
        Acts("router_z_loss_coef", "float", null, KeyUse.Train, "weight of the routers' z-loss (softmax routers): keeps their logits small; 0.001 is usual"),
        Acts("lora_form", "per_expert | fused", "per_expert", KeyUse.Train,
            "how the adapter's pairs on routed experts are written: fused: PEFT's target_parameters, as transformers 5 and vLLM have them"),
        Acts("train_router", "bool", "true", KeyUse.Train | KeyUse.Plan,
            "finetuning_type: full and freeze: routers are trained too; false: they stay as they are"),
        Acts("log_routing", "bool", "false", KeyUse.Train, "how evenly experts are chosen is logged: moe/imbalance, moe/dead_experts"),
        Acts("expert_lora", "auto | card | host | disk", "auto", KeyUse.Train | KeyUse.Plan,
            "where adapters of routed experts are, with gradients and moments; disk: in offload_folder"),
        Acts("optimizer_state", "auto | card | host", "auto", KeyUse.Train | KeyUse.Plan, "where AdamW's moments of what is on a card are"),
        Acts("saved_inputs_limit", "size", null, KeyUse.Train | KeyUse.Plan,
            "inputs of layers that stay on a card between forward and backward; those beyond wait on the host"),
        Acts("kept_activations", "auto | none | all | size", "auto", KeyUse.Train | KeyUse.Plan,
            "layers keep their whole forward pass for backward, the last ones first, in so much memory of each device, instead of computing it again; given "
                + "up where the memory is needed; auto: a third of what is left"),
        Acts("identity_name", "str", null, KeyUse.Train, "takes the place of {{name}} in the rows"),
        Acts("identity_author", "str", null, KeyUse.Train, "takes the place of {{author}} in the rows"),
        Acts("tokens_per_step", "int", null, KeyUse.Plan, "kt plan: the longest window, where no training file says it"),
        Acts("model_config", "str", null, KeyUse.Pretrain, "kt pretrain: the config.json of the model to make"),
        Acts("source", "str", null, KeyUse.Pretrain, "kt pretrain: the tables of the corpus"),
        Acts("vocab_size", "int", "4096", KeyUse.Pretrain, "kt pretrain: tokens that the tokenizer learns"),
        Acts("tokenizer_rows", "int", "24000", KeyUse.Pretrain, "kt pretrain: rows of the corpus that it learns from"),
        Acts("corpus_order", "even | rounds", "even", KeyUse.Pretrain,
            "kt pretrain: even: every stretch of the corpus is like any other; rounds: each fact once, then each once more in other words, as "
                + "kt-tiny was made"),
        Acts("tokenizer_dataset", "list", null, KeyUse.Pretrain, "kt pretrain: data sets whose characters should be tokens too"),
        Acts("aux_loss_alpha", "float", "0.01", KeyUse.Pretrain, "kt pretrain: weight of the experts' balance"),
    ];
}
