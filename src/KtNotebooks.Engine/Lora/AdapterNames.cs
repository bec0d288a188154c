using System.Text.RegularExpressions;

namespace KtNotebooks.Lora;

/// <summary>
/// Names of stored pairs. PEFT writes `base_model.model.{module path}.lora_A.weight`; whoever saves a wrapped model adds or leaves out words: `module.` (DDP),
/// `_orig_mod.` (torch.compile), `_fsdp_wrapped_module.`, a second `base_model.model.` (PEFT on PEFT), the adapter's own name (`lora_A.default.weight`), or
/// everything before the path.
/// </summary>
internal static partial class AdapterNames
{
    /// <summary>What ends the name of a magnitude of DoRA.</summary>
    public const string Magnitude = ".lora_magnitude_vector";

    private const string Expected = "expected are halves of pairs under PEFT's names, base_model.model.PATH.lora_A.weight and .lora_B.weight";

    /// <summary>Words of wrappers, which stand anywhere in a path.</summary>
    private static readonly HashSet<string> Wrappers = ["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"];

    /// <summary>Words before the first layer that say nothing about which module it is.</summary>
    private static readonly HashSet<string> Leading = ["base_model", "model", "language_model"];

    /// <summary>What is stored beside pairs, by a part of its name.</summary>
    private static readonly (string Part, string What)[] Others =
    [
        ("lora_embedding_", "is a pair of the token table, which is not supported"),
        ("lora_A.bias", "is a bias of a pair (lora_bias), which is not supported"),
        ("lora_B.bias", "is a bias of a pair (lora_bias), which is not supported"),
        ("lora_monteclora_sampler", "is a sampler of MonteCLoRA, which is not supported"),
        ("trainable_tokens", "holds trained rows of the token table, which are not supported"),
        ("modules_to_save", "is a whole module that was trained beside the pairs, but modules_to_save of adapter_config.json does not name it"),
        ("lora_a", "is named as mlx-lm names halves of pairs, which it stores transposed; save the adapter in PEFT's form"),
        ("lora_b", "is named as mlx-lm names halves of pairs, which it stores transposed; save the adapter in PEFT's form"),
        ("lora_down", "is named as diffusers and kohya name halves of pairs; save the adapter in PEFT's form"),
        ("lora_up", "is named as diffusers and kohya name halves of pairs; save the adapter in PEFT's form"),
    ];

    /// <summary>PEFT's name of a stored half, whatever wrappers added to it.</summary>
    /// <param name="name">As it stands in the file.</param>
    /// <param name="file">The file, for errors.</param>
    /// <exception cref="InvalidDataException">No half of a pair; the line says what it is.</exception>
    public static string Canonical(string name, string file)
    {
        if (MagnitudeName().Match(name) is { Success: true } magnitude) return $"{AdapterTensors.Prefix}{Path(magnitude.Groups["path"].Value)}{Magnitude}";
        var match = Half().Match(name);
        if (!match.Success) throw new InvalidDataException($"{file}: tensor '{Short(name)}' {What(name)}; {Expected}");
        return $"{AdapterTensors.Prefix}{Path(match.Groups["path"].Value)}.lora_{match.Groups["half"].Value}.weight";
    }

    /// <summary>A magnitude of DoRA, by its canonical name.</summary>
    public static bool IsMagnitude(string canonical) => canonical.EndsWith(Magnitude, StringComparison.Ordinal);

    /// <summary>The module of a canonical name.</summary>
    public static string ModuleOf(string canonical) =>
        canonical[AdapterTensors.Prefix.Length..^(IsMagnitude(canonical) ? Magnitude.Length : ".lora_A.weight".Length)];

    /// <summary>A module's path without what wrappers add.</summary>
    internal static string Path(string stored)
    {
        string[] words = [.. stored.Split('.').Where(w => !Wrappers.Contains(w))];
        var first = Array.FindIndex(words, w => !Leading.Contains(w));
        if (first >= 0 && words[first] is "layers" or "embed_tokens" or "norm") return "model." + string.Join('.', words[first..]);
        if (first >= 0 && words[first] == "lm_head") return string.Join('.', words[first..]);
        // Another architecture: only what PEFT puts in front goes.
        var at = 0;
        while (words.Length - at > 2 && words[at] == "base_model" && words[at + 1] == "model") at += 2;
        return string.Join('.', words[at..]);
    }

    private static string What(string name)
    {
        foreach (var (part, what) in Others)
            if (name.Contains(part, StringComparison.Ordinal)) return what;
        return name.Contains("lora_", StringComparison.Ordinal) ? "has a name that is not known" : "is no half of a pair but a whole tensor of a " +
            "model (a trained or enlarged token table, head, bias or norm) that modules_to_save of adapter_config.json does not name";
    }

    private static string Short(string name) => name.Length <= 200 ? name : name[..199] + "…";

    [GeneratedRegex(@"\A(?<path>.+)\.lora_magnitude_vector(?:\.[^.]+)?(?:\.weight)?\z")]
    private static partial Regex MagnitudeName();

    [GeneratedRegex(@"\A(?<path>.+)\.lora_(?<half>[AB])(?:\.[^.]+)?\.weight\z")]
    private static partial Regex Half();
}
