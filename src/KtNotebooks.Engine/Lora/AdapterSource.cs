using KtNotebooks.Interop;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Lora;

/// <summary>
/// An adapter on disk, of any form, under PEFT's names: PEFT's folder, KTransformers' folder (routed experts in fused_expert_lora.safetensors), or
/// llama.cpp's GGUF file. Nothing is read before it is asked for.
/// </summary>
public sealed class AdapterSource(string path, LoraSettings settings, IReadOnlyDictionary<string, AdapterTensor> tensors, IReadOnlyList<IDisposable> files,
    string? fingerprint = null, string? baseName = null) : IDisposable
{
    /// <summary>The file that messages name.</summary>
    public string Path => path;

    public LoraSettings Settings => settings;

    /// <summary>By PEFT's names, `base_model.model.{module path}.lora_A.weight`.</summary>
    public IReadOnlyDictionary<string, AdapterTensor> Tensors => tensors;

    /// <summary>Whole modules that were trained beside the pairs, by the names of the model's weights.</summary>
    public IReadOnlyDictionary<string, AdapterTensor> Modules { get; private init; } = new Dictionary<string, AdapterTensor>();

    /// <summary>The head of its modules is their token table (ensure_weight_tying), whichever of the two is stored.</summary>
    internal bool TiesWeights { get; private init; }

    /// <summary>Of the base that it was trained on, where the file says it.</summary>
    public string? Fingerprint => fingerprint;

    public string? BaseName => baseName;

    /// <summary>Pairs lay on parameters of fused experts, whose gate and up projections are taken to be halves one behind the other.</summary>
    internal bool HasParameterPairs { get; private init; }

    /// <summary>Which modules have pairs, as its settings say; null: they do not say.</summary>
    internal PeftTargets? Targets { get; private init; }

    /// <summary>What its settings say that has no effect, a line each.</summary>
    public IReadOnlyList<string> Notes { get; private init; } = [];

    /// <exception cref="FileNotFoundException">No adapter there.</exception>
    /// <exception cref="InvalidDataException">A damaged one, or one that is more than pairs on linear layers.</exception>
    public static AdapterSource Open(string path)
    {
        var found = AdapterFiles.Find(path);
        if (found.Gguf is { } gguf) return GgufAdapter.Open(gguf);
        var config = PeftConfig.Read(found.Config!);
        var (tensors, modules) = (new Dictionary<string, AdapterTensor>(), new Dictionary<string, AdapterTensor>());
        List<IDisposable> files = [];
        try
        {
            string? fingerprint = null;
            if (found.Plain is { } plain)
            {
                var file = new SafetensorsFile(plain);
                files.Add(file);
                fingerprint = file.Metadata.GetValueOrDefault(AdapterFolder.FingerprintKey);
                tensors = Of(file, config.Settings.Additional, modules);
                var stored = tensors.Keys.ToHashSet(StringComparer.Ordinal);
                tensors = ParameterPairs.Split(tensors, config.Settings, config.Parameters, found.Config!);
                foreach (var (name, tensor) in tensors)
                    if (stored.Contains(name) && config.Targets.LeftOutBy(AdapterNames.ModuleOf(name)) is { } field)
                        throw new InvalidDataException($"{found.Config}: '{field}' leaves out the module of tensor '{tensor.Source}', so PEFT would " +
                            $"pass over it; correct the field, or take the tensor out of {AdapterFolder.FileName}");
            }
            if (found.Fused is { } fused)
            {
                var file = new SafetensorsFile(fused);
                files.Add(file);
                foreach (var (name, tensor) in FusedExperts.Read(file))
                    if (!tensors.TryAdd(name, tensor))
                        throw new InvalidDataException($"{fused}: '{tensor.Source}' is '{name}', which " +
                            $"{(tensors[name].File == fused ? "stands there twice" : $"{AdapterFolder.FileName} has as well")}");
            }
            if (!config.Settings.Dora && tensors.FirstOrDefault(t => AdapterNames.IsMagnitude(t.Key)).Value is { } magnitude)
                throw new InvalidDataException($"{found.Config}: 'use_dora' is not true, but '{magnitude.Source}' is a magnitude of DoRA");
            var main = found.Plain ?? found.Fused!;
            if (tensors.Count == 0) throw new InvalidDataException($"{main}: holds no tensor; an adapter has a pair for each module that it adapts");
            return new AdapterSource(main, config.Settings, tensors, files, fingerprint, config.BaseName)
            {
                Notes = config.Notes,
                Modules = modules,
                Targets = config.Targets,
                TiesWeights = config.TiesWeights,
                HasParameterPairs = config.Parameters.Count > 0,
            };
        }
        catch
        {
            foreach (var file in files) file.Dispose();
            throw;
        }
    }

    /// <summary>The tensors of a safetensors file under PEFT's names.</summary>
    /// <exception cref="InvalidDataException">A tensor that is no half of a pair, or two of one name.</exception>
    /// <param name="file">The file.</param>
    /// <param name="whole">Modules that it may hold whole (modules_to_save).</param>
    /// <param name="modules">Gets them, by the names of the model's weights.</param>
    public static Dictionary<string, AdapterTensor> Of(SafetensorsFile file, IReadOnlyList<string>? whole = null,
        Dictionary<string, AdapterTensor>? modules = null)
    {
        ArgumentNullException.ThrowIfNull(file);
        var tensors = new Dictionary<string, AdapterTensor>();
        foreach (var entry in file.Entries.Values)
        {
            var weight = modules is null ? null : WholeModules.WeightName(entry.Name, whole);
            var name = weight ?? AdapterNames.Canonical(entry.Name, file.Path);
            var tensor = new AdapterTensor(file.Path, entry.Name, entry.Type.ToString(), entry.Shape, () =>
            {
                using var stored = file.Get(entry.Name);
                return Floats(stored);
            });
            if (weight is not null)
            {
                modules![weight] = tensor;
                continue;
            }
            if (!tensors.TryAdd(name, tensor))
                throw new InvalidDataException($"{file.Path}: tensors '{tensors[name].Source}' and '{entry.Name}' are halves of the same pair; a file " +
                    "holds one adapter");
        }
        return tensors;
    }

    /// <summary>
    /// Writes it as a folder in PEFT's form (F32), with routed experts one by one or as parameters, or in KTransformers' form (BF16). Needs no model.
    /// </summary>
    /// <param name="folder">Made if it is not there; holds no adapter yet.</param>
    /// <param name="form">Of routed experts.</param>
    /// <param name="log">Hears under which name every tensor goes on.</param>
    /// <exception cref="ArgumentException">A file stands there, or an adapter.</exception>
    public void Save(string folder, ExpertForm form, Action<string>? log = null)
    {
        RequireFree(folder);
        if (Modules.Count > 0 && form == ExpertForm.KTransformers)
            throw new InvalidDataException($"{path}: holds whole modules beside its pairs (modules_to_save), which KTransformers does not read; merge it with "
                + "kt export");
        var fused = form == ExpertForm.KTransformers;
        var (written, ranks, targets) = form == ExpertForm.Parameters ? ParameterForm.Join(tensors, settings, path) : (tensors, settings, null);
        List<(string Name, Tensor Tensor)> plain = [];
        try
        {
            foreach (var (name, tensor) in written.OrderBy(t => t.Key, StringComparer.Ordinal))
            {
                if (fused && FusedExperts.IsExpert(name)) continue;
                plain.Add((name, Tensor.From(tensor.Read(), tensor.Shape)));
                log?.Invoke($"Loaded adapter weight: {tensor.Source} -> {name}");
            }
            foreach (var (name, module) in Modules.OrderBy(m => m.Key, StringComparer.Ordinal))
            {
                plain.Add((AdapterTensors.Prefix + name, Tensor.From(module.Read(), module.Shape)));
                log?.Invoke($"Loaded adapter weight: {module.Source} -> {AdapterTensors.Prefix + name}");
            }
            var metadata = fingerprint is null ? null : new Dictionary<string, string> { [AdapterFolder.FingerprintKey] = fingerprint };
            if (fused) FusedExperts.Write(System.IO.Path.Combine(folder, FusedExperts.FileName), tensors, log);
            if (plain.Count > 0) SafetensorsWriter.Write(System.IO.Path.Combine(folder, AdapterFolder.FileName), plain, metadata);
        }
        finally
        {
            foreach (var (_, tensor) in plain) tensor.Dispose();
        }
        PeftConfig.Write(folder, ranks with { Additional = settings.Additional }, written.Keys, baseName, targets, TiesWeights);
    }

    public void Dispose()
    {
        foreach (var file in files) file.Dispose();
    }

    private static void RequireFree(string folder)
    {
        if (FileKinds.Of(folder) is FileKind.File or FileKind.Other) throw new ArgumentException($"{folder}: is a file; an adapter is written into a folder");
        foreach (var name in (string[])[PeftConfig.FileName, AdapterFolder.FileName, FusedExperts.FileName])
            if (FileKinds.Of(System.IO.Path.Combine(folder, name)) != FileKind.None)
                throw new ArgumentException($"{folder}: already holds {name}; name a new folder");
    }

    internal static float[] Floats(Tensor stored) => stored.Type == DType.F16 ? Array.ConvertAll(stored.Span<Half>().ToArray(), h => (float)h)
        : stored.ToFloats();
}
