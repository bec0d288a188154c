using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Files;
using KtNotebooks.Models;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Lora;

/// <summary>
/// Adapters on disk as PEFT writes them: adapter_model.safetensors + adapter_config.json. Loading is strict: every tensor of the file must fit a linear of the model, and A without B is an error.
/// The safetensors metadata carries a fingerprint of the base, so that an adapter is not put on another model by mistake; files from PEFT have none and are checked by shape.
/// </summary>
public static class AdapterFolder
{
    private const string FingerprintKey = "ktnotebooks_base";
    private static readonly JsonSerializerOptions Indented = new() { WriteIndented = true };

    public static void Save(CausalLm model, LoraSettings settings, string folder, string? baseName)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(settings);
        var tensors = AdapterTensors.Of(model);
        if (tensors.Count == 0) throw new InvalidOperationException("the model has no adapter to save");
        try
        {
            SafetensorsWriter.Write(Path.Combine(folder, "adapter_model.safetensors"), tensors, new Dictionary<string, string> { [FingerprintKey] = Fingerprint(model) });
        }
        finally
        {
            foreach (var (_, tensor) in tensors) tensor.Dispose();
        }
        var targets = tensors.Select(t => t.Name.Split('.')[^3]).Distinct().Order(StringComparer.Ordinal).Select(n => (JsonNode)n).ToArray();
        var config = new JsonObject
        {
            ["alpha_pattern"] = new JsonObject(),
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
            ["rank_pattern"] = new JsonObject(),
            ["target_modules"] = new JsonArray(targets),
            ["task_type"] = "CAUSAL_LM",
            ["use_dora"] = false,
            ["use_rslora"] = false,
        };
        AtomicFile.WriteText(Path.Combine(folder, "adapter_config.json"), config.ToJsonString(Indented) + "\n");
    }

    /// <summary>Puts the adapter of a folder beside the model's linears, trainable. Replaces any adapter that is there.</summary>
    /// <exception cref="FileNotFoundException">No adapter in the folder.</exception>
    /// <exception cref="InvalidDataException">A tensor that fits nothing, a missing half, another base.</exception>
    public static LoraSettings Load(CausalLm model, string folder)
    {
        ArgumentNullException.ThrowIfNull(model);
        var settings = ReadConfig(Path.Combine(folder, "adapter_config.json"));
        using var file = new SafetensorsFile(Path.Combine(folder, "adapter_model.safetensors"));
        if (file.Metadata.TryGetValue(FingerprintKey, out var made) && made != Fingerprint(model)) throw new InvalidDataException($"{file.Path}: was trained on another base model (fingerprint {made}, this model has {Fingerprint(model)}); load the base that its training used");
        LoadTensors(model, settings, file);
        return settings;
    }

    /// <summary>Loads the adapter of a checkpoint into a run that has attached its own: both must be of one form.</summary>
    /// <exception cref="InvalidDataException">The checkpoint's adapter has another rank, alpha or other layers.</exception>
    public static void Resume(CausalLm model, LoraSettings settings, string folder)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(settings);
        const string Otherwise = "give another output_dir, or overwrite_output_dir: true to start over";
        var saved = ReadConfig(Path.Combine(folder, "adapter_config.json"));
        if (saved.Rank != settings.Rank || saved.Scale != settings.Scale)
            throw new InvalidDataException($"{folder}: holds an adapter with lora_rank {saved.Rank} and lora_alpha {saved.EffectiveAlpha}, but this run asks for {settings.Rank} and {settings.EffectiveAlpha}; {Otherwise}");
        using var file = new SafetensorsFile(Path.Combine(folder, "adapter_model.safetensors"));
        var wanted = AdapterTensors.Of(model);
        foreach (var (_, tensor) in wanted) tensor.Dispose();
        if (wanted.Select(t => t.Name).Except(file.Entries.Keys).Concat(file.Entries.Keys.Except(wanted.Select(t => t.Name))).FirstOrDefault() is { } other)
            throw new InvalidDataException($"{folder}: holds an adapter of other layers than this run's lora_target and lora_experts ask for ('{other}' is in one only); {Otherwise}");
        LoadTensors(model, settings, file);
    }

    /// <summary>Loads the tensors of a file in PEFT's names, whatever its config.</summary>
    public static void LoadTensors(CausalLm model, LoraSettings settings, SafetensorsFile file)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(settings);
        ArgumentNullException.ThrowIfNull(file);
        var wanted = file.Entries.Keys.ToHashSet();
        // Attach by what the file holds, then every name must meet a pair.
        LoraAdapter.Detach(model);
        var experts = wanted.Any(n => n.Contains(".experts.", StringComparison.Ordinal));
        var paths = model.All().OfType<Nn.Linear>().Select(l => l.Path).Where(p => wanted.Contains($"{AdapterTensors.Prefix}{p}.lora_A.weight") || wanted.Contains($"{AdapterTensors.Prefix}{p}.lora_B.weight")).ToList();
        if (paths.Count == 0 && !experts) throw new InvalidDataException($"{file.Path}: none of its {wanted.Count} tensors fits this model; the first is '{wanted.Order(StringComparer.Ordinal).FirstOrDefault()}'. It belongs to another architecture");
        LoraAdapter.Attach(model, settings with { Target = paths, Experts = experts });
        try
        {
            foreach (var (name, target) in AdapterTensors.Of(model))
            {
                using var view = target;
                if (!wanted.Remove(name)) throw new InvalidDataException($"{file.Path}: tensor '{name}' is missing; an adapter holds both halves of every pair{(experts ? " and every expert of a layer" : "")}");
                using var stored = file.Get(name);
                if (!stored.Type.IsFloat() || !stored.HasShape(view.Shape)) throw new InvalidDataException($"{file.Path}: tensor '{name}' must be [{string.Join(", ", view.Shape.ToArray())}] for this base and rank {settings.Rank}, but is {stored}");
                using var values = stored.To(DType.F32);
                Memory.Copy(values, view);
            }
            if (wanted.Count > 0) throw new InvalidDataException($"{file.Path}: tensor '{wanted.Order(StringComparer.Ordinal).First()}' fits no linear layer of this model ({wanted.Count} such)");
        }
        catch
        {
            LoraAdapter.Detach(model);
            throw;
        }
    }

    /// <summary>
    /// A short hash of the base: names and shapes of all weights, the first rows of the token table and of the head, and all norms, which any further training moves; values rounded to BF16, so that F32
    /// and BF16 copies agree.
    /// </summary>
    public static string Fingerprint(CausalLm model)
    {
        ArgumentNullException.ThrowIfNull(model);
        var text = new StringBuilder();
        foreach (var parameter in model.AllWeights) text.Append(parameter.Name).Append('[').AppendJoin(',', parameter.Tensor.Shape.ToArray()).Append(']');
        foreach (var weight in model.AllWeights.Select(p => p.Tensor).Where(t => t.Rank == 1).Concat([model.Embedding.Weight, model.Head.Weight]))
        {
            using var first = weight.Rank == 1 ? weight.Alias() : weight.Slice(0, Math.Min(8, weight.Dim(0)));
            foreach (var value in first.ToFloats()) text.Append(Bf16.FromFloat(value)).Append(' ');
        }
        return Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(text.ToString())))[..16];
    }

    private static LoraSettings ReadConfig(string path)
    {
        if (!File.Exists(path)) throw new FileNotFoundException($"{path}: no such file; an adapter folder holds adapter_config.json and adapter_model.safetensors");
        try
        {
            using var json = JsonDocument.Parse(File.ReadAllBytes(path));
            var root = json.RootElement;
            if (root.TryGetProperty("peft_type", out var kind) && kind.ToString() != "LORA") throw new NotSupportedException($"{path}: peft_type '{kind}' is not supported; only LORA is");
            foreach (var pattern in (string[])["rank_pattern", "alpha_pattern"])
                if (root.TryGetProperty(pattern, out var p) && p.ValueKind == JsonValueKind.Object && p.EnumerateObject().Any())
                    throw new NotSupportedException($"{path}: {pattern} is not supported: all pairs of an adapter have one rank and one alpha here");
            var rank = root.GetProperty("r").GetInt32();
            var alpha = root.GetProperty("lora_alpha").GetDouble();
            var dropout = root.TryGetProperty("lora_dropout", out var d) && d.ValueKind == JsonValueKind.Number ? d.GetDouble() : 0;
            if (root.TryGetProperty("use_dora", out var dora) && dora.ValueKind == JsonValueKind.True) throw new NotSupportedException($"{path}: use_dora adapters are not supported");
            if (root.TryGetProperty("use_rslora", out var rs) && rs.ValueKind == JsonValueKind.True) alpha *= Math.Sqrt(rank); // alpha/√r = (alpha·√r)/r
            return new LoraSettings(rank, alpha, dropout).Checked();
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
