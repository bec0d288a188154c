namespace KtNotebooks.Placement;

/// <summary>What becomes of an option of KTransformers' newer generation here.</summary>
public enum KtEffect
{
    /// <summary>Does what it says.</summary>
    Understood,

    /// <summary>Asks for something that does not exist here, or is spelled otherwise: an error that says what to write.</summary>
    Refused,

    /// <summary>Accepted and noted: there is nothing here that it could set.</summary>
    WithoutEffect,
}

/// <summary>One option of `kt_config` or of LLaMA-Factory's top level, and what becomes of it.</summary>
/// <param name="Says">Understood: what it sets here. Refused: what to write instead. WithoutEffect: why.</param>
public sealed record KtOption(string Name, KtEffect Effect, string Says)
{
    /// <summary>Values that ask for nothing: a refused option with one of these is accepted.</summary>
    private static readonly string[] Nothing = ["false", "0", "none"];

    /// <summary>Every option of KTransformers 0.6.1 to 0.7.2, in the order of its documentation.</summary>
    public static IReadOnlyList<KtOption> All { get; } =
    [
        new("enabled", KtEffect.Understood, "use_kt"),
        new("kt_backend", KtEffect.Understood, "format of the experts; the fastest kernel that this CPU has, AMX or not"),
        new("kt_num_threads", KtEffect.Understood, "cpu_infer"),
        new("kt_tp_enabled", KtEffect.WithoutEffect, "memory is spread over NUMA nodes by first touch"),
        new("kt_threadpool_count", KtEffect.WithoutEffect, "one thread pool serves the whole process"),
        new("kt_weight_path", KtEffect.Refused, "write the folder that `kt convert` made as model_name_or_path: experts and all else live in one checkpoint"),
        new("kt_non_expert_weight_path", KtEffect.Refused, "write the folder that `kt convert` made as model_name_or_path: experts and all else live in one checkpoint"),
        new("kt_expert_weight_format", KtEffect.Understood, "format of the experts"),
        new("kt_weight_lifecycle", KtEffect.Understood, "persistent: experts in host memory; ephemeral: mapped from the checkpoint"),
        new("kt_expert_checkpoint_path", KtEffect.Refused, "write the folder as model_name_or_path: experts and all else live in one checkpoint"),
        new("kt_num_gpu_experts", KtEffect.Refused, "write experts: split, which finds the card's share itself"),
        new("kt_skip_expert_loading", KtEffect.WithoutEffect, "experts are never loaded twice"),
        new("kt_share_backward_bb", KtEffect.WithoutEffect, "there is no transposed copy of the weights to share"),
        new("kt_share_cache_pool", KtEffect.WithoutEffect, "activations of one layer at a time are kept"),
        new("kt_force_fused_expert_lora", KtEffect.WithoutEffect, "adapters of experts are always trained stacked and saved under PEFT's names"),
        new("kt_max_cache_depth", KtEffect.WithoutEffect, "each layer keeps its input alone"),
        new("kt_model_max_length", KtEffect.WithoutEffect, "no buffer is sized by it; cutoff_len and chunk_size bound the memory"),
        new("kt_activation_policy.cpu", KtEffect.WithoutEffect, "layers are always recomputed from their saved inputs"),
        new("kt_activation_policy.gpu", KtEffect.WithoutEffect, "layers are always recomputed from their saved inputs"),
        new("kt_cpu_activation", KtEffect.WithoutEffect, "layers are always recomputed from their saved inputs"),
        new("kt_lora_rank", KtEffect.Understood, "must agree with lora_rank"),
        new("lora_rank", KtEffect.Understood, "must agree with lora_rank"),
        new("kt_lora_alpha", KtEffect.Understood, "must agree with lora_alpha"),
        new("kt_lora_dropout", KtEffect.Understood, "must agree with lora_dropout"),
        new("kt_train_mode", KtEffect.Understood, "lora alone; full and hybrid are refused"),
        new("kt_full_weight_grad", KtEffect.Refused, "leave it out: experts are trained by LoRA (lora_experts: true)"),
        new("kt_use_lora_experts", KtEffect.Refused, "write lora_experts: true, which puts LoRA on the model's own experts instead of adding small ones"),
        new("kt_lora_expert_num", KtEffect.WithoutEffect, "goes with kt_use_lora_experts"),
        new("kt_lora_expert_intermediate_size", KtEffect.WithoutEffect, "goes with kt_use_lora_experts"),
        new("kt_checkpoint_files", KtEffect.Refused, "leave it out: KTransformers sets it while it runs"),
        new("kt_sharded_metadata", KtEffect.Refused, "leave it out: KTransformers sets it while it runs"),
        new("kt_wrap_fn", KtEffect.Refused, "leave it out: KTransformers sets it while it runs"),
        new("kt_wrap_kwargs", KtEffect.Refused, "leave it out: KTransformers sets it while it runs"),
    ];

    /// <summary>Options that LLaMA-Factory takes at the top level of a training file.</summary>
    public static IReadOnlyList<string> TopLevel { get; } = ["kt_cpu_activation", "kt_weight_path", "kt_non_expert_weight_path", "kt_expert_checkpoint_path", "kt_use_lora_experts", "kt_lora_expert_num", "kt_lora_expert_intermediate_size"];

    internal static bool AsksForNothing(string value) => Nothing.Contains(value, StringComparer.OrdinalIgnoreCase);
}
