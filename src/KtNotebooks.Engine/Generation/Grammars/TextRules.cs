using System.Globalization;

using static KtNotebooks.Generation.Grammars.Rule;

namespace KtNotebooks.Generation.Grammars;

/// <summary>
/// Strings of a pattern: the regular expressions that schemas use (characters, classes, groups, alternatives, repetition, anchors at both ends), and the
/// formats of JSON Schema that are one. What else a pattern holds is refused.
/// </summary>
internal sealed class TextRules
{
    private const string Date = @"\d{4}-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|1\d|2[0-8]))",
        Label = "[A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?", Time = @"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)";

    private const string Path = "([A-Za-z0-9._~:/@!$&'()*+,;=-]|%[0-9A-F]{2})";

    private static readonly Dictionary<string, string> Formats = new()
    {
        ["date"] = $"^{Date}$",
        ["time"] = $"^{Time}$",
        ["date-time"] = $"^{Date}T{Time}$",
        ["uuid"] = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
        ["ipv4"] = @"^((25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)$",
        ["hostname"] = $@"^{Label}(\.{Label}){{0,4}}$",
        ["uri"] = $"^((https?|ftp|wss?)://{Label}(\\.{Label}){{0,4}}(:[1-9]\\d{{0,3}})?(/{Path}*)?(\\?{Path}*)?(#{Path}*)?|urn:[a-z][a-z0-9]{{1,20}}:{Path}+)$",
        ["duration"] = @"^P(\d{1,4}W|\d{1,4}D|(\d{1,4}D)?T(\d{1,4}H|\d{1,4}M|\d{1,4}S|\d{1,4}H\d{1,2}M|\d{1,2}M\d{1,2}S))$",
        ["email"] = $@"^[A-Za-z0-9_+-]{{1,32}}(\.[A-Za-z0-9_+-]{{1,32}}){{0,3}}@{Label}(\.{Label}){{1,3}}$",
    };

    private readonly string _pattern, _at;
    private int _next, _depth;

    private TextRules(string pattern, string at) => (_pattern, _at) = (pattern, at);

    /// <summary>A string of a format; null: it is not known here.</summary>
    public static Rule? Format(string name) => Formats.TryGetValue(name, out var pattern) ? Pattern(pattern, name) : null;

    /// <summary>A string that holds what a regular expression matches.</summary>
    /// <exception cref="ArgumentException">It has something that is not known here.</exception>
    public static Rule Pattern(string pattern, string at)
    {
        var text = new TextRules(pattern, at);
        var escapes = pattern.TrimEnd('$').Length is var n && n == pattern.Length - 1 ? n - pattern[..n].TrimEnd('\\').Length : 0;
        var (begins, ends) = (pattern.StartsWith('^'), pattern.EndsWith('$') && escapes % 2 == 0);
        if ((begins || ends) && HasTopLevelBar(pattern)) throw text.Unknown("an anchor beside alternatives; put them in a group");
        if (begins) text._next++;
        var end = pattern.Length - (ends ? 1 : 0);
        var body = text.Alternatives(end);
        if (text._next != end) throw text.Unknown($"'{pattern[text._next]}'");
        Rule[] parts = [Literal("\""), .. begins ? Array.Empty<Rule>() : [Anything()], body, .. ends ? Array.Empty<Rule>() : [Anything()], Literal("\"")];
        return Of(parts);
    }

    private static Repeat Anything() => new Repeat(JsonRules.Character, 0);

    private static bool HasTopLevelBar(string pattern)
    {
        var (depth, set) = (0, false);
        for (var i = 0; i < pattern.Length; i++)
        {
            if (pattern[i] == '\\') i++;
            else if (set) set = pattern[i] != ']';
            else if (pattern[i] == '[') set = true;
            else if (pattern[i] == '(') depth++;
            else if (pattern[i] == ')') depth--;
            else if (pattern[i] == '|' && depth == 0) return true;
        }
        return false;
    }

    private Rule Alternatives(int end)
    {
        if (++_depth > 50) throw Unknown("so many groups in each other");
        List<Rule> options = [];
        do
        {
            List<Rule> parts = [];
            while (_next < end && _pattern[_next] is not ('|' or ')')) parts.Add(Repeated(Atom(end), end));
            options.Add(new Sequence(parts));
        }
        while (_next < end && _pattern[_next] == '|' && ++_next > 0);
        _depth--;
        return Any([.. options]);
    }

    private Rule Repeated(Rule rule, int end)
    {
        if (_next >= end) return rule;
        var (least, most) = (1, 1);
        switch (_pattern[_next])
        {
            case '*': (least, most) = (0, int.MaxValue); break;
            case '+': (least, most) = (1, int.MaxValue); break;
            case '?': (least, most) = (0, 1); break;
            case '{':
                var close = _pattern.IndexOf('}', _next);
                if (close < 0 || close >= end) throw Unknown("'{' without its end");
                var bounds = _pattern[(_next + 1)..close].Split(',');
                if (bounds.Length > 2 || !Number(bounds[0], out least)) throw Unknown(_pattern[_next..(close + 1)]);
                most = bounds.Length == 1 ? least : bounds[1].Length == 0 ? int.MaxValue : Number(bounds[1], out var m) ? m : -1;
                if (most < least) throw Unknown(_pattern[_next..(close + 1)]);
                _next = close;
                break;
            default: return rule;
        }
        _next++;
        if (_next < end && _pattern[_next] is '?' or '+' or '*' or '{') throw Unknown($"'{_pattern[_next]}' after a repetition");
        if (rule.MayBeEmpty()) throw Unknown("a repetition of what may be empty");
        return new Repeat(rule, least, most);

        static bool Number(string text, out int number) =>
            int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out number) && number <= 10_000;
    }

    private Rule Atom(int end)
    {
        var c = _pattern[_next++];
        switch (c)
        {
            case '(':
                if (_next < end && _pattern[_next] == '?')
                {
                    if (!_pattern.AsSpan(_next).StartsWith("?:")) throw Unknown("'(?'");
                    _next += 2;
                }
                var inner = Alternatives(end);
                if (_next >= end || _pattern[_next++] != ')') throw Unknown("'(' without its end");
                return inner.Parts.Count == 0 ? throw Unknown("an empty group") : inner;
            case '[': return Set(end);
            case '.': return JsonRules.Character;
            case '\\':
                if (_next >= end) throw Unknown("'\\' at the end");
                return Escape(_pattern[_next++]) is { } set ? OneOf(set) : throw Unknown($"'\\{_pattern[_next - 1]}'");
            case '^' or '$' or '*' or '+' or '?' or '{' or ')': throw Unknown($"'{c}' there");
            default:
                if (char.IsHighSurrogate(c) && _next < end) return Literal($"{c}{_pattern[_next++]}");
                return c > 127 ? Literal(c.ToString()) : OneOf([c]);
        }
    }

    private Rule Set(int end)
    {
        var not = _next < end && _pattern[_next] == '^';
        if (not) _next++;
        HashSet<char> set = [];
        List<Rule> others = [];
        for (var first = true; ; first = false)
        {
            if (_next >= end) throw Unknown("'[' without its end");
            var c = _pattern[_next++];
            if (c == ']' && !first) break;
            if (c > 127)
            {
                if (not || char.IsSurrogate(c) || (_next < end && _pattern[_next] == '-' && _pattern[_next + 1] != ']'))
                    throw Unknown($"'{c}' in a set with ranges or ^");
                others.Add(Literal(c.ToString()));
                continue;
            }
            HashSet<char> some = c != '\\' ? [c] : _next < end && Escape(_pattern[_next++]) is { } known ? known : throw Unknown("that escape in a set");
            if (some.Count == 1 && _next + 1 < end && _pattern[_next] == '-' && _pattern[_next + 1] != ']')
            {
                var (from, to) = (some.First(), _pattern[_next + 1]);
                if (to > 127 || to < from || to == '\\') throw Unknown($"the range {from}-{to}");
                some = [.. Enumerable.Range(from, to - from + 1).Select(x => (char)x)];
                _next += 2;
            }
            set.UnionWith(some);
        }
        if (!not) return Any([.. set.Count > 0 ? [OneOf(set)] : Array.Empty<Rule>(), .. others]);
        var rest = Enumerable.Range(32, 95).Select(x => (char)x).Where(x => !set.Contains(x)).ToHashSet();
        // Beyond ASCII: any character of more than one byte.
        return Any([OneOf(rest), .. JsonRules.Character.Parts.Where((_, i) => i is 1 or > 2)]);
    }

    /// <summary>The characters of \d, \w, \s, or of an escaped one; null: another escape.</summary>
    private static HashSet<char>? Escape(char c) => c switch
    {
        'd' => [.. "0123456789"],
        'w' => [.. Enumerable.Range(0, 128).Select(x => (char)x).Where(x => char.IsAsciiLetterOrDigit(x) || x == '_')],
        's' => [' ', '\t', '\n', '\r'],
        'n' => ['\n'],
        't' => ['\t'],
        'r' => ['\r'],
        _ => char.IsAsciiLetterOrDigit(c) || c > 127 ? null : [c],
    };

    /// <summary>One of some ASCII characters, as a JSON string spells them.</summary>
    private static Rule OneOf(IEnumerable<char> set)
    {
        List<(int, int)> plain = [];
        List<Rule> options = [];
        foreach (var c in set.Order())
        {
            var spelled = c switch { '"' => "\\\"", '\\' => "\\\\", '\n' => "\\n", '\r' => "\\r", '\t' => "\\t", < ' ' or (char)127 => null, _ => "" };
            if (spelled is "") plain.Add((c, c));
            else if (spelled is not null) options.Add(Literal(spelled));
        }
        if (plain.Count > 0) options.Add(new Rule.Byte([.. plain]));
        return Any([.. options]);
    }

    private ArgumentException Unknown(string what) => new($"{_at}: {what} in a pattern is not supported");
}
