using System.Globalization;

using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Files;
using KtNotebooks.Formats;
using KtNotebooks.Tensors;

using YamlDotNet.RepresentationModel;

namespace KtNotebooks.Placement;

/// <summary>
/// A rules file: a list of `match: {name: REGEX, class: CLASS}` with either KTransformers' `replace: {class, kwargs}` or our plain `place: {compute,
/// weights, format, kernel, experts}`; the first match wins. Both say the same thing, an <see cref="Assignment"/>. An unknown key, class, operator or
/// device is an error with file, line and the nearest known word. rules/README.md shows both spellings.
/// </summary>
public sealed class PlacementRules
{
    private static readonly string[] Kernels = [ModulePlace.AnyKernel, "amx", ModulePlace.Int8Kernel, "avx512bf16", "avx512", "avx2", "plain"];
    internal const string OnDisk = "weights: disk reads routed experts from the checkpoint's shards to a card that computes them";
    private readonly List<PlacementRule> _rules = [];
    private readonly SortedDictionary<int, (string Device, string Where)> _transfers = [];
    private readonly List<string> _notes = [];

    private PlacementRules(string path) => Path = path;

    public string Path { get; }

    public int Count => _rules.Count;

    /// <summary>What was read and has no effect here.</summary>
    public IReadOnlyList<string> Notes => _notes;

    internal IReadOnlyList<PlacementRule> All => _rules;

    /// <summary>transfer_map: from this layer on, the device.</summary>
    internal IReadOnlyDictionary<int, (string Device, string Where)> Transfers => _transfers;

    /// <summary>Does a rule name a card?</summary>
    internal bool NamesGpus => _transfers.Values.Any(t => IsGpu(t.Device)) || _rules.Any(r => IsGpu(r.Assign.Compute) || IsGpu(r.Assign.Output));

    /// <summary>Does a rule say which card, or where layers change from one to the next?</summary>
    internal bool NumbersGpus => _transfers.Count > 0
        || _rules.Any(r => r.Assign.Compute?.Contains(':', StringComparison.Ordinal) ?? r.Assign.Output?.Contains(':', StringComparison.Ordinal) ?? false);

    /// <exception cref="FileNotFoundException">No such file.</exception>
    /// <exception cref="InvalidDataException">Not a rules file; file and line are named.</exception>
    public static PlacementRules Load(string path)
    {
        if (YamlFile.Load(path) is not YamlSequenceNode list)
            throw new InvalidDataException($"{path}:1: a rules file is a list of `- match: … place: …` entries");
        var rules = new PlacementRules(path);
        foreach (var entry in list.Children) rules._rules.Add(rules.Read(entry));
        return rules;
    }

    private static bool IsGpu(string? device) => device?.StartsWith("cuda", StringComparison.Ordinal) ?? false;

    private PlacementRule Read(YamlNode node)
    {
        var entry = Mapping(node, node, "match", "replace", "place", "recursive");
        var match = Mapping(Child(entry, "match", node), node, "name", "class");
        if (match.Children.Count == 0) throw Bad(node, "match needs a name, a class, or both");
        var name = Maybe(match, "name") is { } pattern ? Pattern(pattern) : null;
        var kind = Maybe(match, "class") is { } word ? Known(word, KtNames.Classes, "class") : null;
        var recursive = Maybe(entry, "recursive") is not { } flag
            || Choice(flag, "recursive", "true", "false", "True", "False").StartsWith("true", StringComparison.OrdinalIgnoreCase);
        var (place, replace) = (Maybe(entry, "place"), Maybe(entry, "replace"));
        if ((place is null) == (replace is null))
            throw Bad(node, place is null ? "'place' (or KTransformers' 'replace') is missing" : "'place' and 'replace' exclude each other");
        return new PlacementRule(Where(node), name, kind, recursive, place is not null ? Place(place, node) : Replace(replace!, node));
    }

    private UserPattern Pattern(YamlNode node) => new(Word(node), Where(node));

    /// <summary>Our spelling.</summary>
    private Assignment Place(YamlNode node, YamlNode near)
    {
        var place = Mapping(node, near, "compute", "weights", "format", "kernel", "experts");
        var compute = Maybe(place, "compute") is { } c ? DeviceWord(c, "auto") : null;
        WeightHome? home = Maybe(place, "weights") is { } w
            ? Enum.Parse<WeightHome>(Choice(w, "weights", "host", "device", "mmap", "disk"), ignoreCase: true) : null;
        StorageFormat? format = Maybe(place, "format") is { } f ? StorageFormat.Parse(Choice(f, "format", StorageFormat.BankNames)) : null;
        ExecutorKind? executor = Maybe(place, "experts") is { } e
            ? Enum.Parse<ExecutorKind>(Choice(e, "experts", "auto", "cpu", "streamed", "resident", "split"), ignoreCase: true) : null;
        var kernel = Maybe(place, "kernel") is { } k ? Choice(k, "kernel", Kernels) : ModulePlace.AnyKernel;
        if (compute == "cpu" && home == WeightHome.Device) throw Bad(node, "weights: device means a card, but compute is cpu; write weights: host or mmap");
        if (compute == "cpu" && home == WeightHome.Disk) throw Bad(node, $"{OnDisk}; compute is cpu: write weights: mmap, which reads them as well");
        if (home == WeightHome.Disk && executor is not (null or ExecutorKind.Auto or ExecutorKind.Streamed))
            throw Bad(node, $"{OnDisk}; experts is {executor.ToString()!.ToLowerInvariant()}: leave it out, or write experts: streamed");
        if (compute == "cpu" && executor is ExecutorKind.Streamed or ExecutorKind.Resident or ExecutorKind.Split)
            throw Bad(node, $"experts: {executor.ToString()!.ToLowerInvariant()} needs a card, but compute is cpu");
        if (IsGpu(compute) && kernel != ModulePlace.AnyKernel && executor is not (ExecutorKind.Cpu or ExecutorKind.Split))
            throw Bad(node, $"kernel: {kernel} names kernels of the CPU, but compute is {compute}; leave kernel out");
        return new Assignment(compute, home, format, executor, kernel);
    }

    /// <summary>KTransformers' spelling.</summary>
    private Assignment Replace(YamlNode node, YamlNode near)
    {
        var replace = Mapping(node, near, "class", "kwargs");
        var kind = Known(Child(replace, "class", node), KtNames.Replacements, "class");
        var kwargs = Maybe(replace, "kwargs") is { } given ? Mapping(given, node, KtNames.Arguments(kind)) : new YamlMappingNode();
        string? Get(string key, params string[] more) => Maybe(kwargs, key) is { } device ? DeviceWord(device, more) : null;
        var compute = Get("generate_device") ?? Get("prefill_device");
        switch (kind)
        {
            case ModuleClass.Linear:
                foreach (var key in (string[])["generate_op", "prefill_op"]) Operator(kwargs, key, KtNames.LinearOps);
                break;
            case ModuleClass.Experts:
                return Experts(kwargs, compute, Get("out_device")) with { For = kind };
            case ModuleClass.Model:
                ReadModel(kwargs);
                break;
            case ModuleClass.Attention when Maybe(kwargs, "absorb_for_prefill") is { } absorb:
                _notes.Add($"{Where(absorb)}: absorb_for_prefill has no effect here");
                break;
        }
        return new Assignment(compute) { For = kind };
    }

    /// <summary>
    /// CPU operators: the CPU, whatever the prompt's operator says, since a training window is not a prompt; a card's operators: resident there.
    /// </summary>
    private Assignment Experts(YamlMappingNode kwargs, string? device, string? output)
    {
        var generate = Operator(kwargs, "generate_op", KtNames.ExpertOps.Keys);
        var prefill = Operator(kwargs, "prefill_op", KtNames.ExpertOps.Keys);
        StorageFormat? format = Maybe(kwargs, "backend") is { } backend ? Known(backend, KtNames.Backends, "backend") : null;
        var op = generate ?? prefill;
        if (op is "KExpertsMarlin") format = StorageFormat.Int4;
        var onCpu = op is null ? device == "cpu" : KtNames.ExpertOps[op] || device == "cpu";
        return onCpu ? new Assignment("cpu", WeightHome.Host, format, ExecutorKind.Cpu, Output: output)
            : new Assignment(device, WeightHome.Device, format, ExecutorKind.Resident, Output: output);
    }

    private void ReadModel(YamlMappingNode kwargs)
    {
        if (Maybe(kwargs, "per_layer_prefill_intput_threshold") is { } threshold && Word(threshold) != "0")
            _notes.Add($"{Where(threshold)}: per_layer_prefill_intput_threshold has no effect here; `experts: streamed` in the config streams layers to the "
                + "card");
        if (Maybe(kwargs, "transfer_map") is not { } node) return;
        if (node is not YamlMappingNode map) throw Bad(node, "transfer_map must map a layer's number to a device");
        foreach (var (key, value) in map.Children)
        {
            if (!int.TryParse(Word(key), NumberStyles.None, CultureInfo.InvariantCulture, out var layer))
                throw Bad(key, $"transfer_map must name the number of a layer, but says '{Word(key)}'");
            _transfers[layer] = (DeviceWord(value), Where(key));
        }
    }

    private string? Operator(YamlMappingNode kwargs, string key, IReadOnlyCollection<string> known)
    {
        if (Maybe(kwargs, key) is not { } node || Word(node) is not { } word || word is "null" or "~" or "") return null;
        return known.Contains(word) ? word : throw Bad(node, $"unknown {key} '{word}'.{Nearest.Hint(word, known)}");
    }

    private string DeviceWord(YamlNode node, params string[] more)
    {
        var word = Word(node);
        if (more.Contains(word)) return word;
        try
        {
            Device.Parse(word);
            return word;
        }
        catch (ArgumentException error)
        {
            throw Bad(node, error.Message);
        }
    }

    private T Known<T>(YamlNode node, Dictionary<string, T> known, string what)
    {
        var word = Word(node);
        return known.TryGetValue(word, out var value) ? value : throw Bad(node, $"unknown {what} '{word}'.{Nearest.Hint(word, known.Keys)}");
    }

    private YamlMappingNode Mapping(YamlNode node, YamlNode near, params string[] known)
    {
        if (node is not YamlMappingNode map) throw Bad(near, $"expected a mapping with {string.Join(", ", known)}");
        foreach (var key in map.Children.Keys)
            if (Word(key) is var word && !known.Contains(word)) throw Bad(key, $"unknown key '{word}'.{Nearest.Hint(word, known)}");
        return map;
    }

    private string Word(YamlNode node) => node is YamlScalarNode { Value: { } word } ? word : throw Bad(node, "expected a word");

    private YamlNode Child(YamlMappingNode map, string key, YamlNode near) => Maybe(map, key) ?? throw Bad(near, $"'{key}' is missing");

    private static YamlNode? Maybe(YamlMappingNode map, string key) => map.Children.TryGetValue(new YamlScalarNode(key), out var child) ? child : null;

    private string Choice(YamlNode node, string key, params string[] choices) => choices.Contains(Word(node)) ? Word(node)
        : throw Bad(node, $"{key} must be {string.Join(", ", choices[..^1])} or {choices[^1]}, but is '{Word(node)}'");

    private string Where(YamlNode node) => $"{Path}:{node.Start.Line}";

    private InvalidDataException Bad(YamlNode node, string what) => new($"{Where(node)}: {what}");
}
