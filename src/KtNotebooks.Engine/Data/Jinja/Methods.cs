namespace KtNotebooks.Data.Jinja;

/// <summary>The methods of Python's strings and mappings that templates call.</summary>
internal static class Methods
{
    /// <summary>null: the value has no such method.</summary>
    public static Callable? Find(object? of, string name) => of switch
    {
        string text => OfText(text, name),
        Dictionary<string, object?> map => OfMap(map, name),
        _ => null,
    };

    private static Callable? OfText(string text, string name) => name switch
    {
        "strip" => (p, _) => text.Trim(Characters(p)),
        "lstrip" => (p, _) => text.TrimStart(Characters(p)),
        "rstrip" => (p, _) => text.TrimEnd(Characters(p)),
        "upper" => (_, _) => text.ToUpperInvariant(),
        "lower" => (_, _) => text.ToLowerInvariant(),
        "capitalize" => (_, _) => Filters.Capitalized(text),
        "title" => (_, _) => Filters.Titled(text),
        "startswith" => (p, _) => Any(p, part => text.StartsWith(part, StringComparison.Ordinal)),
        "endswith" => (p, _) => Any(p, part => text.EndsWith(part, StringComparison.Ordinal)),
        "removeprefix" => (p, _) => text.StartsWith(One(p), StringComparison.Ordinal) ? text[One(p).Length..] : text,
        "removesuffix" => (p, _) => text.EndsWith(One(p), StringComparison.Ordinal) ? text[..^One(p).Length] : text,
        "replace" => (p, _) => Replaced(text, One(p), Text(p, 1), p.Length > 2 && p[2] is long most ? most : -1),
        "split" => (p, named) => Split(text, p, named, fromEnd: false),
        "rsplit" => (p, named) => Split(text, p, named, fromEnd: true),
        "splitlines" => (_, _) => text.ReplaceLineEndings("\n").TrimEnd('\n').Split('\n').Select(line => (object?)line).ToList(),
        "find" => (p, _) => (long)text.IndexOf(One(p), StringComparison.Ordinal),
        "rfind" => (p, _) => (long)text.LastIndexOf(One(p), StringComparison.Ordinal),
        "count" => (p, _) => (long)(text.Length - text.Replace(One(p), "", StringComparison.Ordinal).Length) / One(p).Length,
        "join" => (p, _) => string.Join(text, Values.Items(p.Length > 0 ? p[0] : new Undefined("join")).Select(Values.Text)),
        "isdigit" => (_, _) => text.Length > 0 && text.All(char.IsDigit),
        "isalpha" => (_, _) => text.Length > 0 && text.All(char.IsLetter),
        "isspace" => (_, _) => text.Length > 0 && text.All(char.IsWhiteSpace),
        _ => null,
    };

    private static Callable? OfMap(Dictionary<string, object?> map, string name) => name switch
    {
        "items" => (_, _) => map.Select(p => (object?)new List<object?> { p.Key, p.Value }).ToList(),
        "keys" => (_, _) => map.Keys.Select(k => (object?)k).ToList(),
        "values" => (_, _) => map.Values.ToList(),
        "get" => (p, _) => p is [string key, ..] && map.TryGetValue(key, out var value) ? value : p.Length > 1 ? p[1] : null,
        _ => null,
    };

    private static char[] Characters(object?[] given) => given is [string set, ..] ? set.ToCharArray() : [];

    private static string Text(object?[] given, int i) => i < given.Length && given[i] is string text ? text
        : throw JinjaError.Without($"value {i + 1} of a call must be a string, but is {(i < given.Length ? Values.Kind(given[i]) : "missing")}");

    private static string One(object?[] given) => Text(given, 0);

    private static bool Any(object?[] given, Func<string, bool> holds) =>
        given is [List<object?> several, ..] ? several.OfType<string>().Any(holds) : holds(One(given));

    internal static string Replaced(string text, string old, string by, long most)
    {
        if (most < 0 && old.Length > 0) return text.Replace(old, by, StringComparison.Ordinal);
        for (var (at, done) = (0, 0L); old.Length > 0 && done < most && (at = text.IndexOf(old, at, StringComparison.Ordinal)) >= 0; done++)
            (text, at) = (text[..at] + by + text[(at + old.Length)..], at + by.Length);
        return text;
    }

    private static List<object?> Split(string text, object?[] given, IReadOnlyDictionary<string, object?> named, bool fromEnd)
    {
        var most = given is [_, long limit, ..] ? (int)limit : named.TryGetValue("maxsplit", out var m) && m is long byName ? (int)byName : -1;
        if (given is not [string separator, ..])
            return [.. text.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries)];
        if (separator.Length == 0) throw JinjaError.Without("split by an empty string has no meaning");
        if (most < 0 || !fromEnd) return [.. text.Split(separator, most < 0 ? int.MaxValue : most + 1)];
        var parts = text.Split(separator);
        var kept = Math.Min(most, parts.Length - 1);
        return [string.Join(separator, parts[..^kept]), .. parts[^kept..]];
    }
}
