using System.Text.Json;

using KtNotebooks.Files;

namespace KtNotebooks.Lora;

/// <summary>
/// target_modules, exclude_modules, layers_to_transform and layers_pattern: the modules that have pairs in PEFT. A stored pair of another module is left out
/// by PEFT, so whoever meets one must say so.
/// </summary>
internal sealed class PeftTargets
{
    private readonly ModuleNames? _targets;
    private readonly ModuleNames? _excluded;
    private readonly HashSet<int>? _layers;
    private readonly IReadOnlyList<UserPattern> _layerPatterns;

    private PeftTargets(ModuleNames? targets, ModuleNames? excluded, HashSet<int>? layers, IReadOnlyList<UserPattern> layerPatterns)
    {
        (_targets, _excluded, _layers, _layerPatterns) = (targets, excluded, layers, layerPatterns);
    }

    /// <exception cref="InvalidDataException">A field of another type, or a pattern that is none.</exception>
    public static PeftTargets Read(JsonElement root, string path)
    {
        var targets = PeftConfig.Field(root, "target_modules") is { } given ? ModuleNames.Read(given, "target_modules", path) : null;
        var excluded = PeftConfig.Field(root, "exclude_modules") is { } without ? ModuleNames.Read(without, "exclude_modules", path) : null;
        if (targets is { IsPattern: true } && PeftConfig.Field(root, "layers_to_transform") is not null)
            throw new InvalidDataException($"{path}: 'layers_to_transform' needs a list of names as 'target_modules', but that is one regular " +
                "expression, which can name the layers itself");
        List<UserPattern> patterns = [];
        foreach (var word in Texts(root, "layers_pattern", path)) patterns.Add(new UserPattern($@".*\.(?:{word})", $"{path}: layers_pattern", whole: true));
        return new PeftTargets(targets, excluded, Layers(root, path), patterns);
    }

    /// <summary>The field by which PEFT gives a module no pair; null: it has one.</summary>
    public string? LeftOutBy(string module)
    {
        if (_excluded?.Has(module) == true) return "exclude_modules";
        if (_targets?.Has(module) == false) return "target_modules";
        return _layers is null || (LayerOf(module) is { } layer && _layers.Contains(layer)) ? null : "layers_to_transform";
    }

    /// <summary>
    /// PEFT's number of a module's layer: the last number in its path that has two words before it and one behind, the nearer word as layers_pattern says.
    /// </summary>
    private int? LayerOf(string module)
    {
        var words = module.Split('.');
        for (var i = words.Length - 2; i >= 2; i--)
            if (int.TryParse(words[i], System.Globalization.NumberStyles.None, null, out var layer))
            {
                var before = string.Join('.', words[..i]);
                if (_layerPatterns.Count == 0 || _layerPatterns.Any(p => p.IsMatch(before))) return layer;
            }
        return null;
    }

    private static HashSet<int>? Layers(JsonElement root, string path)
    {
        if (PeftConfig.Field(root, "layers_to_transform") is not { } value) return null;
        JsonElement[] numbers = value.ValueKind == JsonValueKind.Array ? [.. value.EnumerateArray()] : [value];
        HashSet<int> layers = [];
        foreach (var number in numbers)
            layers.Add(number.ValueKind == JsonValueKind.Number && number.TryGetInt32(out var layer) ? layer
                : throw new InvalidDataException($"{path}: 'layers_to_transform' must be a whole number or a list of them, but holds " +
                    $"{PeftFields.Text(number)}"));
        return layers.Count == 0 ? null : layers;
    }

    internal static List<string> Texts(JsonElement root, string key, string path)
    {
        if (PeftConfig.Field(root, key) is not { } value) return [];
        JsonElement[] texts = value.ValueKind == JsonValueKind.Array ? [.. value.EnumerateArray()] : [value];
        if (texts.FirstOrDefault(t => t.ValueKind != JsonValueKind.String) is { ValueKind: not JsonValueKind.Undefined } other)
            throw new InvalidDataException($"{path}: '{key}' must be a text or a list of texts, but holds {PeftFields.Text(other)}");
        return [.. texts.Select(t => t.GetString()!).Where(t => t.Length > 0)];
    }

    /// <summary>One regular expression for whole paths, or a list of paths and ends of paths after a dot.</summary>
    private sealed record ModuleNames(UserPattern? Pattern, HashSet<string> Names)
    {
        public bool IsPattern => Pattern is not null;

        /// <summary>Null: every module.</summary>
        public static ModuleNames? Read(JsonElement value, string key, string path)
        {
            if (value.ValueKind == JsonValueKind.String)
                return value.GetString() is "" or "all-linear" ? null : new ModuleNames(new UserPattern(value.GetString()!, $"{path}: {key}", whole: true), []);
            if (value.ValueKind != JsonValueKind.Array)
                throw new InvalidDataException($"{path}: '{key}' must be a text or a list of texts, but is {PeftFields.Text(value)}");
            HashSet<string> names = [];
            foreach (var name in value.EnumerateArray())
                names.Add(name.ValueKind == JsonValueKind.String ? name.GetString()! : throw new InvalidDataException($"{path}: '{key}' must be a " +
                    $"text or a list of texts, but holds {PeftFields.Text(name)}"));
            return new ModuleNames(null, names);
        }

        public bool Has(string module)
        {
            if (Pattern is not null) return Pattern.IsMatch(module);
            for (var at = -1; ; at = module.IndexOf('.', at + 1))
            {
                if (Names.Contains(module[(at + 1)..])) return true;
                if (module.IndexOf('.', at + 1) < 0) return false;
            }
        }
    }
}
