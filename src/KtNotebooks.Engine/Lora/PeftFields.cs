using System.Text.Json;

using KtNotebooks.Files;

namespace KtNotebooks.Lora;

/// <summary>What a field of adapter_config.json does here.</summary>
public enum PeftEffect
{
    /// <summary>As in PEFT.</summary>
    Acts,

    /// <summary>Nothing, because it changes nothing of a stored adapter in PEFT either.</summary>
    None,

    /// <summary>An adapter that sets it means something else than its pairs alone, so it is not taken.</summary>
    Refused,
}

/// <summary>One field of adapter_config.json.</summary>
/// <param name="Name">As PEFT writes it.</param>
/// <param name="Effect">What it does here.</param>
/// <param name="Why">What it stands for, and so why; of a refused field also what to do.</param>
public sealed record PeftField(string Name, PeftEffect Effect, string Why);

/// <summary>Every field of LoraConfig in PEFT 0.21, those of older versions, and those that ms-swift adds.</summary>
public static class PeftFields
{
    private const string Merge = "merge it into the base with PEFT (merge_and_unload) and load the result as a model";

    public static IReadOnlyList<PeftField> All { get; } =
    [
        new("peft_type", PeftEffect.Acts, "only LORA is taken"),
        new("r", PeftEffect.Acts, "the rank of every pair that rank_pattern does not name"),
        new("lora_alpha", PeftEffect.Acts, "pairs are scaled by lora_alpha / r; 0 scales by 0"),
        new("use_rslora", PeftEffect.Acts, "pairs are scaled by lora_alpha / √r"),
        new("use_dora", PeftEffect.Acts, "the rows of the sum of base and pair have trained lengths (DoRA), on dense layers"),
        new("modules_to_save", PeftEffect.Acts, "whole modules that were trained beside the pairs take the place of the base's"),
        new("rank_pattern", PeftEffect.Acts, "other ranks by regular expressions of module names"),
        new("alpha_pattern", PeftEffect.Acts, "other alphas by regular expressions of module names"),
        new("lora_dropout", PeftEffect.Acts, "on the input of A, while the adapter trains on"),
        new("target_parameters", PeftEffect.Acts, "pairs on gate_up_proj and down_proj of fused experts become pairs of each expert"),
        new("target_modules", PeftEffect.Acts, "modules with pairs; a stored pair of another module is refused, for PEFT leaves it out"),
        new("exclude_modules", PeftEffect.Acts, "modules without pairs, in the same way"),
        new("layers_to_transform", PeftEffect.Acts, "layers with pairs, in the same way"),
        new("layers_pattern", PeftEffect.Acts, "the word before the number of a layer, for layers_to_transform"),
        new("init_lora_weights", PeftEffect.Acts, "true, false, gaussian, eva and orthogonal set first values, which training has replaced; what " +
            "changes the base is refused"),
        new("base_model_name_or_path", PeftEffect.Acts, "is written again when the adapter is saved in another form"),

        new("task_type", PeftEffect.None, "names a Python class; the tensors say what is adapted"),
        new("auto_mapping", PeftEffect.None, "names a Python class"),
        new("revision", PeftEffect.None, "of the base on the hub; a base is a folder here"),
        new("peft_version", PeftEffect.None, "says who wrote the file"),
        new("inference_mode", PeftEffect.None, "the command decides whether the adapter trains on"),
        new("runtime_config", PeftEffect.None, "where PEFT computes, not what"),
        new("fan_in_fan_out", PeftEffect.None, "PEFT sets it to false for linear layers, and all layers with pairs are linear here"),
        new("megatron_config", PeftEffect.None, "how Megatron splits layers over cards; their product is the same"),
        new("megatron_core", PeftEffect.None, "names a Python module"),
        new("eva_config", PeftEffect.None, "how init_lora_weights eva found the first values of A"),
        new("corda_config", PeftEffect.None, "read with init_lora_weights corda only, which is refused"),
        new("loftq_config", PeftEffect.None, "read with init_lora_weights loftq only, which is refused"),
        new("lora_ga_config", PeftEffect.None, "read with init_lora_weights lora_ga only, which is refused"),
        new("qalora_group_size", PeftEffect.None, "read with use_qalora only, which is refused"),
        new("velora_config", PeftEffect.None, "what the backward pass keeps of activations; the forward pass is that of plain pairs"),
        new("ensure_weight_tying", PeftEffect.Acts, "of modules_to_save the token table or a head on it stands for both"),
        new("merge_weights", PeftEffect.None, "of PEFT 0.2: when to merge, not what"),
        new("lora_dtype", PeftEffect.None, "of ms-swift: the type that pairs trained in; the file says how they are stored"),
        new("lorap_lr_ratio", PeftEffect.None, "of ms-swift: a learning rate"),
        new("lorap_emb_lr", PeftEffect.None, "of ms-swift: a learning rate"),

        new("use_qalora", PeftEffect.Refused, "QALoRA averages groups of the input before A; " + Merge),
        new("use_bdlora", PeftEffect.Refused, "the factors are block-diagonal; " + Merge),
        new("lora_bias", PeftEffect.Refused, "a bias is added behind B; " + Merge),
        new("bias", PeftEffect.Refused, "biases of the base were trained as well; " + Merge),
        new("trainable_token_indices", PeftEffect.Refused, "rows of the token table were trained as well; " + Merge),
        new("layer_replication", PeftEffect.Refused, "the base is built anew of repeated layers; " + Merge),
        new("alora_invocation_tokens", PeftEffect.Refused, "the adapter acts only from these tokens on (aLoRA), and cannot be merged either; use it with PEFT"),
        new("arrow_config", PeftEffect.Refused, "a router chooses among several adapters for every token (Arrow); use it with PEFT"),
        new("monteclora_config", PeftEffect.Refused, "training draws around A by a sampler of its own (MonteCLoRA); " + Merge),
        new("kasa_config", PeftEffect.Refused, "a part of the base is cut off and the pair has trained singular values (KaSA); " + Merge),
        new("enable_lora", PeftEffect.Refused, "of PEFT 0.2: pairs on parts of a fused projection; " + Merge),
    ];

    private static readonly Dictionary<string, PeftField> ByName = All.ToDictionary(f => f.Name, StringComparer.Ordinal);

    /// <summary>Refuses what would change the meaning. Returns a line for each field that is set, unknown and passed over.</summary>
    /// <param name="config">adapter_config.json.</param>
    /// <param name="path">Its path, for errors.</param>
    /// <exception cref="InvalidDataException">A refused field is set, or a switch that nobody here knows.</exception>
    public static IReadOnlyList<string> Check(JsonElement config, string path)
    {
        List<string> notes = [];
        foreach (var field in config.EnumerateObject())
        {
            var value = field.Value;
            if (!IsSet(value) || (field.Name == "bias" && value.ValueKind == JsonValueKind.String && value.ValueEquals("none"))) continue;
            if (!ByName.TryGetValue(field.Name, out var known))
            {
                // PEFT's new variants are switched on by true, a block or a list; new numbers and texts come with defaults.
                if (value.ValueKind is not (JsonValueKind.Number or JsonValueKind.String))
                    throw new InvalidDataException($"{path}: '{Short(field.Name)}' is {Text(value)}, but is no field of LoraConfig in PEFT 0.21, so " +
                        "nobody here knows what it changes; if it changes nothing, remove it from the file");
                notes.Add($"{path}: '{Short(field.Name)}' is no field of LoraConfig in PEFT 0.21: no effect");
                continue;
            }
            if (known.Effect == PeftEffect.Refused)
                throw new InvalidDataException($"{path}: '{known.Name}' is {Text(value)}, which is not supported: {known.Why}");
        }
        return notes;
    }

    /// <summary>A value as an error shows it.</summary>
    internal static string Text(JsonElement value) =>
        value.ValueKind is JsonValueKind.Object or JsonValueKind.Array && value.GetRawText().Length > 80 ? JsonSource.Named(value) : Short(value.GetRawText());

    private static string Short(string text) => text.Length <= 80 ? text : text[..79] + "…";

    private static bool IsSet(JsonElement value) => value.ValueKind switch
    {
        JsonValueKind.Null or JsonValueKind.False => false,
        JsonValueKind.Array => value.GetArrayLength() > 0,
        JsonValueKind.Object => value.EnumerateObject().Any(),
        JsonValueKind.String => !value.ValueEquals(""),
        _ => true,
    };
}
