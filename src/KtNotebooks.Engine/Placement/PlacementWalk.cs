using System.Globalization;

using KtNotebooks.Experts;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;

namespace KtNotebooks.Placement;

/// <summary>One walk over a module tree that gives every module its place; see <see cref="ModelPlacement"/>.</summary>
internal sealed class PlacementWalk
{
    private readonly string _modelType;
    private readonly PlacementSettings _settings;
    private readonly Device _default;
    private readonly List<KeyValuePair<string, ModulePlace>> _places = [];
    private readonly Dictionary<string, (string Path, ModulePlace Place)> _layers = [];
    private readonly HashSet<PlacementRule> _met = [], _taken = [], _ofBanks = []; // matched something, was the first that did, placed experts
    private readonly List<string> _banks = [];
    private Device _here; // of the layer that was reached; before and behind the layers the first and the last one's

    public PlacementWalk(string modelType, PlacementSettings settings)
    {
        (_modelType, _settings) = (modelType, settings);
        // Without a device named anywhere everything stays on the CPU; a rules file that names cards has cuda:0 for all that it leaves out, as in
        // KTransformers.
        _default = settings.Device != "auto" ? Device.Parse(settings.Device)
            : settings.Gpus is not null || settings.Rules is { NamesGpus: true } ? Device.Cuda() : Device.Cpu;
        _here = _default;
    }

    private PlacementRules? Rules => _settings.Rules;

    public ModelPlacement Run(Module root)
    {
        // The decoder's body is no module of ours, but rules name it to give transfer_map, and may place it.
        var body = First("model", ModuleClass.Model) is { } rule ? Fitting(rule, "model", ModuleClass.Model) : null;
        foreach (var child in root.Children) Walk(child, root, body is { Assign: { Compute: not null, For: null } } ? body : null, stopped: false);
        foreach (var (layer, (_, place)) in _layers) _places.Add(new(layer, place));
        if (_taken.FirstOrDefault(r => r is { Assign: { Format: not null, For: null } } && !_ofBanks.Contains(r)) is { } idle)
            throw new InvalidDataException($"{idle.Where}: format is of routed experts alone, and this rule places none; leave it out, or match the experts");
        return new ModelPlacement(_places, _settings) { Notes = [.. Idle()] };
    }

    /// <summary>
    /// Rules that match nothing: a slip in a name would otherwise send what it meant elsewhere without a word. One whose modules are all taken by rules before
    /// it is as it should be: files end with a rule for the rest.
    /// </summary>
    private IEnumerable<string> Idle()
    {
        foreach (var rule in Rules?.All ?? [])
        {
            if (_met.Contains(rule) || rule.IsOfAngles) continue;
            var single = _banks.Exists(bank => Enumerable.Range(0, 16).Any(e => rule.Matches($"{bank}.{e}.gate_proj", ModuleClass.Linear, _modelType)));
            yield return $"{rule.Where}: " + (single ? "matches single experts, which no rule can place: a layer's experts go together, as mlp.experts"
                : "matches no module of this model");
        }
    }

    /// <summary>The first rule that matches.</summary>
    private PlacementRule? First(string path, ModuleClass kind, Func<PlacementRule, bool>? among = null)
    {
        PlacementRule? first = null;
        foreach (var rule in Rules?.All ?? [])
        {
            if (!rule.Matches(path, kind, _modelType)) continue;
            _met.Add(rule);
            if (first is null && (among is null || among(rule))) first = rule;
        }
        return first;
    }

    /// <param name="above">The nearest rule that matched above.</param>
    /// <param name="stopped">That rule was not recursive: what lies below belongs to it.</param>
    private void Walk(Module module, Module parent, PlacementRule? above, bool stopped)
    {
        var kind = ModelPlacement.ClassOf(module, parent);
        var rule = kind is null ? null : module is ExpertBank ? BankRule(module.Path) : First(module.Path, kind.Value);
        if (stopped) rule = null;
        if (rule is not null) _taken.Add(Fitting(rule, module.Path, kind!.Value));
        stopped |= rule is { Recursive: false };
        rule ??= above;
        if (module is not Stage) Put(module, rule, kind);
        foreach (var child in module.Children) Walk(child, module, rule, stopped);
    }

    private void Put(Module module, PlacementRule? rule, ModuleClass? kind)
    {
        if (module is ExpertBank)
        {
            _banks.Add(module.Path);
            if (rule is not null) _ofBanks.Add(rule);
        }
        var place = module is ExpertBank ? Experts(module.Path, rule) : Plain(module.Path, rule, module.Weights.Any(), kind);
        _places.Add(new(module.Path, place));
        if (module is ExpertBank || LayerPath(module.Path) is not { } layer) return;
        // A layer's modules meet in its residual stream, so they compute on one device; experts alone may compute elsewhere.
        if (Transfer(module.Path) is { } sent && sent.Device != place.Compute)
            throw new InvalidDataException($"{sent.Where}: transfer_map sends {layer} to {sent.Device}, but {place.Because} puts {module.Path} on "
                + $"{place.Compute}");
        if (!module.Weights.Any() || _layers.TryAdd(layer, (module.Path, place))) return;
        var (path, first) = _layers[layer];
        if (first.Compute != place.Compute)
            throw new InvalidDataException($"{place.Because}: puts {module.Path} on {place.Compute}, but {first.Because} puts {path} of the same layer "
                + $"on {first.Compute}; modules that no rule names go to the default device");
    }

    /// <summary>
    /// A bank is asked by its own path, and by the path of its first expert's gate: rules may name either. A replacement that stops the walk speaks for the
    /// bank whatever else matches.
    /// </summary>
    private PlacementRule? BankRule(string path)
    {
        var own = First(path, ModuleClass.Experts);
        if (own is { Recursive: false } or { Assign.For: ModuleClass.Experts }) return own;
        // `class: linear` in our own spelling is what it says; KTransformers' torch.nn.Linear means those in the experts too.
        var inner = First(path + ".0.gate_proj", ModuleClass.Linear, rule => rule.Assign.For is not null || rule.Class is null);
        return inner is null ? own : own is null ? inner : Rules!.All.First(r => r == own || r == inner);
    }

    private static PlacementRule Fitting(PlacementRule rule, string path, ModuleClass kind)
    {
        var wants = rule.Assign.For;
        var fits = wants is null || wants == kind || (wants == ModuleClass.Linear && kind is ModuleClass.Router or ModuleClass.Experts);
        return fits ? rule
            : throw new InvalidDataException($"{rule.Where}: replaces {path}, which is of class {Word(kind)}, by a class "
            + $"for {Word(wants!.Value)}; add a class to the match, or narrow the name");
    }

    private Device DeviceOf(string path, string? word)
    {
        if (_settings.Device == "cpu") return Device.Cpu;
        return word switch
        {
            null or "auto" => Transfer(path)?.Device ?? Default(path),
            "cuda" => Default(path) is { Kind: DeviceKind.Cuda } card ? card : Device.Cuda(),
            _ => Device.Parse(word),
        };
    }

    /// <summary>
    /// With `cards`, layer i is on card i mod n: neighbours in the model work at the same time on different parts of a window, and each card's bus brings
    /// every n-th bank of experts alone.
    /// </summary>
    private Device Default(string path)
    {
        if (_settings is not { Device: "auto", Gpus: { } cards }) return _default;
        if (LayerOf(path) is { } layer) _here = Device.Cuda(layer % cards);
        return _here;
    }

    /// <summary>What says where a module goes that no rule names.</summary>
    private string Key => _settings.Device != "auto" ? _settings.DeviceWhere : _settings.Gpus is not null ? _settings.GpusWhere : Rules?.Path ?? "default";

    /// <summary>Where transfer_map sends a layer's module, and the line that says so.</summary>
    private (Device Device, string Where)? Transfer(string path)
    {
        if (Rules is not { Transfers.Count: > 0 } rules || LayerOf(path) is not { } layer || _settings.Device == "cpu") return null;
        var from = rules.Transfers.Keys.Where(k => k <= layer).DefaultIfEmpty(-1).Max();
        return from < 0 ? null : (DeviceOf("", rules.Transfers[from].Device), rules.Transfers[from].Where);
    }

    private ModulePlace Plain(string path, PlacementRule? rule, bool owns, ModuleClass? kind)
    {
        var assign = rule?.Assign ?? new Assignment();
        var device = DeviceOf(path, assign.Compute);
        var home = device.Kind == DeviceKind.Cuda ? WeightHome.Device
            : assign.Weights is { } w and not WeightHome.Device ? w : rule is null ? WeightHome.Mmap : WeightHome.Host;
        var because = rule?.Where ?? (_settings.Device == "auto" ? Transfer(path)?.Where : null) ?? Key;
        if (owns && assign.Weights == WeightHome.Disk)
            throw new InvalidDataException($"{because}: {PlacementRules.OnDisk}; {path} is none: match the experts alone");
        if (owns && rule is not null && device.Kind == DeviceKind.Cuda && assign.Weights is WeightHome.Host or WeightHome.Mmap)
        {
            if (LayerOf(path) is null || assign.Weights == WeightHome.Mmap)
                throw new InvalidDataException($"{because}: {path} computes on {device}, so its weights must live there (weights: device); only experts and "
                    + "linear layers in the decoder's layers can come from host memory (weights: host): match them alone");
            if (kind is ModuleClass.Linear or ModuleClass.Router) home = WeightHome.Host; // norms and other vectors stay with the card
        }
        return new ModulePlace(device, home, Kernel: assign.Kernel, Because: because) { IsOpen = rule is null && home == WeightHome.Mmap };
    }

    private ModulePlace Experts(string path, PlacementRule? rule)
    {
        var assign = rule?.Assign ?? new Assignment();
        var disk = _settings.ExpertWeights == WeightHome.Disk || (_settings.ExpertWeights is null && assign.Weights == WeightHome.Disk);
        if (_settings.ExpertWeights is not null && assign.Weights is not (null or WeightHome.Device or WeightHome.Mmap))
            assign = assign with { Weights = _settings.ExpertWeights };
        var layer = _layers[LayerPath(path)!].Place.Compute; // of the norm before it
        var because = rule?.Where ?? Key;
        if (assign.Output is { } output && DeviceOf(path, output) != layer)
            throw new InvalidDataException($"{because}: out_device of {path} is {DeviceOf(path, output)}, but its layer computes on {layer}");
        var device = assign.Compute is null or "auto" ? layer : DeviceOf(path, assign.Compute);
        var executor = _settings.Experts ?? assign.Executor;
        if (_settings.Experts is { } forced)
        {
            because = _settings.ExpertsWhere;
            device = forced == ExecutorKind.Cpu ? Device.Cpu : layer;
            if (device.Kind == DeviceKind.Cpu && forced is not (ExecutorKind.Cpu or ExecutorKind.Auto))
                throw new InvalidDataException($"{because}: experts: {Word(forced)} needs a card, but {path} computes on the CPU; write device: cuda:0");
        }
        if (_settings.Device == "cpu" || device.Kind == DeviceKind.Cpu) (device, executor) = (Device.Cpu, ExecutorKind.Cpu);
        if (disk)
        {
            var says = _settings.ExpertWeights is null ? because : _settings.ExpertWeightsWhere;
            if (device.Kind == DeviceKind.Cpu)
                throw new InvalidDataException($"{says}: {PlacementRules.OnDisk}, but {path} computes on the CPU; leave it out: there experts stay mapped from "
                    + "their files");
            if (executor is not (null or ExecutorKind.Auto or ExecutorKind.Streamed))
                throw new InvalidDataException($"{says}: {PlacementRules.OnDisk}, but {path} has experts: {Word(executor.Value)}; only experts: streamed come "
                    + "from the disk");
            return new ModulePlace(device, WeightHome.Disk, assign.Format ?? _settings.ExpertFormat, ExecutorKind.Streamed, assign.Kernel, says);
        }
        executor ??= assign.Weights switch { WeightHome.Device => ExecutorKind.Resident, WeightHome.Host => ExecutorKind.Streamed, _ => ExecutorKind.Auto };
        if (assign.Weights == WeightHome.Mmap && _settings.Experts is null && executor != ExecutorKind.Cpu)
            throw new InvalidDataException($"{because}: {path} computes on {device}: its weights must be pinned (weights: host) or live there (weights: "
                + "device), not mapped");
        var home = executor switch
        {
            ExecutorKind.Resident => WeightHome.Device,
            ExecutorKind.Cpu => assign.Weights is { } w and not WeightHome.Device
                ? w : _settings.ExpertHome ?? (rule is null || layer.Kind == DeviceKind.Cpu ? WeightHome.Mmap : WeightHome.Host),
            _ => WeightHome.Host,
        };
        return new ModulePlace(device, home, assign.Format ?? _settings.ExpertFormat, executor, assign.Kernel, because)
        {
            IsOpen = home == WeightHome.Mmap && assign.Weights is null && _settings.ExpertHome is null,
        };
    }

    /// <summary>`model.layers.3` of a module in it; null outside the layers.</summary>
    private static string? LayerPath(string path) => LayerOf(path) is { } number
        ? path[..(path.IndexOf($"layers.{number}", StringComparison.Ordinal) + $"layers.{number}".Length)] : null;

    /// <summary>The number after `layers.`; null outside the layers.</summary>
    private static int? LayerOf(string path)
    {
        var at = path.IndexOf("layers.", StringComparison.Ordinal);
        if (at < 0) return null;
        var digits = path.AsSpan(at + "layers.".Length);
        var end = digits.IndexOf('.');
        return int.TryParse(end < 0 ? digits : digits[..end], NumberStyles.None, CultureInfo.InvariantCulture, out var number) ? number : null;
    }

    private static string Word<T>(T value)
        where T : struct, Enum => value.ToString().ToLowerInvariant();
}
