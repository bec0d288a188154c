using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Files;

namespace KtNotebooks.Lora;

/// <summary>adapter_config.json as PEFT writes it; <see cref="PeftFields"/> says what each field does here.</summary>
/// <param name="Settings">Ranks, scales and dropout.</param>
/// <param name="Targets">Which modules have pairs.</param>
/// <param name="BaseName">base_model_name_or_path.</param>
/// <param name="Notes">What is passed over.</param>
internal sealed record PeftConfig(LoraSettings Settings, PeftTargets Targets, string? BaseName, IReadOnlyList<string> Notes)
{
    public const string FileName = "adapter_config.json";

    /// <summary>ensure_weight_tying.</summary>
    public bool TiesWeights { get; private init; }

    /// <summary>target_parameters: names of parameters with pairs.</summary>
    public IReadOnlyList<string> Parameters { get; private init; } = [];

    private const long LargestFile = 16 << 20;
    private static readonly JsonSerializerOptions Indented = new()
    {
        WriteIndented = true,
        Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
    };

    /// <param name="folder">Of the adapter.</param>
    /// <param name="settings">Ranks, alphas, dropout.</param>
    /// <param name="names">PEFT's names of the tensors: they say which modules are targets.</param>
    /// <param name="baseName">base_model_name_or_path.</param>
    /// <param name="parameters">target_parameters.</param>
    /// <param name="ties">ensure_weight_tying: the head that is stored whole is the token table.</param>
    public static void Write(string folder, LoraSettings settings, IEnumerable<string> names, string? baseName, IReadOnlyList<string>? parameters = null,
        bool ties = false)
    {
        static JsonObject Block<T>(IReadOnlyDictionary<string, T>? pattern) =>
            new((pattern ?? new Dictionary<string, T>()).Select(p => KeyValuePair.Create(p.Key, (JsonNode?)JsonValue.Create(p.Value))));
        static bool IsOfParameter(string name) => name.Split('.')[^3] is "experts" or "base_layer" || !name.Contains(".lora_", StringComparison.Ordinal);
        JsonNode[] targets = [.. names.Where(n => n.EndsWith(".weight", StringComparison.Ordinal) && !IsOfParameter(n)).Select(n => n.Split('.')[^3]).Distinct()
            .Order(StringComparer.Ordinal).Select(n => (JsonNode)n)];
        var config = new JsonObject
        {
            ["alpha_pattern"] = Block(settings.AlphaPattern),
            ["base_model_name_or_path"] = baseName,
            ["bias"] = "none",
            ["fan_in_fan_out"] = false,
            ["inference_mode"] = true,
            ["init_lora_weights"] = true,
            ["lora_alpha"] = settings.EffectiveAlpha,
            ["lora_dropout"] = settings.Dropout,
            ["modules_to_save"] = settings.Additional is null ? null : new JsonArray([.. settings.Additional.Select(m => (JsonNode)m)]),
            ["peft_type"] = "LORA",
            ["r"] = settings.Rank,
            ["rank_pattern"] = Block(settings.RankPattern),
            ["target_modules"] = new JsonArray(targets),
            ["target_parameters"] = parameters is null ? null : new JsonArray([.. parameters.Select(p => (JsonNode)p)]),
            ["task_type"] = "CAUSAL_LM",
            ["use_dora"] = settings.Dora,
            ["use_rslora"] = settings.RankStabilised,
        };
        if (ties) config.Add("ensure_weight_tying", true); // older versions of PEFT do not know it
        AtomicFile.WriteText(Path.Combine(folder, FileName), config.ToJsonString(Indented) + "\n");
    }

    /// <summary>Reads and checks an adapter_config.json.</summary>
    /// <exception cref="InvalidDataException">A field that is missing, of another type, out of range, or that means something else than pairs; file and field
    /// are named.</exception>
    public static PeftConfig Read(string path)
    {
        var bytes = RegularFile.ReadAllBytes(path, "an adapter_config.json", LargestFile);
        var root = JsonSource.Parse(bytes, path);
        if (root.ValueKind != JsonValueKind.Object) throw new InvalidDataException($"{path}: must be a JSON object, but is {JsonSource.Named(root)}");
        if (Field(root, "peft_type") is { } kind && !(kind.ValueKind == JsonValueKind.String && kind.ValueEquals("LORA")))
            throw new InvalidDataException($"{path}: 'peft_type' is {PeftFields.Text(kind)}, which is not supported; only LORA is");
        var notes = PeftFields.Check(root, path);
        RequirePlainBase(root, path);
        var settings = new LoraSettings(Whole(Required(root, "r", path), "r", path), Number(Required(root, "lora_alpha", path), "lora_alpha", path),
            Field(root, "lora_dropout") is { } dropout ? Number(dropout, "lora_dropout", path) : 0,
            RankPattern: Pattern(root, "rank_pattern", path, Whole),
            AlphaPattern: Pattern(root, "alpha_pattern", path, Number),
            RankStabilised: Flag(root, "use_rslora", path), Dora: Flag(root, "use_dora", path),
            Additional: PeftTargets.Texts(root, "modules_to_save", path) is { Count: > 0 } modules ? modules : null);
        try
        {
            settings.Checked();
        }
        catch (ArgumentException error)
        {
            throw new InvalidDataException($"{path}: {error.Message}");
        }
        var baseName = Field(root, "base_model_name_or_path") is { ValueKind: JsonValueKind.String } name ? name.GetString() : null;
        return new PeftConfig(settings, PeftTargets.Read(root, path), baseName, notes)
        {
            Parameters = PeftTargets.Texts(root, "target_parameters", path),
            TiesWeights = Flag(root, "ensure_weight_tying", path),
        };
    }

    /// <summary>A field that is there and not null.</summary>
    internal static JsonElement? Field(JsonElement root, string key) =>
        root.TryGetProperty(key, out var value) && value.ValueKind != JsonValueKind.Null ? value : null;

    /// <summary>
    /// Some first values come with a change of the base: PEFT makes it again whenever it loads such an adapter, and the pair means nothing without it.
    /// </summary>
    private static void RequirePlainBase(JsonElement root, string path)
    {
        if (Field(root, "init_lora_weights") is not { } init || init.ValueKind is JsonValueKind.True or JsonValueKind.False) return;
        var name = init.ValueKind == JsonValueKind.String ? init.GetString()!.ToLowerInvariant() : "";
        if (name is "gaussian" or "eva" or "orthogonal") return;
        var what = name switch
        {
            "olora" or "corda" or "lora_ga" => "PEFT takes the first pair off the base's weights",
            "loftq" => "PEFT quantises the base's weights and starts from what that loses",
            _ when name == "pissa" || name.StartsWith("pissa_niter_", StringComparison.Ordinal) => "PEFT takes the first pair off the base's weights",
            _ => throw new InvalidDataException($"{path}: 'init_lora_weights' is {PeftFields.Text(init)}; known are true, false, gaussian, eva and orthogonal"),
        };
        var convert = name == "loftq" ? "train it on the plain base, or merge it with PEFT (merge_and_unload) and load the result as a model"
            : "convert it with PEFT: save_pretrained(FOLDER, path_initial_model_for_weight_conversion=FIRST), where FIRST is the adapter as it was " +
                "saved before its first step";
        throw new InvalidDataException($"{path}: 'init_lora_weights' is {PeftFields.Text(init)}: {what}, so this pair does not belong to the base as " +
            $"it is stored; {convert}");
    }

    private static JsonElement Required(JsonElement root, string key, string path) =>
        Field(root, key) ?? throw new InvalidDataException($"{path}: '{key}' is missing; it must be a number, as PEFT writes it");

    private static int Whole(JsonElement value, string key, string path) =>
        value.ValueKind == JsonValueKind.Number && value.TryGetInt32(out var number) ? number : throw Wrong(value, key, path, "a whole number");

    private static double Number(JsonElement value, string key, string path) =>
        value.ValueKind == JsonValueKind.Number && value.TryGetDouble(out var number) ? number : throw Wrong(value, key, path, "a number");

    private static bool Flag(JsonElement root, string key, string path) => Field(root, key) switch
    {
        null => false,
        { ValueKind: JsonValueKind.True or JsonValueKind.False } flag => flag.GetBoolean(),
        { } other => throw Wrong(other, key, path, "true or false"),
    };

    private static Dictionary<string, T>? Pattern<T>(JsonElement root, string key, string path, Func<JsonElement, string, string, T> read)
    {
        if (Field(root, key) is not { } block) return null;
        if (block.ValueKind != JsonValueKind.Object) throw Wrong(block, key, path, "a block of patterns and numbers");
        var pattern = new Dictionary<string, T>();
        foreach (var entry in block.EnumerateObject()) pattern[entry.Name] = read(entry.Value, $"{key}.{entry.Name}", path);
        return pattern.Count == 0 ? null : pattern;
    }

    private static InvalidDataException Wrong(JsonElement value, string key, string path, string wanted) =>
        new($"{path}: '{key}' must be {wanted}, but is {PeftFields.Text(value)}");
}
