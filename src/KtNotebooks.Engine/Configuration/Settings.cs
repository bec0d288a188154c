using System.Globalization;
using System.Text.RegularExpressions;

using YamlDotNet.Core;
using YamlDotNet.RepresentationModel;

namespace KtNotebooks.Configuration;

/// <summary>
/// One YAML mapping with `key=value` pairs laid over it, as LLaMA-Factory reads its configs; a block inside it reads as keys with a dot
/// (`kt_config.kt_backend`), in the file and on the command line. Readers ask for keys by name and type; what a key means where it is not given stands in
/// <see cref="Keys"/>. <see cref="Finish"/> then answers for every key that nobody asked for. Errors say file, line, key, what was wanted and what stands
/// there.
/// </summary>
public sealed partial class Settings
{
    /// <summary>The most keys of a config. An alias repeats what it names, so a small file can hold very many.</summary>
    private const int MostKeys = 10_000;

    private readonly Dictionary<string, (string? Value, IReadOnlyList<string>? List, string Where)> _values = new(StringComparer.Ordinal);
    private readonly HashSet<string> _known = new(StringComparer.Ordinal);
    private readonly List<(string Key, string Why)> _ignored = [];

    private Settings(string name) => Name = name;

    /// <summary>The file, or "command line".</summary>
    public string Name { get; }

    /// <summary>Keys that some reader has asked for, given or not.</summary>
    public IReadOnlyCollection<string> Asked => _known;

    /// <summary>Keys that are given and that nobody has asked for yet.</summary>
    public IReadOnlyList<string> Unread => [.. _values.Keys.Where(k => !_known.Contains(k))];

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

    /// <summary>Whether any key of a block (`kt_config.`) is given.</summary>
    public bool HasBlock(string prefix) =>
        _values.Any(v => v.Key.StartsWith(prefix, StringComparison.Ordinal) && (v.Value.Value is not null || v.Value.List is not null));

    public string? Text(string key) => Has(key) ? _values[key].Value ?? string.Join(",", _values[key].List!) : null;

    public string Text(string key, string missing) => Text(key) ?? missing;

    /// <summary>What is given, or the table's default.</summary>
    public string TextOrDefault(string key) => Text(key) ?? Keys.Default(key);

    /// <exception cref="ArgumentException">The key is not there.</exception>
    public string Required(string key) => Text(key)
        ?? throw new ArgumentException($"{Name}: '{key}' is required: {Keys.Find(key)?.Help ?? "it has no default"}");

    /// <summary>A whole number, or the table's default.</summary>
    public int Int(string key) => MaybeInt(key) ?? int.Parse(Keys.Default(key), CultureInfo.InvariantCulture);

    public int Int(string key, int missing) => MaybeInt(key) ?? missing;

    /// <summary>A whole number; 1e5 and 8.0 are some. Null: not given.</summary>
    public int? MaybeInt(string key) => !Has(key) ? null
        : TryNumber(Text(key), out var v) && v == Math.Floor(v) && v is >= int.MinValue and <= int.MaxValue ? (int)v : throw Wrong(key, "a whole number");

    /// <summary>A whole number above 0, or the table's default.</summary>
    public int Positive(string key) => MaybePositive(key) ?? Int(key);

    /// <inheritdoc cref="Positive"/>
    public int? MaybePositive(string key) => MaybeInt(key) is not { } value ? null : value > 0 ? value : throw Wrong(key, "positive");

    /// <summary>A number, or the table's default.</summary>
    public double Number(string key) => MaybeNumber(key) ?? double.Parse(Keys.Default(key), CultureInfo.InvariantCulture);

    public double Number(string key, double missing) => MaybeNumber(key) ?? missing;

    public double? MaybeNumber(string key) => !Has(key) ? null : TryNumber(Text(key), out var v) ? v : throw Wrong(key, "a number");

    /// <summary>True or false, or the table's default; false without one.</summary>
    public bool Flag(string key) => Flag(key, Keys.Find(key)?.Default == "true");

    public bool Flag(string key, bool missing) => !Has(key) ? missing : Text(key)!.ToLowerInvariant() switch
    {
        "true" or "yes" or "on" or "1" => true,
        "false" or "no" or "off" or "0" => false,
        _ => throw Wrong(key, "true or false"),
    };

    /// <summary>A flag that can also be given as null, which is not the same as not being given.</summary>
    public bool? FlagOrNull(string key, bool? missing) => Has(key) ? Flag(key) : _values.ContainsKey(key) ? null : missing;

    /// <summary>A YAML list or a comma list.</summary>
    public IReadOnlyList<string>? List(string key) =>
        Has(key) ? _values[key].List ?? _values[key].Value!.Split(',', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries) : null;

    /// <summary>One of the words that the table gives as the key's kind (`a | b`), or the table's default.</summary>
    public string OneOf(string key) => OneOf(key, Keys.Default(key), (Keys.Find(key)?.Kind ?? "").Split(" | "));

    public string OneOf(string key, string missing, params string[] choices)
    {
        var value = Text(key, missing);
        if (choices.Contains(value)) return value;
        if (Keys.Find(key)?.Elsewhere.GetValueOrDefault(value) is { } instead)
            throw new ArgumentException($"{Where(key)}: '{key}' is {value}, which is not to be had here: {instead}");
        throw Wrong(key, choices.Length == 1 ? choices[0] : $"one of {string.Join(", ", choices)}");
    }

    /// <summary>A key that another key switches off: known, and told by <see cref="Finish"/> if it is given.</summary>
    public void Ignore(string key, string why)
    {
        if (Has(key)) _ignored.Add((key, why));
    }

    /// <summary>The same of all keys of a block.</summary>
    public void IgnoreBlock(string prefix, string why)
    {
        foreach (var key in _values.Keys.Where(k => k.StartsWith(prefix, StringComparison.Ordinal)).ToList()) Ignore(key, why);
    }

    /// <summary>Where a key stands: file and line, or "command line".</summary>
    public string Where(string key) => _values.TryGetValue(key, out var entry) ? entry.Where : Name;

    /// <summary>An error about a key, with its place.</summary>
    public ArgumentException Wrong(string key, string wanted) => new($"{Where(key)}: '{key}' must be {wanted}, but is '{Text(key)}'");

    /// <summary>
    /// The answer for every key that no reader asked for: what has no effect is returned as notes, what would change the meaning is refused with what to
    /// write instead, what nobody knows is refused with the nearest known names (ALLOW_EXTRA_ARGS=1, as LLaMA-Factory has it, turns that into a note).
    /// </summary>
    /// <param name="command">Who has read: `kt train`.</param>
    /// <returns>Lines for whoever starts the command, each said once.</returns>
    /// <exception cref="ArgumentException">A key that is refused or unknown; its place is named.</exception>
    public IReadOnlyList<string> Finish(string command)
    {
        List<(string Key, string Why)> notes = [.. _ignored];
        foreach (var (name, (value, list, where)) in _values)
        {
            if (_known.Contains(name)) continue;
            var given = value ?? (list is null ? null : string.Join(",", list));
            switch (Keys.Find(name))
            {
                case null when Environment.GetEnvironmentVariable("ALLOW_EXTRA_ARGS")?.ToLowerInvariant() is "true" or "y"
                    or "1":
                    notes.Add((name, "not known (ALLOW_EXTRA_ARGS lets it pass)")); break;
                case null: throw new ArgumentException($"{where}: unknown key '{name}'.{Keys.Hint(name, _known)}");
                case { } key when key.AsksForNothing(given): break;
                case { Effect: KeyEffect.Refused } key: throw new ArgumentException($"{where}: '{name}' is {given}, which is not to be had here: {key.Help}");
                case { Effect: KeyEffect.NoEffect } key: notes.Add((name, key.Help)); break;
                default: notes.Add((name, $"`{command}` does not use it")); break;
            }
        }
        return [.. notes.GroupBy(n => n.Why).Select(g => $"no effect here: {string.Join(", ", g.Select(n => n.Key))} ({g.Key})")];
    }

    /// <summary>A finite number in YAML's spelling.</summary>
    internal static bool TryNumber(string? text, out double value) => double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out value)
        && double.IsFinite(value);

    private void ReadFile(string path)
    {
        if (YamlFile.Load(path) is not { } root) return;
        if (root is not YamlMappingNode map) throw new InvalidDataException($"{path}:1: a config is a list of `key: value` lines");
        foreach (var (key, value) in YamlFile.Entries(map, path)) Add(key, value, "", node => $"{path}:{node.Start.Line}");
    }

    /// <summary>~/x is x in the home folder, which a shell has put in on a command line and nobody in a file.</summary>
    private static string AtHome(string value) => value.StartsWith("~/", StringComparison.Ordinal)
        ? Path.Join(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), value[1..]) : value;

    /// <summary>${oc.env:NAME} and ${oc.env:NAME,default}, as OmegaConf has it, by which LLaMA-Factory reads its configs.</summary>
    private static string WithEnvironment(string value, string where) => !value.Contains("${oc.env:", StringComparison.Ordinal) ? value
        : FromEnvironment().Replace(value, found => Environment.GetEnvironmentVariable(found.Groups["name"].Value)
            ?? (found.Groups["default"] is { Success: true, Value: var missing } ? missing
            : throw new ArgumentException($"{where}: the environment has no {found.Groups["name"].Value}, which {found.Value} asks for")));

    [GeneratedRegex(@"\$\{oc\.env:(?<name>\w+)(?:,\s*(?<default>[^}]*))?\}")]
    private static partial Regex FromEnvironment();

    private static YamlNode Parse(string value, string argument)
    {
        try
        {
            return YamlFile.Parse(value, "command line") ?? new YamlScalarNode(value);
        }
        catch (InvalidDataException)
        {
            if (value == "*") return new YamlScalarNode(value); // the shell has taken the quotes with which YAML wants it
            throw new ArgumentException($"'{(argument.Length <= 80 ? argument : argument[..77] + "…")}': the value is not valid YAML; quote it");
        }
    }

    /// <summary>One entry; a block becomes its own entries, their keys after its key and a dot.</summary>
    private void Add(YamlNode key, YamlNode value, string prefix, Func<YamlNode, string> where)
    {
        var name = prefix + (key is YamlScalarNode { Value: { } word } ? word : throw new InvalidDataException($"{where(key)}: a key must be a word"));
        if (prefix.Count(c => c == '.') > 8) throw new InvalidDataException($"{where(key)}: blocks stand too deep in each other");
        if (value is YamlMappingNode block)
        {
            foreach (var (k, v) in YamlFile.Entries(block, Name)) Add(k, v, name + ".", where);
            return;
        }
        if (_values.Count >= MostKeys) throw new InvalidDataException($"{where(key)}: more than {MostKeys:N0} keys");
        _values[name] = value switch
        {
            YamlScalarNode { Value: null or "" or "null" or "~", Style: ScalarStyle.Plain or ScalarStyle.Any } => (null, null, where(key)),
            YamlScalarNode { Style: ScalarStyle.Plain or ScalarStyle.Any } scalar => (AtHome(WithEnvironment(scalar.Value!, where(key))), null, where(key)),
            YamlScalarNode scalar => (WithEnvironment(scalar.Value!, where(key)), null, where(key)),
            YamlSequenceNode list when list.Children.All(c => c is YamlScalarNode) => (null, [.. list.Children.Select(c => ((YamlScalarNode)c).Value ?? "")],
                where(key)),
            // Of a key that nobody reads its name alone matters: callbacks, a list of blocks, is unknown rather than of the wrong form.
            YamlSequenceNode list when list.Children.Any(c => c is YamlMappingNode) && Keys.Find(name) is null or { Effect: not KeyEffect.Acts } =>
                ("a list of blocks", null, where(key)),
            _ => throw new InvalidDataException($"{where(key)}: '{name}' must be a value or a list of values"),
        };
    }
}
