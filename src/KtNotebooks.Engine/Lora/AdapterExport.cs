using System.Text.Json.Nodes;

using KtNotebooks.Files;
using KtNotebooks.Formats;
using KtNotebooks.Models;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Lora;

/// <summary>What an export shall do; the keys are LLaMA-Factory's, and ours beside them export_dtype.</summary>
/// <param name="Model">model_name_or_path: the base.</param>
/// <param name="Adapters">adapter_name_or_path: merged together, in any form that <see cref="AdapterSource"/> opens. None: the base is written again in
/// other shards.</param>
/// <param name="Target">export_dir: must not exist, or be empty.</param>
/// <param name="ShardBytes">export_size, in GB of 10⁹ bytes there.</param>
/// <param name="Dequantized">Every FP8 or INT4 matrix is written as BF16 and quantization_config goes. Otherwise tensors keep their types: what was merged
/// into FP8 is rounded to FP8 again.</param>
public sealed record ExportSettings(string Model, IReadOnlyList<string> Adapters, string Target, long ShardBytes = 5_000_000_000, bool Dequantized = false);

/// <summary>
/// Merges adapters into a checkpoint, tensor by tensor from mapped files: memory holds one matrix at a time, whatever the model's size, and no model is
/// built. A folder that loads like any checkpoint appears under its name when it is whole; until then it has a name that is ours alone, which the next
/// export into the same folder clears away.
/// </summary>
public sealed class AdapterExport : IDisposable
{
    private const string ScaleSuffix = "_scale_inv", PackedSuffix = "_packed";
    private static readonly string[] BesidePacked = ["_scale", "_shape", "_zero_point"];

    private readonly ExportSettings _settings;
    private readonly Checkpoint _base;
    private readonly List<AdapterSource> _adapters = [];
    private readonly Dictionary<string, List<(AdapterSource Source, string Path)>> _pairs = []; // by weight
    private readonly HashSet<string> _names;
    private readonly Dictionary<string, AdapterTensor> _modules = []; // whole, by weight
    private readonly List<string> _incomplete = [];
    private readonly (IReadOnlyList<FolderFile> Files, IReadOnlyList<string> LeftOut) _others;
    private readonly string[] _ofBase; // its card and the records of its training
    private (string Name, Tensor Scales)? _pending; // of the FP8 matrix written last

    /// <summary>Opens and checks everything; nothing is written.</summary>
    /// <param name="settings">What to do.</param>
    /// <param name="log">Hears which weight every tensor of an adapter goes into.</param>
    /// <param name="cancel">Looked at with every pair.</param>
    /// <exception cref="InvalidDataException">A pair that fits no weight of the base.</exception>
    public AdapterExport(ExportSettings settings, Action<string>? log = null, CancellationToken cancel = default)
    {
        ArgumentNullException.ThrowIfNull(settings);
        _settings = settings;
        RequireNew();
        if (settings.ShardBytes < 1) throw new ArgumentException("export_size must be positive");
        _base = new Checkpoint(settings.Model);
        _names = [.. _base.Names];
        _others = ShardedFolder.BesideWeights(settings.Model);
        _ofBase = [.. _others.Files.Select(file => file.Name).Where(TellsOfTheBase)];
        _others = ([.. _others.Files.Where(file => !TellsOfTheBase(file.Name))], _others.LeftOut);
        try
        {
            foreach (var path in settings.Adapters)
            {
                _adapters.Add(AdapterSource.Open(path));
                Plan(_adapters[^1], log, cancel);
                _incomplete.AddRange(Incomplete(_adapters[^1]));
            }
            if (_pairs.Keys.FirstOrDefault(_modules.ContainsKey) is { } both)
                throw new InvalidDataException($"{_pairs[both][0].Source.Path}: has a pair for '{both}', and {_modules[both].File} the whole module "
                    + "(modules_to_save); merge one of them, and train the other on the result");
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Matrices that change.</summary>
    public int Merged => _pairs.Count + _modules.Count;

    /// <summary>What the adapters' settings say that has no effect, and what of the base's folder is not copied, a line each.</summary>
    public IReadOnlyList<string> Notes => [.. _adapters.SelectMany(a => a.Notes), .. _incomplete,
        .. _adapters.Where(a => HeadOf(a) is not null).Select(a => $"{a.Path}: {AdapterFolder.ValueHead} goes into the folder too: `kt predict stage=rm` "
            + "reads it"),
        .. _others.LeftOut.Select(what => $"{_settings.Model}: not copied: {what}"),
        .. _ofBase.Length > 0 ? [$"{_settings.Model}: not copied, they tell of the base: {string.Join(", ", _ofBase)}"] : Array.Empty<string>()];

    /// <summary>Writes the folder.</summary>
    /// <param name="onShard">Told shards written, shards in all.</param>
    /// <param name="cancel">Between tensors; what was written is removed.</param>
    public void Run(Action<int, int>? onShard = null, CancellationToken cancel = default)
    {
        using var held = FolderLock.Beside(_settings.Target, "an export", "export_dir");
        RequireNew(); // another export may have ended since
        var target = Path.TrimEndingDirectorySeparator(Path.GetFullPath(_settings.Target));
        var work = OwnTemporary.Beside(target);
        var shards = Shards();
        AtomicFile.RequireSpace(target, shards.Sum(s => s.Sum(t => t.Bytes)));
        Folders.Create(work, "export_dir");
        try
        {
            ShardedFolder.Write(work, shards, t => Make(t.Name, t.Type), StoredName, onShard, cancel);
            CopyOthers(work);
            foreach (var head in _adapters.Select(HeadOf).OfType<string>()) File.Copy(head, Path.Combine(work, AdapterFolder.ValueHead), overwrite: true);
            if (Directory.Exists(target)) Directory.Delete(target); // empty, or it fails
            Directory.Move(work, target);
        }
        catch (Exception error)
        {
            Directory.Delete(work, recursive: true);
            if (error is IOException && error.Message.Contains(work, StringComparison.Ordinal))
                throw new IOException(error.Message.Replace(work, target, StringComparison.Ordinal), error);
            throw;
        }
    }

    public void Dispose()
    {
        _pending?.Scales.Dispose();
        foreach (var adapter in _adapters) adapter.Dispose();
        _base.Dispose();
    }

    /// <summary>The value head beside a reward model's pairs, which the merged model has beside its weights; null: it is none.</summary>
    private static string? HeadOf(AdapterSource adapter) =>
        Path.Combine(Directory.Exists(adapter.Path) ? adapter.Path : Path.GetDirectoryName(adapter.Path)!, AdapterFolder.ValueHead) is var head
            && File.Exists(head) ? head : null;

    private void RequireNew()
    {
        if (_settings.Target.Length == 0) throw new ArgumentException("export_dir must be the name of a folder, but is ''");
        if (File.Exists(_settings.Target)) throw new ArgumentException($"export_dir '{_settings.Target}' is a file; name a new folder");
        if (Directory.Exists(_settings.Target) && Directory.EnumerateFileSystemEntries(_settings.Target).Any())
            throw new ArgumentException($"export_dir '{_settings.Target}' is not empty; name a new folder");
    }

    private void Plan(AdapterSource source, Action<string>? log, CancellationToken cancel)
    {
        PlanModules(source, log);
        foreach (var name in source.Tensors.Keys.Order(StringComparer.Ordinal))
        {
            cancel.ThrowIfCancellationRequested();
            if (AdapterNames.IsMagnitude(name)) continue; // goes with its pair
            const string A = ".lora_A.weight", B = ".lora_B.weight";
            var half = name.EndsWith(A, StringComparison.Ordinal) ? A : B;
            var other = name[..^half.Length] + (half == A ? B : A);
            if (!source.Tensors.ContainsKey(other))
                throw new InvalidDataException($"{source.Path}: tensor '{other}' is missing; an adapter holds both halves of every pair");
            if (half == B) continue;
            var path = AdapterNames.ModuleOf(name);
            var weight = path + ".weight";
            if (!_names.Contains(weight) && !(_settings.Dequantized && _names.Contains(weight + PackedSuffix)))
            {
                throw new InvalidDataException(IsStacked(path) ? $"{_settings.Model}: the experts of '{path}' are stored in one tensor, which cannot be "
                    + "merged into; use the adapter beside its base"
                    : _names.Contains(weight + PackedSuffix) ? $"{_settings.Model}: '{path}' is stored in 4 bits, which cannot be merged into; "
                        + "export_dtype=bfloat16 writes the whole checkpoint in BF16, or export onto a BF16 or FP8 one"
                    : $"{source.Path}: tensor '{source.Tensors[name].Source}' fits no weight of {_settings.Model}");
            }
            var shape = ShapeOf(weight);
            var (a, b, rank) = (source.Tensors[name], source.Tensors[other], source.Settings.RankOf(path));
            if (shape.Length != 2 || !a.Shape.SequenceEqual([rank, shape[1]]))
                throw new InvalidDataException($"{source.Path}: tensor '{a.Source}' must be [{rank}, {shape[^1]}] for this base and "
                    + $"rank {rank}, but is {a}");
            if (!b.Shape.SequenceEqual([shape[0], rank]))
                throw new InvalidDataException($"{source.Path}: tensor '{b.Source}' must be [{shape[0]}, {rank}] for this base and "
                    + $"rank {rank}, but is {b}");
            if (!_pairs.TryGetValue(weight, out var pairs)) _pairs.Add(weight, pairs = []);
            pairs.Add((source, path));
            foreach (var stored in new[] { a, b, MagnitudeOf(source, path, shape[0]) }.OfType<AdapterTensor>())
            {
                stored.Read(); // a value that cannot be merged is named now, not among written files
                log?.Invoke($"Loaded adapter weight: {stored.Source} -> {weight}");
            }
        }
    }

    /// <summary>Whole modules take the place of the base's; no two adapters may change one.</summary>
    private void PlanModules(AdapterSource source, Action<string>? log)
    {
        if (source.Modules.Count == 0) return;
        var tied = new ConfigFile(Path.Combine(_settings.Model, "config.json")).Flag("tie_word_embeddings");
        foreach (var (name, module) in WholeModules.Of(source, tied))
        {
            if (!_names.Contains(name) || !_base.Entry(name).Shape.SequenceEqual(module.Shape))
                throw new InvalidDataException($"{source.Path}: tensor '{module.Source}' is {module}, a whole module (modules_to_save) that takes the place of "
                    + $"no weight of {_settings.Model}");
            if (_base.Entry(name).Type == DType.F8E4M3)
                throw new InvalidDataException($"{_settings.Model}: '{name}' is FP8, and a whole module (modules_to_save) of {source.Path} takes its place; "
                    + "kt convert makes a BF16 checkpoint of the base to export onto");
            module.Read();
            log?.Invoke($"Loaded adapter weight: {module.Source} -> {name}");
            if (!_modules.TryAdd(name, module))
                throw new InvalidDataException($"{source.Path}: tensor '{module.Source}' is a whole module (modules_to_save) that {_modules[name].File} has "
                    + "too; only one of them can take the place of the base's");
            if (tied && name == "model.embed_tokens.weight" && _names.Contains("lm_head.weight")) _modules.Add("lm_head.weight", module); // a copy
        }
    }

    /// <summary>
    /// What is written, cut into files: the base's tensors in its files' order. An FP8 matrix is followed by its scales at once, in the same file, for they
    /// are made together.
    /// </summary>
    private IReadOnlyList<IReadOnlyList<NewTensor>> Shards() => ShardedFolder.Cut(_base.Names
        .Where(name => !(name.EndsWith(ScaleSuffix, StringComparison.Ordinal) && _names.Contains(name[..^ScaleSuffix.Length])) && !IsBesidePacked(name))
        .Select(Group), _settings.ShardBytes);

    /// <summary>What goes with codes of 4 bits, which are written as what they mean.</summary>
    private bool IsBesidePacked(string name) => _settings.Dequantized && Array.Exists(BesidePacked,
        end => name.EndsWith(end, StringComparison.Ordinal) && _names.Contains(name[..^end.Length] + PackedSuffix));

    private long[] ShapeOf(string weight)
    {
        if (_names.Contains(weight)) return _base.Entry(weight).Shape;
        var (n, k) = _base.ShapeOf(weight);
        return [n, k];
    }

    private IReadOnlyList<NewTensor> Group(string name)
    {
        var entry = _base.Entry(name);
        if (_settings.Dequantized && name.EndsWith(PackedSuffix, StringComparison.Ordinal) && name[..^PackedSuffix.Length] is var weight)
            return [new NewTensor(weight, DType.BF16, ShapeOf(weight))];
        if (entry.Type != DType.F8E4M3) return [new NewTensor(name, entry.Type, entry.Shape)];
        if (!_names.Contains(name + ScaleSuffix))
            throw new InvalidDataException($"{_settings.Model}: '{name}' is FP8 without its '{name + ScaleSuffix}'");
        return _settings.Dequantized ? [new NewTensor(name, DType.BF16, entry.Shape)]
            : [new NewTensor(name, entry.Type, entry.Shape), new NewTensor(name + ScaleSuffix, DType.F32, _base.Entry(name + ScaleSuffix).Shape)];
    }

    private Tensor Make(string name, DType type)
    {
        if (_pending is { } pending && pending.Name == name)
        {
            _pending = null;
            return pending.Scales;
        }
        if (_modules.TryGetValue(name, out var module)) return MergedTensor.Round(module.Read(), type, module.Shape);
        var stored = _names.Contains(name) ? _base.Stored(name) : _base.Take(name, DType.F32, ShapeOf(name));
        if (!_pairs.TryGetValue(name, out var sources) && stored.Type == type) return stored;
        using (stored)
        {
            using var scales = stored.Type == DType.F8E4M3 ? _base.Fp8Scales(name) : null;
            var sum = MergedTensor.Sum(stored, scales, [.. (sources ?? []).Select(s => PairOf(s.Source, s.Path))]);
            if (type != DType.F8E4M3) return MergedTensor.Round(sum, type, stored.Shape);
            using var merged = Tensor.From(sum, DType.F32, stored.Shape);
            var (codes, blocks) = StorageFormat.Fp8.Quantize(merged);
            _pending = (name + ScaleSuffix, blocks);
            return codes;
        }
    }

    /// <summary>Whether a path is that of an expert whose bank the base has in one tensor for all (gpt-oss).</summary>
    private bool IsStacked(string path) => path.LastIndexOf(".experts.", StringComparison.Ordinal) is > 0 and var at
        && ExpertNames.Interleaved(path[..at] + ".experts").Gate.Stacked is { } s && (_names.Contains(s.Name) || _names.Contains(s.Name + "_blocks"));

    private string StoredName(string name) => _names.Contains(name) ? _base.StoredName(name)
        : _base.StoredName(name + PackedSuffix)[..^PackedSuffix.Length];

    /// <summary>
    /// What an adapter's settings give a pair, and its file does not hold, where others of their kind have one: a file that was cut. PEFT warns of these too.
    /// </summary>
    private IEnumerable<string> Incomplete(AdapterSource source)
    {
        if (source.Targets is not { } targets) yield break;
        var had = _pairs.Where(p => p.Value.Exists(pair => pair.Source == source)).Select(p => p.Value.First(pair => pair.Source == source).Path).ToHashSet();
        string KindOf(string path) => path[(path.LastIndexOf('.') + 1)..] + (path.Contains(".experts.", StringComparison.Ordinal) ? " of experts" : "");
        var modules = _base.Names.Select(name => name.EndsWith(".weight" + PackedSuffix, StringComparison.Ordinal) ? name[..^PackedSuffix.Length] : name)
            .Where(name => name.EndsWith(".weight", StringComparison.Ordinal)).Select(name => name[..^".weight".Length])
            .Where(path => targets.LeftOutBy(path) is null);
        foreach (var kind in modules.GroupBy(KindOf))
        {
            string[] missing = [.. kind.Where(path => !had.Contains(path))];
            if (missing.Length > 0 && missing.Length < kind.Count())
                yield return $"{source.Path}: holds no pair for {missing.Length} of {kind.Count()} {kind.Key} that its target_modules name, as {missing[0]}; "
                    + "they stay as the base has them";
        }
        foreach (var name in source.Settings.Additional ?? [])
            if (!source.Modules.Keys.Any(weight => weight == name + ".weight" || weight.EndsWith($".{name}.weight", StringComparison.Ordinal)))
                yield return $"{source.Path}: modules_to_save names {name}, which the file does not hold; it stays as the base has it";
    }

    private static MergedTensor.Pair PairOf(AdapterSource source, string path)
    {
        var name = AdapterTensors.Prefix + path;
        return new MergedTensor.Pair(source.Tensors[name + ".lora_A.weight"].Read(), source.Tensors[name + ".lora_B.weight"].Read(),
            source.Settings.RankOf(path), source.Settings.ScaleOf(path))
        { Magnitudes = source.Settings.Dora ? source.Tensors[name + AdapterNames.Magnitude].Read() : null };
    }

    /// <summary>The lengths of rows that DoRA gives a matrix; null: plain.</summary>
    private static AdapterTensor? MagnitudeOf(AdapterSource source, string path, long rows)
    {
        if (!source.Settings.Dora) return null;
        var name = AdapterTensors.Prefix + path + AdapterNames.Magnitude;
        if (!source.Tensors.TryGetValue(name, out var magnitude))
            throw new InvalidDataException($"{source.Path}: tensor '{name}' is missing; DoRA has a magnitude for each row of what it adapts");
        return magnitude.Shape.SequenceEqual([rows]) ? magnitude
            : throw new InvalidDataException($"{source.Path}: tensor '{magnitude.Source}' must be [{rows}] for this base, but is {magnitude}");
    }

    /// <summary>A model's card, its pictures, and what its own training wrote: of a merged model they would be untrue.</summary>
    private static bool TellsOfTheBase(string name) =>
        Path.GetExtension(name).ToLowerInvariant() is ".md" or ".png" or ".jpg" or ".jpeg" or ".svg" or ".gif" or ".pdf" or ".yaml" or ".yml" or ".jsonl"
        || Path.GetFileName(name) is "trainer_state.json" || Path.GetFileName(name).EndsWith("_results.json", StringComparison.Ordinal);

    /// <summary>config.json, tokenizer, generation settings, model code, licence: the files beside the weights that stay true.</summary>
    private void CopyOthers(string work) => ShardedFolder.Copy(_others.Files, work, "export_dir", file =>
    {
        if (file.Name != "config.json" || !_settings.Dequantized) return null;
        var config = JsonNode.Parse(File.ReadAllText(file.Source))!.AsObject();
        Quantization.Remove(config);
        return config.ToJsonString(ShardedFolder.Indented) + "\n";
    });
}
