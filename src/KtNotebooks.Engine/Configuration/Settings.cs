using System.Globalization;

using KtNotebooks.Data;

using YamlDotNet.Core;
using YamlDotNet.RepresentationModel;

namespace KtNotebooks.Configuration;

/// <summary>
/// One YAML mapping with `key=value` pairs laid over it, as LLaMA-Factory reads its configs; a block inside it reads as keys with a dot (`kt_config.kt_backend`), in the file and on the command line. Readers ask for keys by name and type; <see cref="RefuseUnknown"/> then names every key that
/// nobody asked for, with its line and the nearest known one. Errors say file, line, key, what was wanted and what stands there.
/// </summary>
public sealed class Settings
{
    private readonly Dictionary<string, (string? Value, IReadOnlyList<string>? List, string Where)> _values = new(StringComparer.Ordinal);
    private readonly HashSet<string> _known = new(StringComparer.Ordinal);

    private Settings(string name) => Name = name;

    /// <summary>The file, or "command line".</summary>
    public string Name { get; }

    /// <summary>Keys that some reader has asked for, given or not.</summary>
    public IReadOnlyCollection<string> Asked => _known;

    /// <summary>Every key that is given, with its value as text; lists with commas.</summary>
    public IReadOnlyDictionary<string, string?> Given => _values.ToDictionary(
        v => v.Key, v => v.Value.Value ?? (v.Value.List is { } list ? string.Join(",", list) : null));

    /// <summary>Reads `[FILE.yaml] key=value …`.</summary>
    /// <exception cref="FileNotFoundException">No such file.</exception>
    /// <exception cref="InvalidDataException">Not a flat YAML mapping; file and line are named.</exception>
    /// <exception cref="ArgumentException">An argument that is neither a YAML file nor key=value.</exception>
    public static Settings Read(IReadOnlyList<string> arguments)
    {
        ArgumentNullException.ThrowIfNull(arguments);
        var file = arguments.Count > 0 && !arguments[0].Contains('=', StringComparison.Ordinal) ? arguments[0] : null;
        var settings = new Settings(file ?? "command line");
        if (file is not null) settings.ReadFile(file);
        foreach (var argument in arguments.Skip(file is null ? 0 : 1))
        {
            var at = argument.IndexOf('=', StringComparison.Ordinal);
            if (at <= 0) throw new ArgumentException($"'{argument}' is neither a YAML file in first place nor key=value");
            settings.Add(new YamlScalarNode(argument[..at]), Parse(argument[(at + 1)..], argument), "", _ => "command line");
        }
        return settings;
    }

    public bool Has(string key)
    {
        _known.Add(key);
        return _values.TryGetValue(key, out var entry) && (entry.Value is not null || entry.List is not null);
    }

    public string? Text(string key) => Has(key) ? _values[key].Value ?? string.Join(",", _values[key].List!) : null;

    public string Text(string key, string missing) => Text(key) ?? missing;

    /// <exception cref="ArgumentException">The key is not there.</exception>
    public string Required(string key) => Text(key) ?? throw new ArgumentException($"{Name}: '{key}' is required");

    public int Int(string key, int missing) => Int(key) ?? missing;

    public int? Int(string key) => Has(key) ? int.TryParse(Text(key), NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out var v) ? v : throw Wrong(key, "a whole number") : null;

    public double Number(string key, double missing) => Number(key) ?? missing;

    public double? Number(string key) => Has(key) ? double.TryParse(Text(key), NumberStyles.Float, CultureInfo.InvariantCulture, out var v) && double.IsFinite(v) ? v : throw Wrong(key, "a number") : null;

    public bool Flag(string key, bool missing = false) => !Has(key) ? missing : Text(key)!.ToLowerInvariant() switch
    {
        "true" or "yes" or "on" or "1" => true,
        "false" or "no" or "off" or "0" => false,
        _ => throw Wrong(key, "true or false"),
    };

    /// <summary>A flag that can also be given as null, which is not the same as not being given.</summary>
    public bool? FlagOrNull(string key, bool? missing) => Has(key) ? Flag(key) : _values.ContainsKey(key) ? null : missing;

    /// <summary>A YAML list or a comma list.</summary>
    public IReadOnlyList<string>? List(string key) => Has(key) ? _values[key].List ?? _values[key].Value!.Split(',', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries) : null;

    public string OneOf(string key, string missing, params string[] choices)
    {
        var value = Text(key, missing);
        return choices.Contains(value) ? value : throw Wrong(key, $"one of {string.Join(", ", choices)}");
    }

    /// <summary>Keys that other tools use and that have no effect here: accepted, and returned for a note.</summary>
    public IReadOnlyList<string> WithoutEffect(params string[] keys) => [.. keys.Where(Has)];

    /// <summary>Keys that nobody has asked for yet.</summary>
    public IReadOnlyList<string> Unread => [.. _values.Keys.Where(k => !_known.Contains(k))];

    /// <summary>Where a key stands: file and line, or "command line".</summary>
    public string Where(string key) => _values.TryGetValue(key, out var entry) ? entry.Where : Name;

    /// <summary>An error about a key, with its place.</summary>
    public ArgumentException Wrong(string key, string wanted) => new($"{Where(key)}: '{key}' must be {wanted}, but is '{Text(key)}'");

    /// <exception cref="ArgumentException">A key that no reader asked for.</exception>
    public void RefuseUnknown()
    {
        foreach (var (key, entry) in _values)
            if (!_known.Contains(key)) throw new ArgumentException($"{entry.Where}: unknown key '{key}'.{Nearest.Hint(key, _known)}");
    }

    private void ReadFile(string path)
    {
        if (YamlFile.Load(path) is not { } root) return;
        if (root is not YamlMappingNode map) throw new InvalidDataException($"{path}:1: a config is a list of `key: value` lines");
        foreach (var (key, value) in map.Children) Add(key, value, "", node => $"{path}:{node.Start.Line}");
    }

    private static YamlNode Parse(string value, string argument)
    {
        var yaml = new YamlStream();
        try
        {
            yaml.Load(new StringReader(value));
            return yaml.Documents.Count == 0 ? new YamlScalarNode(value) : yaml.Documents[0].RootNode;
        }
        catch (YamlException)
        {
            throw new ArgumentException($"'{argument}': the value is not valid YAML; quote it");
        }
    }

    /// <summary>One entry; a block becomes its own entries, their keys after its key and a dot.</summary>
    private void Add(YamlNode key, YamlNode value, string prefix, Func<YamlNode, string> where)
    {
        var name = prefix + (key is YamlScalarNode { Value: { } word } ? word : throw new InvalidDataException($"{where(key)}: a key must be a word"));
        if (value is YamlMappingNode block)
        {
            foreach (var (k, v) in block.Children) Add(k, v, name + ".", where);
            return;
        }
        _values[name] = value switch
        {
            YamlScalarNode { Value: null or "" or "null" or "~", Style: ScalarStyle.Plain or ScalarStyle.Any } => (null, null, where(key)),
            YamlScalarNode scalar => (scalar.Value, null, where(key)),
            YamlSequenceNode list when list.Children.All(c => c is YamlScalarNode) => (null, [.. list.Children.Select(c => ((YamlScalarNode)c).Value ?? "")], where(key)),
            _ => throw new InvalidDataException($"{where(key)}: '{name}' must be a value or a list of values"),
        };
    }
}
