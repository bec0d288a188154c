using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;

namespace KtNotebooks.Lora;

/// <summary>
/// Puts stored pairs beside a model's linears and experts: as the adapter that trains, or frozen under a name. All or nothing: a tensor that is missing,
/// does not fit or is left over leaves the model as it was.
/// </summary>
internal sealed class AdapterInstaller
{
    private readonly string _path;
    private readonly LoraSettings _settings;
    private readonly IReadOnlyDictionary<string, AdapterTensor> _tensors;
    private readonly HashSet<string> _left;
    private readonly bool _trained;
    private readonly Action<string>? _log;
    private readonly List<Tensor> _made = [];

    private AdapterInstaller(string path, LoraSettings settings, IReadOnlyDictionary<string, AdapterTensor> tensors, bool trained, Action<string>? log)
    {
        (_path, _settings, _tensors, _trained, _log) = (path, settings, tensors, trained, log);
        _left = [.. tensors.Keys];
    }

    /// <param name="model">The base.</param>
    /// <param name="path">The file that messages name.</param>
    /// <param name="settings">Ranks and scales.</param>
    /// <param name="tensors">By PEFT's names.</param>
    /// <param name="name">Null: replaces the adapter that trains.</param>
    /// <param name="log">Hears `Loaded adapter weight: A -> B` for every tensor.</param>
    public static void Put(CausalLm model, string path, LoraSettings settings, IReadOnlyDictionary<string, AdapterTensor> tensors, string? name = null,
        Action<string>? log = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(settings);
        Make(model, path, settings, tensors, name is null, log).Install(model, name);
    }

    /// <summary>Reads all that belongs to an adapter and changes nothing yet: a model may answer meanwhile.</summary>
    /// <param name="trained">It will be the one that trains.</param>
    public static LoadedAdapter Make(CausalLm model, string path, LoraSettings settings, IReadOnlyDictionary<string, AdapterTensor> tensors, bool trained,
        Action<string>? log = null) => new AdapterInstaller(path, settings, tensors, trained, log).Run(model);

    private LoadedAdapter Run(CausalLm model)
    {
        List<(IAdaptable Module, LoraWeights Lora)> adapters = [];
        var adapted = Adapted(model);
        if (adapted.Count == 0)
            throw new InvalidDataException($"{_path}: none of its {_tensors.Count} tensors fits this model; the first is '{First(_tensors.Keys)}'. It " +
                "belongs to another architecture");
        Require(adapted);
        try
        {
            foreach (var module in adapted) adapters.Add((module, LoraOf(module)));
            if (_left.Count > 0)
                throw new InvalidDataException($"{_path}: tensor '{First(_left)}' fits no linear layer of this model, which has {model.Info.Layers} " +
                    $"layers ({_left.Count} such)");
        }
        catch
        {
            foreach (var tensor in _made) tensor.Dispose();
            throw;
        }
        return new LoadedAdapter(adapters);
    }

    /// <summary>What the tensors belong to, in model order.</summary>
    private List<IAdaptable> Adapted(CausalLm model)
    {
        var paths = _tensors.Keys.Select(AdapterNames.ModuleOf).ToHashSet();
        return [.. model.All().OfType<IAdaptable>().Where(m => m.Targets.Any(t => Enumerable.Range(0, t.Count).Any(e => paths.Contains(t.PathOf(e)))))];
    }

    private void Require(List<IAdaptable> modules)
    {
        try
        {
            RankLimit.Require(modules, _settings, "its rank (r)");
        }
        catch (ArgumentException error)
        {
            throw new InvalidDataException($"{_path}: {error.Message}");
        }
    }

    /// <summary>The first by PEFT's name, under the name that it has in the file.</summary>
    private string First(IEnumerable<string> names) => _tensors[names.Order(StringComparer.Ordinal).First()].Source;

    private LoraWeights LoraOf(IAdaptable module)
    {
        var (ranks, scale) = LoraAdapter.RanksOf(module, _settings);
        if (_settings.Dora && module is not Linear)
            throw new InvalidDataException($"{_path}: holds DoRA on routed experts ({module.Path}), which is taken on dense layers alone; merge it "
                + "into the base with PEFT (merge_and_unload) and load the result as a model");
        var lora = module.MakeAdapter([.. module.Targets.Zip(ranks, (t, r) => Stack(module, t, r))], scale, (float)_settings.Dropout);
        return _settings.Dora && module is Linear linear ? ((LinearLora)lora) with { Dora = new Dora(Magnitudes(linear)) } : lora;
    }

    private Tensor Magnitudes(Linear linear)
    {
        var name = $"{AdapterTensors.Prefix}{linear.Path}{AdapterNames.Magnitude}";
        if (!_left.Remove(name)) throw new InvalidDataException($"{_path}: tensor '{name}' is missing; DoRA has a magnitude for each row of what it adapts");
        var stored = _tensors[name];
        if (!stored.IsReadable || !stored.Shape.SequenceEqual([linear.Outputs]))
            throw new InvalidDataException($"{_path}: tensor '{stored.Source}' must be [{linear.Outputs}] for this base, but is {stored}");
        _log?.Invoke($"Loaded adapter weight: {stored.Source} -> {linear.Path}.lora_magnitude_vector.default.weight");
        var target = Made(linear.EmptyLora(linear.Outputs));
        Fill(stored, target);
        return target;
    }

    private (Tensor A, Tensor B) Stack(IAdaptable module, LoraTarget target, int r)
    {
        List<(AdapterTensor A, AdapterTensor B)> pairs = [];
        for (var e = 0; e < target.Count; e++)
            pairs.Add((Take(target.PathOf(e), 'A', r, r, target.Inputs), Take(target.PathOf(e), 'B', r, target.Outputs, r)));
        var (A, B) = (Made(module.EmptyLora(target.Shape(r, target.Inputs))), Made(module.EmptyLora(target.Shape(target.Outputs, r))));
        for (var e = 0; e < target.Count; e++)
        {
            using var a = target.Of(A, e);
            using var b = target.Of(B, e);
            Fill(pairs[e].A, a);
            Fill(pairs[e].B, b);
        }
        return (A, B);
    }

    /// <summary>A half that must be there and fit; its values are not read yet.</summary>
    private AdapterTensor Take(string path, char half, int rank, long rows, long columns)
    {
        var name = $"{AdapterTensors.Prefix}{path}.lora_{half}.weight";
        if (!_left.Remove(name))
            throw new InvalidDataException($"{_path}: tensor '{name}' is missing; an adapter holds both halves of every "
                + $"pair{(path.Contains(".experts.", StringComparison.Ordinal) ? " and every expert of a layer" : "")}");
        var stored = _tensors[name];
        if (!stored.IsReadable || !stored.Shape.SequenceEqual([rows, columns]))
            throw new InvalidDataException($"{_path}: tensor '{stored.Source}' must be [{rows}, {columns}] for this base and rank {rank}, but is {stored}");
        _log?.Invoke($"Loaded adapter weight: {stored.Source} -> {path}.lora_{half}.default.weight");
        return stored;
    }

    private Tensor Made(Tensor target)
    {
        _made.Add(target);
        target.RequiresGrad = _trained;
        return target;
    }

    private static void Fill(AdapterTensor source, Tensor target)
    {
        using var host = Tensor.From(source.Read(), target.Shape);
        Memory.Copy(host, target);
    }
}
