using System.Globalization;
using System.Text;

namespace KtNotebooks.Data.Jinja;

/// <summary>What Python does with values: truth, text, order, arithmetic, members.</summary>
internal static class Values
{
    public static string Kind(object? value) => value switch
    {
        null => "None",
        Undefined => "an undefined value",
        bool => "a truth value",
        long or double => "a number",
        string => "a string",
        Dictionary<string, object?> => "a mapping",
        List<object?> => "a list",
        Namespace => "a namespace",
        _ => "a function",
    };

    public static bool IsTrue(object? value) => value switch
    {
        null or Undefined => false,
        bool truth => truth,
        long number => number != 0,
        double number => number != 0,
        string text => text.Length > 0,
        List<object?> list => list.Count > 0,
        Dictionary<string, object?> map => map.Count > 0,
        _ => true,
    };

    /// <summary>As str() writes it.</summary>
    public static string Text(object? value) => value switch
    {
        string text => text,
        Undefined => "",
        _ => Repr(value),
    };

    private static string Repr(object? value) => value switch
    {
        null => "None",
        Undefined => "Undefined",
        bool truth => truth ? "True" : "False",
        long number => number.ToString(CultureInfo.InvariantCulture),
        double number => Number(number),
        string text => Quoted(text),
        List<object?> list => $"[{string.Join(", ", list.Select(Repr))}]",
        Dictionary<string, object?> map => $"{{{string.Join(", ", map.Select(p => $"{Quoted(p.Key)}: {Repr(p.Value)}"))}}}",
        _ => throw JinjaError.Without($"{Kind(value)} has no text"),
    };

    public static string Number(double number)
    {
        var text = number.ToString("R", CultureInfo.InvariantCulture);
        return text.AsSpan().IndexOfAny(".EN∞") >= 0 ? text.Replace("E", "e", StringComparison.Ordinal) : text + ".0";
    }

    private static string Quoted(string text)
    {
        var quote = text.Contains('\'', StringComparison.Ordinal) && !text.Contains('"', StringComparison.Ordinal) ? '"' : '\'';
        var all = new StringBuilder().Append(quote);
        foreach (var c in text)
            _ = c switch
            {
                '\n' => all.Append("\\n"),
                '\r' => all.Append("\\r"),
                '\t' => all.Append("\\t"),
                '\\' => all.Append("\\\\"),
                _ when c == quote => all.Append('\\').Append(c),
                _ => all.Append(c),
            };
        return all.Append(quote).ToString();
    }

    public static IEnumerable<object?> Items(object? value) => value switch
    {
        Undefined => [],
        List<object?> list => list,
        Dictionary<string, object?> map => map.Keys,
        string text => text.EnumerateRunes().Select(rune => (object?)rune.ToString()),
        _ => throw JinjaError.Without($"{Kind(value)} cannot be gone through"),
    };

    public static long Length(object? value) => value switch
    {
        string text => text.EnumerateRunes().Count(),
        List<object?> list => list.Count,
        Dictionary<string, object?> map => map.Count,
        Undefined => 0,
        _ => throw JinjaError.Without($"{Kind(value)} has no length"),
    };

    public static bool AreEqual(object? a, object? b) => (a, b) switch
    {
        (Undefined, Undefined) => true,
        (bool or long or double, bool or long or double) => AsDouble(a) == AsDouble(b),
        (string x, string y) => x == y,
        (List<object?> x, List<object?> y) => x.Count == y.Count && x.Zip(y).All(p => AreEqual(p.First, p.Second)),
        (Dictionary<string, object?> x, Dictionary<string, object?> y) => x.Count == y.Count
            && x.All(p => y.TryGetValue(p.Key, out var other) && AreEqual(p.Value, other)),
        _ => ReferenceEquals(a, b),
    };

    public static int Order(object? a, object? b) => (a, b) switch
    {
        (bool or long or double, bool or long or double) => AsDouble(a).CompareTo(AsDouble(b)),
        (string x, string y) => string.CompareOrdinal(x, y),
        _ => throw JinjaError.Without($"{Kind(a)} and {Kind(b)} have no order"),
    };

    public static bool Contains(object? all, object? one) => all switch
    {
        string text => one is string part ? text.Contains(part, StringComparison.Ordinal) : throw JinjaError.Without($"{Kind(one)} is never in a string"),
        Dictionary<string, object?> map => one is string key && map.ContainsKey(key),
        _ => Items(all).Any(item => AreEqual(item, one)),
    };

    public static object? Compute(string sign, object? a, object? b)
    {
        if (sign == "~") return Text(a) + Text(b);
        if (sign == "+" && a is string x && b is string y) return x + y;
        if (sign == "+" && a is List<object?> first && b is List<object?> second) return first.Concat(second).ToList();
        if (sign == "*" && a is string repeated && b is long times) return string.Concat(Enumerable.Repeat(repeated, (int)Math.Clamp(times, 0, 1 << 20)));
        if (a is not (bool or long or double) || b is not (bool or long or double))
            throw JinjaError.Without($"{Named(a)} {sign} {Named(b)} has no meaning");
        if (sign is "/" or "//" or "%" && AsDouble(b) == 0) throw JinjaError.Without("division by zero");
        if (sign == "/") return AsDouble(a) / AsDouble(b);
        if (a is double || b is double)
        {
            var (p, q) = (AsDouble(a), AsDouble(b));
            return sign switch
            {
                "+" => p + q,
                "-" => p - q,
                "*" => p * q,
                "//" => Math.Floor(p / q),
                "%" => p - (q * Math.Floor(p / q)),
                _ => Math.Pow(p, q),
            };
        }
        var (m, n) = (AsLong(a), AsLong(b));
        if (sign == "**" && n < 0) return Math.Pow(m, n);
        return sign switch
        {
            "+" => m + n,
            "-" => m - n,
            "*" => m * n,
            "//" => (long)Math.Floor((double)m / n),
            "%" => m - (n * (long)Math.Floor((double)m / n)),
            _ => (long)Math.Pow(m, n),
        };
    }

    private static string Named(object? value) => value is Undefined { Name: var name } ? $"'{name}', which is undefined," : Kind(value);

    public static double AsDouble(object? value) =>
        value switch { bool truth => truth ? 1 : 0, long number => number, double number => number, _ => double.NaN };

    private static long AsLong(object? value) => value switch { bool truth => truth ? 1 : 0, long number => number, _ => 0 };

    /// <summary>of.key, of[key]: a dot looks for methods first, brackets for items.</summary>
    public static object? Member(object? of, object? key, bool byDot)
    {
        if (of is Undefined { Name: var name }) throw JinjaError.Without($"'{name}' is undefined, so it has no '{Text(key)}'");
        if (byDot && key is string method && Methods.Find(of, method) is { } found) return found;
        switch (of)
        {
            case Dictionary<string, object?> map when key is string field:
                return map.TryGetValue(field, out var value) ? value : new Undefined(field);
            case Namespace space when key is string field:
                return space.Fields.TryGetValue(field, out var set) ? set : new Undefined(field);
            case List<object?> list when key is long at:
                at = at < 0 ? at + list.Count : at;
                return at >= 0 && at < list.Count ? list[(int)at] : new Undefined($"item {key}");
            case string text when key is long at:
                var runes = text.EnumerateRunes().ToArray();
                at = at < 0 ? at + runes.Length : at;
                return at >= 0 && at < runes.Length ? runes[at].ToString() : new Undefined($"character {key}");
            default:
                return new Undefined(Text(key));
        }
    }

    public static object? Slice(object? of, long? first, long? last, long step)
    {
        if (step == 0) throw JinjaError.Without("the step of a slice is zero");
        if (of is not (string or List<object?>)) throw JinjaError.Without($"{Kind(of)} has no slices");
        List<object?> all = of as List<object?> ?? [.. Items(of)];
        var count = all.Count;
        long At(long? given, long missing, long low, long high) => given is { } at ? Math.Clamp(at < 0 ? at + count : at, low, high) : missing;
        var from = step > 0 ? At(first, 0, 0, count) : At(first, count - 1, -1, count - 1);
        var to = step > 0 ? At(last, count, 0, count) : At(last, -1, -1, count - 1);
        List<object?> chosen = [];
        for (var i = from; step > 0 ? i < to : i > to; i += step) chosen.Add(all[(int)i]);
        return of is string ? string.Concat(chosen.Select(c => (string)c!)) : chosen;
    }
}
