using System.Security.Cryptography;
using System.Text;

using KtNotebooks.Models;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Lora;

/// <summary>
/// Adapters on disk as PEFT writes them: adapter_model.safetensors + adapter_config.json. Loading is strict: every tensor of the file must fit a linear of
/// the model, and A without B is an error. The safetensors metadata carries a fingerprint of the base, so that an adapter is not put on another model by
/// mistake; files from PEFT have none and are checked by shape.
/// </summary>
public static class AdapterFolder
{
    internal const string FileName = "adapter_model.safetensors";

    /// <summary>What a reward model has beside its pairs, or its weights: W [1, D] and a bias of the head that gives values.</summary>
    internal const string ValueHead = "value_head.safetensors";

    internal const string FingerprintKey = "ktnotebooks_base";

    /// <param name="form">Of routed experts, each or as parameters; who goes on training reads either.</param>
    /// <param name="fingerprint">Of the base before anything of it was trained; null: nothing is.</param>
    public static void Save(CausalLm model, LoraSettings settings, string folder, string? baseName, ExpertForm form = ExpertForm.Each,
        string? fingerprint = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(settings);
        var made = new Dictionary<string, string> { [FingerprintKey] = fingerprint ?? Fingerprint(model) };
        var whole = WholeModules.Of(model, settings.Additional).Select(t => (AdapterTensors.Stored(AdapterTensors.Prefix + t.Name, model), t.Tensor)).ToArray();
        var additional = WholeModules.Written(model, settings.Additional);
        var ties = WholeModules.IsTied(model) && WholeModules.Covers(additional, model.Head.Path);
        if (form == ExpertForm.Parameters)
        {
            var written = AdapterTensors.Written(model);
            var source = written.ToDictionary(t => t.Name, t => new AdapterTensor(folder, t.Name, "F32", t.Tensor.Shape.ToArray(), t.Tensor.ToFloats));
            var (joined, ranks, parameters) = ParameterForm.Join(source, settings.Written, folder);
            (string Name, DType Type, long[] Shape)[] all = [.. joined.OrderBy(t => t.Key, StringComparer.Ordinal)
                .Select(t => (AdapterTensors.Stored(t.Key, model), DType.F32, t.Value.Shape)),
                .. whole.Select(t => (t.Item1, t.Tensor.Type, t.Tensor.Shape.ToArray()))];
            var byName = joined.ToDictionary(t => AdapterTensors.Stored(t.Key, model), t => t.Value);
            SafetensorsWriter.Write(Path.Combine(folder, FileName), all,
                i => byName.TryGetValue(all[i].Name, out var half) ? Tensor.From(half.Read(), all[i].Shape) : whole[i - byName.Count].Tensor.ToHost(), made);
            foreach (var tensor in written.Select(t => t.Tensor).Concat(whole.Select(t => t.Tensor))) tensor.Dispose();
            PeftConfig.Write(folder, ranks with { Additional = additional }, joined.Keys, baseName, parameters, ties);
            return;
        }
        (string Name, Tensor Tensor)[] tensors = [.. AdapterTensors.Written(model).Select(t => (AdapterTensors.Stored(t.Name, model), t.Tensor)), .. whole];
        if (tensors.Length == 0) throw new InvalidOperationException("the model has no adapter to save");
        try
        {
            SafetensorsWriter.Write(Path.Combine(folder, FileName), tensors, made);
        }
        finally
        {
            foreach (var (_, tensor) in tensors) tensor.Dispose();
        }
        PeftConfig.Write(folder, settings.Written with { Additional = additional }, tensors.Select(t => t.Name), baseName, ties: ties);
    }

    /// <summary>
    /// Puts an adapter (a folder in PEFT's or KTransformers' form, or a GGUF file) beside the model's linears, trainable. Replaces any adapter that is
    /// there.
    /// </summary>
    /// <param name="model">The base.</param>
    /// <param name="path">Folder or .gguf file.</param>
    /// <param name="log">Hears a line for every tensor.</param>
    /// <exception cref="FileNotFoundException">No adapter there.</exception>
    /// <exception cref="InvalidDataException">A tensor that fits nothing, a missing half, another base.</exception>
    /// <param name="dropout">lora_dropout from now on; null: the adapter's own.</param>
    public static LoraSettings Load(CausalLm model, string path, Action<string>? log = null, double? dropout = null)
    {
        using var source = AdapterSource.Open(path);
        return Put(model, source, null, log, dropout);
    }

    /// <summary>Puts an adapter beside the model's linears under a name, frozen, next to others: a pass chooses one (<see cref="Nn.Pass.Adapter"/>).</summary>
    public static LoraSettings LoadNamed(CausalLm model, string name, string path, Action<string>? log = null)
    {
        ArgumentException.ThrowIfNullOrEmpty(name);
        using var source = AdapterSource.Open(path);
        return Put(model, source, name, log);
    }

    /// <summary>
    /// Reads what <see cref="LoadNamed"/> puts beside the model, and changes nothing of it but its notes: on any thread, while the model answers.
    /// </summary>
    public static LoadedAdapter Read(CausalLm model, string path, Action<string>? log = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        using var source = AdapterSource.Open(path);
        Check(model, source);
        RequirePairsAlone(source);
        var loaded = AdapterInstaller.Make(model, source.Path, source.Settings, source.Tensors, trained: false, log);
        model.Notes = [.. model.Notes, .. source.Notes];
        return loaded;
    }

    /// <summary>Loads the adapter of a checkpoint into a run that has attached its own: both must be of one form.</summary>
    /// <exception cref="InvalidDataException">The checkpoint's adapter has another rank, alpha or other layers.</exception>
    public static void Resume(CausalLm model, LoraSettings settings, string folder, Action<string>? log = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(settings);
        const string Otherwise = "give another output_dir, or overwrite_output_dir: true to start over";
        using var source = AdapterSource.Open(folder);
        var (saved, written) = (source.Settings, settings.Written);
        if (saved.Rank != written.Rank || saved.Scale != written.Scale || saved.Dora != settings.Dora)
            throw new InvalidDataException($"{folder}: holds an adapter with lora_rank {saved.Rank} and lora_alpha {saved.EffectiveAlpha}, but this run asks "
                + $"for {settings.Rank} and {settings.EffectiveAlpha}; {Otherwise}");
        var wanted = AdapterTensors.Of(model);
        foreach (var (_, tensor) in wanted) tensor.Dispose();
        var names = wanted.Select(t => t.Name).ToHashSet();
        if (names.Except(source.Tensors.Keys).Concat(source.Tensors.Keys.Except(names)).FirstOrDefault() is { } other)
            throw new InvalidDataException($"{folder}: holds an adapter of other layers than this run's lora_target and lora_experts ask for "
                + $"('{other}' is in one only); {Otherwise}");
        var (trained, stored) = (WholeModules.WeightsOf(model, settings.Additional ?? []), WholeModules.Of(source, WholeModules.IsTied(model)).Keys);
        if (trained.Except(stored).Concat(stored.Except(trained)).FirstOrDefault() is { } part)
            throw new InvalidDataException($"{folder}: holds other whole modules than this run's additional_target asks for ('{part}' is in one only); "
                + Otherwise);
        WholeModules.Put(model, source, log);
        if (settings.Pissa is null) AdapterInstaller.Put(model, source.Path, settings, source.Tensors, log: log);
        else
        {
            foreach (var linear in model.All().OfType<Nn.Linear>()) RestoreHalves(linear, source);
            Nn.WeightVersion.Change();
        }
    }

    /// <summary>The trained part of a pair that is stored with its beginning, which the run has made itself.</summary>
    private static void RestoreHalves(Nn.Linear linear, AdapterSource source)
    {
        if (linear.Adapter is not { } lora) return;
        var name = AdapterTensors.Prefix + linear.Path;
        var (a, b, r) = (source.Tensors[name + ".lora_A.weight"].Read(), source.Tensors[name + ".lora_B.weight"].Read(), lora.B.Width);
        using var first = Tensor.From([.. a.AsSpan(0, (int)lora.A.Count)], lora.A.Shape);
        using var left = Tensor.From([.. Enumerable.Range(0, (int)lora.B.Count).Select(i => b[(i / r * 2 * r) + (i % r)])], lora.B.Shape);
        Memory.Copy(first, lora.A);
        Memory.Copy(left, lora.B);
    }

    /// <summary>Loads the tensors of a file in PEFT's names, whatever its config.</summary>
    public static void LoadTensors(CausalLm model, LoraSettings settings, SafetensorsFile file)
    {
        ArgumentNullException.ThrowIfNull(file);
        AdapterInstaller.Put(model, file.Path, settings, AdapterSource.Of(file));
    }

    /// <summary>
    /// A short hash of the base: names and shapes of all weights (of packed codes the shape that they stand for: one model has one fingerprint in every
    /// format), the first rows of the token table and of the head, and all norms, which any further training moves; values rounded to BF16, so that F32 and
    /// BF16 copies agree.
    /// </summary>
    public static string Fingerprint(CausalLm model)
    {
        ArgumentNullException.ThrowIfNull(model);
        var text = new StringBuilder();
        foreach (var parameter in model.AllWeights) text.Append(parameter.Name).Append('[').AppendJoin(',', parameter.Shape).Append(']');
        foreach (var weight in model.AllWeights.Select(p => p.Tensor).Where(t => t.Rank == 1).Concat([model.Embedding.Weight, model.Head.Weight]))
        {
            using var first = weight.Rank == 1 ? weight.Alias() : weight.Slice(0, Math.Min(8, weight.Dim(0)));
            foreach (var value in first.ToFloats()) text.Append(Bf16.FromFloat(value)).Append(' ');
        }
        return Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(text.ToString())))[..16];
    }

    private static LoraSettings Put(CausalLm model, AdapterSource source, string? name, Action<string>? log, double? dropout = null)
    {
        var settings = source.Settings with { Dropout = dropout ?? source.Settings.Dropout };
        Check(model, source);
        if (name is not null) RequirePairsAlone(source);
        WholeModules.Put(model, source, log);
        AdapterInstaller.Put(model, source.Path, settings, source.Tensors, name, log);
        model.Notes = [.. model.Notes, .. source.Notes];
        return settings;
    }

    /// <summary>Pairs may stand beside others under a name; of a module a model has one.</summary>
    private static void RequirePairsAlone(AdapterSource source)
    {
        if (source.Modules.Count > 0)
            throw new InvalidDataException($"{source.Path}: holds whole modules beside its pairs (modules_to_save), of which a model has one: such an adapter "
                + "stands alone, without a name; merge it with kt export to serve it beside others");
    }

    private static void Check(CausalLm model, AdapterSource source)
    {
        if (source.Fingerprint is { } made && made != Fingerprint(model))
            throw new InvalidDataException($"{source.Path}: was trained on another base model (fingerprint {made}, this model "
                + $"has {Fingerprint(model)}); load the base that its training used");
        if (source.HasParameterPairs && model.Info.ModelType == "gpt_oss")
            throw new InvalidDataException($"{source.Path}: holds pairs on parameters of fused experts (target_parameters), which are not read for gpt_oss, "
                + "whose gate and up projections lie row by row; merge it with PEFT (merge_and_unload) and load the result as a model");
    }
}
