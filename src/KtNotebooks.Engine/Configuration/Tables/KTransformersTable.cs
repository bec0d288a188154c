using static KtNotebooks.Configuration.Key;

namespace KtNotebooks.Configuration.Tables;

/// <summary>
/// KTransformers' keys: the first generation's at the top level, and every option of `kt_config` of 0.6.1 to 0.7.2 in the order of its documentation.
/// </summary>
internal static class KTransformersTable
{
    /// <summary>What the newer options' names begin with.</summary>
    public const string Block = "kt_config.";

    private const string OneCheckpoint = "write the folder that `kt convert` made as model_name_or_path: experts and all else live in one checkpoint";
    private const string Chat = "there is one way of generating";
    private const string Internal = "leave it out: KTransformers sets it while it runs";
    private const string SmallExperts = "write lora_experts: true, which puts LoRA on the model's own experts instead of adding small ones";

    public static Key[] Keys { get; } =
    [
        Acts("use_kt", "bool", "false", KeyUse.Model | KeyUse.Export,
            "this engine runs either way; true makes loss_reduction micro, false given leaves kt_config and kt_optimize_rule aside"),
        Acts("kt_optimize_rule", "str", null, KeyUse.Model, "placement rules: a file, or the name of one in rules/"),
        Acts("cpu_infer", "int", null, KeyUse.Model | KeyUse.Pretrain, "threads of the CPU's kernels; not given: every processor that this process may use",
            theirs: "32"),
        Acts("chunk_size", "int", "8192", KeyUse.Train | KeyUse.Plan | KeyUse.Pretrain, "rows that a layer works on at a time"),
        Acts("mode", "normal | long_context", "normal", KeyUse.Model, "normal alone: long sequences need no mode here"),
        NoEffect("kt_mode", "str", "normal", Chat),
        NoEffect("kt_use_cuda_graph", "bool", "true", Chat),
        NoEffect("kt_force_think", "bool", "false", "enable_thinking and the template say whether the model thinks"),
        NoEffect("kt_maxlen", "int", "4096", "keys and values grow with the conversation"),
        .. Options.Where(o => TopLevel.Contains(o.Name)),
        .. Options.Select(o => o with { Name = Block + o.Name }),
    ];

    /// <summary>Options that LLaMA-Factory takes at the top level of a training file as well.</summary>
    private static string[] TopLevel =>
    [
        "kt_cpu_activation", "kt_weight_path", "kt_non_expert_weight_path", "kt_expert_checkpoint_path", "kt_use_lora_experts", "kt_lora_expert_num",
        "kt_lora_expert_intermediate_size",
    ];

    private static Key[] Options =>
    [
        Acts("enabled", "bool", "true", KeyUse.Model, "must agree with use_kt"),
        Acts("kt_backend", "str", "auto", KeyUse.Model,
            "format of the experts; the fastest kernel that this CPU has, AMX or not; _SkipLoRA at its end leaves them without adapter"),
        Acts("kt_num_threads", "int", null, KeyUse.Model, "as cpu_infer", theirs: "1"),
        NoEffect("kt_tp_enabled", "bool", "false", "memory is spread over NUMA nodes by first touch"),
        NoEffect("kt_threadpool_count", "int", "1", "one thread pool serves the whole process"),
        Refused("kt_weight_path", "str", null, OneCheckpoint),
        Refused("kt_non_expert_weight_path", "str", null, OneCheckpoint),
        Acts("kt_expert_weight_format", "bf16 | fp8 | int8 | int4 | mxfp4", "bf16", KeyUse.Model, "format of the experts"),
        Acts("kt_weight_lifecycle", "persistent | ephemeral", "persistent", KeyUse.Model,
            "persistent: experts in host memory; ephemeral: mapped from the checkpoint"),
        Refused("kt_expert_checkpoint_path", "str", null, "write the folder as model_name_or_path: experts and all else live in one checkpoint"),
        Refused("kt_num_gpu_experts", "int", "0", "write experts: split, which finds the card's share itself"),
        NoEffect("kt_skip_expert_loading", "bool", null, "experts are never loaded twice"),
        NoEffect("kt_share_backward_bb", "bool", "true", "there is no transposed copy of the weights to share"),
        NoEffect("kt_share_cache_pool", "str", "auto", "activations of one layer at a time are kept"),
        NoEffect("kt_force_fused_expert_lora", "bool", null, "adapters of experts are always trained stacked and saved under PEFT's names"),
        NoEffect("kt_max_cache_depth", "int", "2", "each layer keeps its input alone"),
        NoEffect("kt_model_max_length", "int", null, "no buffer is sized by it; cutoff_len and chunk_size bound the memory"),
        Acts("kt_activation_policy.cpu", "retain | recompute", "recompute", KeyUse.Train | KeyUse.Plan, "as kt_cpu_activation"),
        Acts("kt_activation_policy.gpu", "retain | recompute", null, KeyUse.Train | KeyUse.Plan, "retain: kept_activations: all; recompute: none"),
        Acts("kt_cpu_activation", "retain | recompute", "recompute", KeyUse.Train | KeyUse.Plan,
            "experts on the CPU keep what their backward pass needs, 4·I bytes a routed row and layer, or compute it again"),
        Acts("kt_lora_rank", "int", null, KeyUse.Model, "must agree with lora_rank"),
        Acts("lora_rank", "int", null, KeyUse.Model, "must agree with lora_rank outside the block"),
        Acts("kt_lora_alpha", "float", null, KeyUse.Model, "must agree with lora_alpha"),
        Acts("kt_lora_dropout", "float", null, KeyUse.Model, "must agree with lora_dropout"),
        Acts("kt_train_mode", "lora | full | hybrid", "lora", KeyUse.Model, "lora alone"),
        Refused("kt_full_weight_grad", "bool", "false", "leave it out: experts are trained by LoRA (lora_experts: true)"),
        Refused("kt_use_lora_experts", "bool", "false", SmallExperts),
        NoEffect("kt_lora_expert_num", "int", null, "goes with kt_use_lora_experts"),
        NoEffect("kt_lora_expert_intermediate_size", "int", null, "goes with kt_use_lora_experts"),
        Refused("kt_checkpoint_files", "list", null, Internal),
        Refused("kt_sharded_metadata", "str", null, Internal),
        Refused("kt_wrap_fn", "str", null, Internal),
        Refused("kt_wrap_kwargs", "dict", null, Internal),
    ];
}
