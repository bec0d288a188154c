using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Files;

namespace KtNotebooks.Lora;

/// <summary>adapter_config.json as PEFT writes it.</summary>
internal static class PeftConfig
{
    public const string FileName = "adapter_config.json";

    private static readonly JsonSerializerOptions Indented = new() { WriteIndented = true, Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    /// <param name="folder">Of the adapter.</param>
    /// <param name="settings">Ranks, alphas, dropout.</param>
    /// <param name="names">PEFT's names of the tensors: they say which modules are targets.</param>
    /// <param name="baseName">base_model_name_or_path.</param>
    public static void Write(string folder, LoraSettings settings, IEnumerable<string> names, string? baseName)
    {
        static JsonObject Block<T>(IReadOnlyDictionary<string, T>? pattern) => new((pattern ?? new Dictionary<string, T>()).Select(p => KeyValuePair.Create(p.Key, (JsonNode?)JsonValue.Create(p.Value))));
        var targets = names.Select(n => n.Split('.')[^3]).Distinct().Order(StringComparer.Ordinal).Select(n => (JsonNode)n).ToArray();
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
            ["modules_to_save"] = null,
            ["peft_type"] = "LORA",
            ["r"] = settings.Rank,
            ["rank_pattern"] = Block(settings.RankPattern),
            ["target_modules"] = new JsonArray(targets),
            ["task_type"] = "CAUSAL_LM",
            ["use_dora"] = false,
            ["use_rslora"] = settings.RankStabilised,
        };
        AtomicFile.WriteText(Path.Combine(folder, FileName), config.ToJsonString(Indented) + "\n");
    }

    /// <summary>Settings and base_model_name_or_path of an adapter's folder.</summary>
    public static (LoraSettings Settings, string? BaseName) Read(string folder)
    {
        var path = Path.Combine(folder, FileName);
        if (!File.Exists(path)) throw new FileNotFoundException($"{path}: no such file; an adapter folder holds adapter_config.json and adapter_model.safetensors");
        try
        {
            using var json = JsonDocument.Parse(File.ReadAllBytes(path));
            var root = json.RootElement;
            bool On(string key) => root.TryGetProperty(key, out var flag) && flag.ValueKind == JsonValueKind.True;
            Dictionary<string, T>? Pattern<T>(string key, Func<JsonElement, T> value) => root.TryGetProperty(key, out var p) && p.ValueKind == JsonValueKind.Object && p.EnumerateObject().Any() ? p.EnumerateObject().ToDictionary(e => e.Name, e => value(e.Value)) : null;
            if (root.TryGetProperty("peft_type", out var kind) && kind.ToString() != "LORA") throw new NotSupportedException($"{path}: peft_type '{kind}' is not supported; only LORA is");
            if (On("use_dora")) throw new NotSupportedException($"{path}: use_dora adapters are not supported");
            if (On("fan_in_fan_out")) throw new NotSupportedException($"{path}: fan_in_fan_out adapters are not supported");
            if (root.TryGetProperty("bias", out var bias) && bias.ToString() != "none") throw new NotSupportedException($"{path}: bias '{bias}' is not supported; only none is");
            if (root.TryGetProperty("modules_to_save", out var saved) && saved.ValueKind == JsonValueKind.Array && saved.GetArrayLength() > 0) throw new NotSupportedException($"{path}: modules_to_save is not supported: {saved}");
            var dropout = root.TryGetProperty("lora_dropout", out var d) && d.ValueKind == JsonValueKind.Number ? d.GetDouble() : 0;
            var settings = new LoraSettings(root.GetProperty("r").GetInt32(), root.GetProperty("lora_alpha").GetDouble(), dropout,
                RankPattern: Pattern("rank_pattern", v => v.GetInt32()), AlphaPattern: Pattern("alpha_pattern", v => v.GetDouble()), RankStabilised: On("use_rslora")).Checked();
            return (settings, root.TryGetProperty("base_model_name_or_path", out var name) && name.ValueKind == JsonValueKind.String ? name.GetString() : null);
        }
        catch (ArgumentException error)
        {
            throw new InvalidDataException($"{path}: {error.Message}");
        }
        catch (Exception error) when (error is JsonException or KeyNotFoundException or InvalidOperationException or FormatException)
        {
            throw new InvalidDataException($"{path}: damaged adapter_config.json: {error.Message}");
        }
    }
}
