using KtNotebooks.Formats;

namespace KtNotebooks.Placement;

/// <summary>
/// The words of KTransformers' rules: import paths of classes, operators, backends, keyword arguments. Whatever stands in a published rules file of a model
/// that we have is here; what is not here is refused by name.
/// </summary>
internal static class KtNames
{
    private const string Operators = "ktransformers.operators.";

    /// <summary>Our own words for match.class. Above the tables that are filled from it: initialisers run in this order.</summary>
    public static readonly Dictionary<string, ModuleClass> Plain = new()
    {
        ["embedding"] = ModuleClass.Embedding,
        ["linear"] = ModuleClass.Linear,
        ["router"] = ModuleClass.Router,
        ["norm"] = ModuleClass.Norm,
        ["attention"] = ModuleClass.Attention,
        ["mlp"] = ModuleClass.Mlp,
        ["moe"] = ModuleClass.Moe,
        ["experts"] = ModuleClass.Experts,
        ["layer"] = ModuleClass.Layer,
    };

    /// <summary>replace.class → the kind of module that it stands for; null: any (`default` keeps the class and sets devices).</summary>
    public static readonly Dictionary<string, ModuleClass?> Replacements = Replace();

    /// <summary>match.class → what it matches.</summary>
    public static readonly Dictionary<string, ClassMatch> Classes = Match();

    /// <summary>
    /// Operators of linear layers: they choose Python kernels. Here a linear is computed in the model's own type on its device, whichever is named.
    /// </summary>
    public static readonly string[] LinearOps = ["KLinearTorch", "KLinearMarlin", "KLinearCPUInfer", "KLinearFP8", "KLinearQ8", "VLinearMarlin",
        "QuantizedLinearMarlin"];

    /// <summary>Operators of experts → does the CPU compute?</summary>
    public static readonly Dictionary<string, bool> ExpertOps = new()
    {
        ["KExpertsCPU"] = true,
        ["KSFTExpertsCPU"] = true,
        ["KSFTRouteExpertsCPU"] = true,
        ["MLPCPUExperts"] = true,
        ["KExpertsTorch"] = false,
        ["KExpertsMarlin"] = false,
        ["MLPCUDAExperts"] = false,
    };

    /// <summary>backend of CPU experts → format; null: as stored. The kernel that goes with it is chosen by what the CPU has: AMX is not required.</summary>
    public static readonly Dictionary<string, StorageFormat?> Backends = new()
    {
        ["llamafile"] = null,
        ["AMXBF16"] = StorageFormat.BF16,
        ["AMXInt8"] = StorageFormat.Int8,
        ["AMXInt4"] = StorageFormat.Int4,
        ["AMXINT8"] = StorageFormat.Int8,
        ["AMXINT4"] = StorageFormat.Int4,
    };

    /// <summary>Keyword arguments of a replacement for a kind of module.</summary>
    public static string[] Arguments(ModuleClass? kind) => kind switch
    {
        ModuleClass.Linear => ["generate_device", "prefill_device", "generate_op", "prefill_op", "out_device"],
        ModuleClass.Experts => ["generate_device", "prefill_device", "generate_op", "prefill_op", "out_device", "backend"],
        ModuleClass.Model => ["generate_device", "prefill_device", "per_layer_prefill_intput_threshold", "transfer_map"],
        ModuleClass.Attention => ["generate_device", "prefill_device", "absorb_for_prefill"],
        _ => ["generate_device", "prefill_device"],
    };

    private static Dictionary<string, ModuleClass?> Replace()
    {
        var all = new Dictionary<string, ModuleClass?> { ["default"] = null };
        void Add(string module, ModuleClass kind, params string[] names)
        {
            foreach (var name in names) all.Add($"{Operators}{module}.{name}", kind);
        }
        Add("RoPE", ModuleClass.Rotary, "RotaryEmbedding", "RotaryEmbeddingV2", "RotaryEmbeddingV3", "RotaryEmbeddingV4", "YarnRotaryEmbedding",
            "YarnRotaryEmbeddingV3", "DynamicNTKScalingRotaryEmbedding", "KGlm4MoeRotaryEmbedding");
        Add("linear", ModuleClass.Linear, "KTransformersLinear");
        Add("experts", ModuleClass.Experts, "KTransformersExperts", "KTransformersExpertsV2", "KGlm4Experts");
        Add("experts", ModuleClass.Moe, "KDeepseekV2MoE", "KDeepseekV3MoE", "KDeepseekV3MoEV2", "KQwen2MoeSparseMoeBlock", "KQwen3MoeSparseMoeBlock",
            "KQwen3MoeSparseMoeBlockV2", "KGlm4MoeMoE");
        Add("gate", ModuleClass.Router, "KMoEGate", "KMoEGateDeepSeekV3", "KMoEGateQwen2Moe");
        Add("attention", ModuleClass.Attention, "KDeepseekV2Attention", "KDeepseekV3Attention", "KQwen3MoeAttention", "flashinfer_attn");
        Add("balance_serve_attention", ModuleClass.Attention, "flashinfer_attn", "KQwen2MoeAttention", "KQwen3MoeAttention", "KGlm4MoeAttention");
        Add("models", ModuleClass.Model, "KDeepseekV2Model", "KQwen2MoeModel", "KQwen3MoeModel");
        Add("layernorm", ModuleClass.Norm, "RMSNorm", "KQwen2MoeRMSNorm", "KQwen3MoeRMSNorm", "DeepseekV3RMSNormTorch", "KGlm4MoeRMSNorm");
        Add("mlp", ModuleClass.Mlp, "kDeepseekV3MLP", "KQwen2MoeMLP", "KGlm4MoeMLP");
        return all;
    }

    private static Dictionary<string, ClassMatch> Match()
    {
        var all = new Dictionary<string, ClassMatch>
        {
            ["torch.nn.Linear"] = new(ModuleClass.Linear) { PythonLinear = true },
            ["torch.nn.Embedding"] = new(ModuleClass.Embedding),
            ["torch.nn.ModuleList"] = new(ModuleClass.Experts),
        };
        foreach (var (word, kind) in Plain) all.Add(word, new ClassMatch(kind));
        void Add(string[] modules, string[]? types, string prefix, string block)
        {
            foreach (var module in modules)
            {
                void Put(string name, ModuleClass kind) =>
                    all[module + "." + name] = new ClassMatch(kind, kind is ModuleClass.Norm or ModuleClass.Rotary ? null : types);
                foreach (var rotary in (string[])["RotaryEmbedding", "YarnRotaryEmbedding"]) Put(prefix + rotary, ModuleClass.Rotary);
                Put(prefix + "RMSNorm", ModuleClass.Norm);
                Put(prefix + "MLP", ModuleClass.Mlp);
                Put(prefix + "Attention", ModuleClass.Attention);
                Put(prefix + "DecoderLayer", ModuleClass.Layer);
                Put(prefix + "Model", ModuleClass.Model);
                Put(prefix + block, ModuleClass.Moe);
                if (block == "MoE") Put(types is ["glm4_moe"] ? "Glm4MoeTopkRouter" : "MoEGate", ModuleClass.Router);
            }
        }
        // Published files match V3's classes in V2's rules here and there and the other way round; where both would fit, the model type decides.
        string[] v2 = ["deepseek_v2"], v3 = ["deepseek_v3", "kimi_k2"];
        Add(["ktransformers.models.modeling_deepseek", "transformers.models.deepseek_v2.modeling_deepseek_v2"], v2, "DeepseekV2", "MoE");
        Add(["ktransformers.models.modeling_deepseek_v3", "ktransformers.models.modeling_deepseekv3", "transformers.models.deepseek_v3.modeling_deepseek_v3"],
            v3, "DeepseekV3", "MoE");
        Add(["ktransformers.models.modeling_qwen2_moe", "transformers.models.qwen2_moe.modeling_qwen2_moe"], ["qwen2_moe"], "Qwen2Moe", "SparseMoeBlock");
        Add(["ktransformers.models.modeling_qwen3_moe", "transformers.models.qwen3_moe.modeling_qwen3_moe"], ["qwen3_moe"], "Qwen3Moe", "SparseMoeBlock");
        Add(["ktransformers.models.modeling_glm4_moe", "transformers.models.glm4_moe.modeling_glm4_moe"], ["glm4_moe"], "Glm4Moe", "MoE");
        Add(["transformers.models.gpt_oss.modeling_gpt_oss"], ["gpt_oss"], "GptOss", "MLP");
        return all;
    }
}
