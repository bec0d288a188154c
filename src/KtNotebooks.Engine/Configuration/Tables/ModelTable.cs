using static KtNotebooks.Configuration.Key;

namespace KtNotebooks.Configuration.Tables;

/// <summary>LLaMA-Factory's model arguments: which model, how it is loaded, quantised and served.</summary>
internal static class ModelTable
{
    private const string Media = "text alone is read here: models, templates and rows with pictures, films or sound are refused";
    private const string OtherServer = "this engine runs the model itself; `infer_backend: huggingface` or `ktransformers`";
    private const string NewTokens = "the vocabulary stays as the checkpoint has it; add tokens with the tool that made the checkpoint, and give that folder";
    private const string Fp8Training =
        "give an FP8 checkpoint as model_name_or_path, or write `format: fp8` for experts in a rules file: weights are read as stored, products are BF16";

    public static Key[] Keys { get; } =
    [
        Acts("model_name_or_path", "str", null, KeyUse.Model | KeyUse.Export,
            "the base model: a folder, or org/name in the cache of Hugging Face or ModelScope on this machine (nothing is downloaded)"),
        Acts("adapter_name_or_path", "list", null, KeyUse.Train | KeyUse.Chat | KeyUse.Predict | KeyUse.Export,
            "adapters: folders or .gguf files; kt train goes on with one, kt chat takes several by name, kt export merges all"),
        Refused("adapter_folder", "str", null, "give the whole path as adapter_name_or_path"),
        Acts("cache_dir", "str", null, KeyUse.Model | KeyUse.Export, "the cache that org/name is looked up in, in place of HF_HUB_CACHE or HF_HOME"),
        Acts("model_revision", "str", "main", KeyUse.Model | KeyUse.Export, "the branch, tag or commit of org/name in the cache"),
        Acts("infer_dtype", "auto | bfloat16 | float32", "auto", KeyUse.Train | KeyUse.Chat | KeyUse.Predict,
            "type of weights and activations; auto: bfloat16"),
        Acts("infer_backend", "huggingface | ktransformers", "huggingface", KeyUse.Train | KeyUse.Chat | KeyUse.Predict,
            "either name means this engine")
            .But(("vllm sglang", "this engine runs the model; write huggingface or leave it out, and `kt api` serves any number of clients at once")),
        NoEffect("trust_remote_code", "bool", "false", "no code of a model's folder is run; the models are built in"),
        NoEffect("use_fast_tokenizer", "bool", "true", "there is one tokenizer, and it is fast"),
        NoEffect("low_cpu_mem_usage", "bool", "true", "weights are mapped, so host memory never holds two copies"),
        Acts("offload_folder", "str", "offload", KeyUse.Train | KeyUse.Plan,
            "with expert_lora: disk: the folder in which they wait, on a fast disk; weights stay in the checkpoint's own files"),
        NoEffect("flash_attn", "str", "auto", "there is one attention kernel a device, and it never holds the matrix of scores"),
        NoEffect("use_kv_cache", "bool", "true", "generation always keeps keys and values"),
        NoEffect("use_cache", "bool", "true", "generation always keeps keys and values"),
        NoEffect("use_unsloth_gc", "bool", "false", TrainingTable.Recomputed),
        Acts("disable_gradient_checkpointing", "bool", null, KeyUse.Train | KeyUse.Plan, "true: kept_activations: all; false: none"),
        NoEffect("use_reentrant_gc", "bool", "true", TrainingTable.Recomputed),
        NoEffect("enable_liger_kernel", "bool", "false", "the fused kernels of this engine are always on"),
        NoEffect("use_v1_kernels", "bool", "false", "the fused kernels of this engine are always on"),
        NoEffect("upcast_layernorm", "bool", "false", "norms sum in F32 at least, whatever their weights' type"),
        NoEffect("upcast_lmhead_output", "bool", "false", "the loss is computed in F32 from the logits"),
        NoEffect("print_param_status", "bool", "false", "`kt plan` shows where every module goes and what is trained"),
        NoEffect("hf_hub_token", "str", null, "nothing is downloaded"),
        NoEffect("ms_hub_token", "str", null, "nothing is downloaded"),
        NoEffect("om_hub_token", "str", null, "nothing is downloaded"),
        Refused("resize_vocab", "bool", "false", NewTokens),
        Refused("add_tokens", "list", null, NewTokens),
        Refused("add_special_tokens", "list", null, NewTokens),
        Refused("new_special_tokens", "list", null, NewTokens),
        Refused("new_special_tokens_config", "str", null, NewTokens),
        NoEffect("init_special_tokens", "str", "noise_init", "goes with new_special_tokens_config"),
        Refused("split_special_tokens", "bool", "false", "special tokens in a text are read as the tokens that they are, as Hugging Face's fast tokenizers do"),
        Refused("rope_scaling", "str", null, "write rope_scaling into config.json of the model's folder, where it belongs to the model"),
        Refused("shift_attn", "bool", "false", "attention is exact at every length; leave it out"),
        Refused("mixture_of_depths", "str", null, "such models are not known here; leave it out"),
        NoEffect("use_unsloth", "bool", "false", "this engine takes its place"),
        Acts("moe_aux_loss_coef", "float", null, KeyUse.Train,
            "weight of the routers' balance loss (softmax routers), whose gradient reaches what lies below them; 0.001 is usual"),
        Refused("train_from_scratch", "bool", "false", "`kt pretrain` trains a small model from nothing"),
        Refused("quantization_bit", "int", null,
            "give a checkpoint that is stored in FP8, INT8 or INT4, or write the format of the experts in a rules file (`format: int4`): both train"),
        NoEffect("quantization_method", "str", "bnb", "goes with quantization_bit"),
        NoEffect("quantization_type", "str", "nf4", "goes with quantization_bit"),
        NoEffect("double_quantization", "bool", "true", "goes with quantization_bit"),
        NoEffect("quantization_device_map", "str", null, "goes with quantization_bit"),
        Refused("fp8", "bool", "false", Fp8Training),
        NoEffect("fp8_backend", "str", "auto", "goes with fp8"),
        NoEffect("fp8_enable_fsdp_float8_all_gather", "bool", "false", "goes with fp8"),
        NoEffect("image_max_pixels", "int", "589824", Media),
        NoEffect("image_min_pixels", "int", "1024", Media),
        NoEffect("image_do_pan_and_scan", "bool", "false", Media),
        NoEffect("crop_to_patches", "bool", "false", Media),
        NoEffect("video_max_pixels", "int", "65536", Media),
        NoEffect("video_min_pixels", "int", "256", Media),
        NoEffect("video_fps", "float", "2.0", Media),
        NoEffect("video_maxlen", "int", "128", Media),
        NoEffect("use_audio_in_video", "bool", "false", Media),
        NoEffect("audio_sampling_rate", "int", "16000", Media),
        NoEffect("vllm_maxlen", "int", "4096", OtherServer),
        NoEffect("vllm_gpu_util", "float", "0.7", OtherServer),
        NoEffect("vllm_enforce_eager", "bool", "false", OtherServer),
        NoEffect("vllm_max_lora_rank", "int", "32", OtherServer),
        NoEffect("vllm_config", "dict", null, OtherServer),
        NoEffect("sglang_maxlen", "int", "4096", OtherServer),
        NoEffect("sglang_mem_fraction", "float", "0.7", OtherServer),
        NoEffect("sglang_tp_size", "int", "-1", OtherServer),
        NoEffect("sglang_config", "dict", null, OtherServer),
        NoEffect("sglang_lora_backend", "str", "triton", OtherServer),
    ];
}
