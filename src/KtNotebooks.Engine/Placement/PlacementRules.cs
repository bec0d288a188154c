using System.Text.RegularExpressions;

using KtNotebooks.Configuration;
using KtNotebooks.Data;

using YamlDotNet.RepresentationModel;

namespace KtNotebooks.Placement;

/// <summary>Where a module's weights live.</summary>
public enum WeightHome
{
    /// <summary>Mapped from the checkpoint's file; pages are read when touched and may be dropped again.</summary>
    Mmap,

    /// <summary>Copied into memory of our own at load.</summary>
    Host,
}

/// <summary>What a rule says of the modules that it matches.</summary>
public sealed record ModulePlace(WeightHome Weights);

/// <summary>
/// A rules file: a list of `match: {name: REGEX}` with `place: {compute, weights}`; the first match wins, a module without a match is mapped. The schema is KTransformers' (match name, first wins) with our
/// plain `place` in the stead of replacement classes. This engine computes on the CPU; other devices are refused by name.
/// </summary>
public sealed class PlacementRules
{
    private readonly List<(Regex Name, ModulePlace Place)> _rules = [];

    private PlacementRules(string path) => Path = path;

    public string Path { get; }

    public int Count => _rules.Count;

    /// <exception cref="FileNotFoundException">No such file.</exception>
    /// <exception cref="InvalidDataException">Not a rules file; file and line are named.</exception>
    public static PlacementRules Load(string path)
    {
        if (YamlFile.Load(path) is not YamlSequenceNode list) throw new InvalidDataException($"{path}:1: a rules file is a list of `- match: … place: …` entries");
        var rules = new PlacementRules(path);
        foreach (var entry in list.Children) rules._rules.Add(rules.Read(entry));
        return rules;
    }

    /// <summary>The place of a module or tensor by its dotted path.</summary>
    public ModulePlace Of(string name)
    {
        foreach (var (pattern, place) in _rules)
            if (pattern.IsMatch(name)) return place;
        return new ModulePlace(WeightHome.Mmap);
    }

    private (Regex, ModulePlace) Read(YamlNode node)
    {
        var entry = Mapping(node, node, "match", "place");
        var match = Mapping(Child(entry, "match", node), node, "name");
        var name = Word(Child(match, "name", node));
        var place = Mapping(Child(entry, "place", node), node, "compute", "weights");
        Choice(place, "compute", "cpu", node, "cpu");
        var home = Choice(place, "weights", "mmap", node, "mmap", "host") == "host" ? WeightHome.Host : WeightHome.Mmap;
        try
        {
            return (new Regex(name, RegexOptions.CultureInvariant), new ModulePlace(home));
        }
        catch (ArgumentException error)
        {
            throw Bad(node, $"'{name}' is not a regular expression: {error.Message}");
        }
    }

    private YamlMappingNode Mapping(YamlNode node, YamlNode near, params string[] known)
    {
        if (node is not YamlMappingNode map) throw Bad(near, $"expected a mapping with {string.Join(", ", known)}");
        foreach (var key in map.Children.Keys)
            if (Word(key) is var word && !known.Contains(word)) throw Bad(key, $"unknown key '{word}'.{Nearest.Hint(word, known)}");
        return map;
    }

    private string Word(YamlNode node) => node is YamlScalarNode { Value: { } word } ? word : throw Bad(node, "expected a word");

    private YamlNode Child(YamlMappingNode map, string key, YamlNode near) => map.Children.TryGetValue(new YamlScalarNode(key), out var child) ? child : throw Bad(near, $"'{key}' is missing");

    private string Choice(YamlMappingNode map, string key, string missing, YamlNode near, params string[] choices)
    {
        var value = map.Children.TryGetValue(new YamlScalarNode(key), out var child) ? Word(child) : missing;
        return choices.Contains(value) ? value : throw Bad(child ?? near, $"{key} must be {string.Join(" or ", choices)} in this version, but is '{value}'");
    }

    private InvalidDataException Bad(YamlNode node, string what) => new($"{Path}:{node.Start.Line}: {what}");
}
