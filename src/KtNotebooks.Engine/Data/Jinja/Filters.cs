using System.Globalization;
using System.Text;

namespace KtNotebooks.Data.Jinja;

internal delegate object? Filter(object? value, Given given);

internal delegate bool Test(object? value, object?[] operands);

/// <summary>What stands in the brackets of a filter.</summary>
internal sealed record Given(object?[] Positional, IReadOnlyDictionary<string, object?> Named)
{
    public bool Has(int i, string name) => i < Positional.Length || Named.ContainsKey(name);

    public object? Get(int i, string name, object? missing = null) =>
        i < Positional.Length ? Positional[i] : Named.TryGetValue(name, out var value) ? value : missing;

    public string Text(int i, string name, string missing) => Values.Text(Get(i, name, missing));
}

/// <summary>The filters that templates use.</summary>
internal static class Filters
{
    private static readonly Dictionary<string, object?> NoNames = [];

    private static readonly Dictionary<string, Filter> All = new(StringComparer.Ordinal)
    {
        ["trim"] = (v, g) => Values.Text(v).Trim(g.Get(0, "chars") is string set ? set.ToCharArray() : []),
        ["length"] = (v, _) => Values.Length(v),
        ["count"] = (v, _) => Values.Length(v),
        ["upper"] = (v, _) => Values.Text(v).ToUpperInvariant(),
        ["lower"] = (v, _) => Values.Text(v).ToLowerInvariant(),
        ["capitalize"] = (v, _) => Capitalized(Values.Text(v)),
        ["title"] = (v, _) => Titled(Values.Text(v)),
        ["string"] = (v, _) => Values.Text(v),
        ["safe"] = (v, _) => v,
        ["int"] = (v, g) => v is string s ? long.TryParse(s.Trim(), CultureInfo.InvariantCulture, out var n) ? n : g.Get(0, "default", 0L)
            : (long)Math.Truncate(Values.AsDouble(v)),
        ["float"] = (v, g) => v is string s ? double.TryParse(s.Trim(), CultureInfo.InvariantCulture, out var n) ? n : g.Get(0, "default", 0.0)
            : Values.AsDouble(v),
        ["abs"] = (v, _) => v is long n ? (object)Math.Abs(n) : Math.Abs(Values.AsDouble(v)),
        ["list"] = (v, _) => Values.Items(v).ToList(),
        ["first"] = (v, _) => Values.Items(v).Take(1).ToArray() is [var first] ? first : new Undefined("the first item"),
        ["last"] = (v, _) => Values.Items(v).ToArray() is [.., var last] ? last : new Undefined("the last item"),
        ["reverse"] = (v, _) => v is string s ? Values.Slice(s, null, null, -1) : Values.Items(v).Reverse().ToList(),
        ["unique"] = (v, _) => Values.Items(v).Aggregate(new List<object?>(), (all, x) => all.Exists(y => Values.AreEqual(x, y)) ? all : [.. all, x]),
        ["items"] = (v, _) => v is Undefined ? new List<object?>() : v is Dictionary<string, object?> map ? Methods.Find(map, "items")!([], NoNames)
            : throw JinjaError.Without($"items are of a mapping, not of {Values.Kind(v)}"),
        ["dictsort"] = (v, _) => ((List<object?>)Methods.Find(v, "items")!([], NoNames)!)
            .OrderBy(p => Values.Text(((List<object?>)p!)[0]), StringComparer.OrdinalIgnoreCase).ToList(),
        ["sort"] = (v, g) => Sorted(v, g),
        ["join"] = (v, g) => string.Join(g.Text(0, "d", ""), Values.Items(v)
            .Select(x => Values.Text(g.Get(1, "attribute") is string name ? Field(x, name) : x))),
        ["replace"] = (v, g) => Methods.Replaced(Values.Text(v), g.Text(0, "old", ""), g.Text(1, "new", ""), g.Get(2, "count") is long most ? most : -1),
        ["default"] = Default,
        ["d"] = Default,
        ["indent"] = (v, g) => Indented(Values.Text(v), g),
        ["tojson"] = (v, g) => Json(v, g),
        ["map"] = (v, g) => g.Named.TryGetValue("attribute", out var name)
            ? Values.Items(v).Select(x => Field(x, Values.Text(name)) is Undefined && g.Named.TryGetValue("default", out var other) ? other
                : Field(x, Values.Text(name))).ToList()
            : Values.Items(v).Select(x => Find(g.Text(0, "", ""), 0)(x, new Given(g.Positional[1..], g.Named))).ToList(),
        ["select"] = (v, g) => Chosen(v, g, byField: false, wanted: true),
        ["reject"] = (v, g) => Chosen(v, g, byField: false, wanted: false),
        ["selectattr"] = (v, g) => Chosen(v, g, byField: true, wanted: true),
        ["rejectattr"] = (v, g) => Chosen(v, g, byField: true, wanted: false),
    };

    public static Filter Find(string name, int line) => All.TryGetValue(name, out var filter) ? filter
        : throw new JinjaError($"the filter '{name}' is not known here.{Nearest.Hint(name, All.Keys)}", line);

    public static string Capitalized(string text) => text.Length == 0 ? "" : char.ToUpperInvariant(text[0]) + text[1..].ToLowerInvariant();

    public static string Titled(string text)
    {
        var (all, inWord) = (new StringBuilder(text.Length), false);
        foreach (var c in text)
        {
            all.Append(inWord ? char.ToLowerInvariant(c) : char.ToUpperInvariant(c));
            inWord = char.IsLetter(c);
        }
        return all.ToString();
    }

    private static object? Default(object? value, Given given) =>
        value is Undefined || (Values.IsTrue(given.Get(1, "boolean", false)) && !Values.IsTrue(value)) ? given.Get(0, "default_value", "") : value;

    private static object? Field(object? of, string path) =>
        path.Split('.').Aggregate(of, (at, key) => Values.Member(at, long.TryParse(key, out var number) ? number : key, byDot: false));

    private static List<object?> Chosen(object? value, Given given, bool byField, bool wanted)
    {
        var tests = given.Positional[(byField ? 1 : 0)..];
        Test? test = tests is [string name, ..] ? Tests.Find(name, 0) : null;
        return [.. Values.Items(value).Where(x =>
        {
            var asked = byField ? Field(x, Values.Text(given.Positional[0])) : x;
            return (test is null ? Values.IsTrue(asked) : test(asked, tests[1..])) == wanted;
        })];
    }

    private static List<object?> Sorted(object? value, Given given)
    {
        object? Key(object? x)
        {
            var key = given.Get(2, "attribute") is string name ? Field(x, name) : x;
            return key is string text && !Values.IsTrue(given.Get(1, "case_sensitive", false)) ? text.ToLowerInvariant() : key;
        }
        var order = Comparer<object?>.Create(Values.Order);
        var items = Values.Items(value);
        return Values.IsTrue(given.Get(0, "reverse", false)) ? [.. items.OrderByDescending(Key, order)] : [.. items.OrderBy(Key, order)];
    }

    private static string Indented(string text, Given given)
    {
        var by = given.Get(0, "width", 4L) is long width ? new string(' ', (int)width) : given.Text(0, "width", "");
        var blank = Values.IsTrue(given.Get(2, "blank", false));
        var lines = text.Split('\n').Select((line, i) => i == 0 || (line.Length == 0 && !blank) ? line : by + line);
        return (Values.IsTrue(given.Get(1, "first", false)) ? by : "") + string.Join('\n', lines);
    }

    /// <summary>transformers' tojson: Python's json.dumps(ensure_ascii=False, indent, separators, sort_keys).</summary>
    private static string Json(object? value, Given given)
    {
        int? indent = given.Get(0, "indent") is long width ? (int)width : null;
        var sorts = Values.IsTrue(given.Get(3, "sort_keys", false));
        var (comma, colon) = given.Get(2, "separators") is List<object?> { Count: 2 } two ? (Values.Text(two[0]), Values.Text(two[1]))
            : (indent is null ? ", " : ",", ": ");
        var text = new StringBuilder();
        Write(value, 0);
        return text.ToString();

        void Write(object? at, int level)
        {
            switch (at)
            {
                case null: text.Append("null"); break;
                case bool truth: text.Append(truth ? "true" : "false"); break;
                case string s: text.Append(PythonJson.Quote(s)); break;
                case Dictionary<string, object?> map:
                    var pairs = sorts ? map.OrderBy(p => p.Key, StringComparer.Ordinal) : map.AsEnumerable();
                    All('{', '}', [.. pairs.Select<KeyValuePair<string, object?>, Action>(p => () =>
                    {
                        text.Append(PythonJson.Quote(p.Key)).Append(colon);
                        Write(p.Value, level + 1);
                    })], level);
                    break;
                case List<object?> list:
                    All('[', ']', [.. list.Select<object?, Action>(x => () => Write(x, level + 1))], level);
                    break;
                case long or double: text.Append(Values.Text(at)); break;
                default: throw JinjaError.Without($"{Values.Kind(at)} cannot be written as JSON");
            }
        }

        void All(char open, char close, Action[] items, int level)
        {
            text.Append(open);
            for (var i = 0; i < items.Length; i++)
            {
                if (i > 0) text.Append(comma);
                if (indent is { } spaces) text.Append('\n').Append(' ', spaces * (level + 1));
                items[i]();
            }
            if (items.Length > 0 && indent is { } outer) text.Append('\n').Append(' ', outer * level);
            text.Append(close);
        }
    }
}

/// <summary>The tests behind 'is'.</summary>
internal static class Tests
{
    private static readonly Dictionary<string, Test> All = new(StringComparer.Ordinal)
    {
        ["defined"] = (v, _) => v is not Undefined,
        ["undefined"] = (v, _) => v is Undefined,
        ["none"] = (v, _) => v is null,
        ["string"] = (v, _) => v is string,
        ["mapping"] = (v, _) => v is Dictionary<string, object?>,
        ["iterable"] = (v, _) => v is string or List<object?> or Dictionary<string, object?> or Undefined,
        ["sequence"] = (v, _) => v is string or List<object?> or Dictionary<string, object?> or Undefined,
        ["number"] = (v, _) => v is long or double or bool,
        ["integer"] = (v, _) => v is long,
        ["float"] = (v, _) => v is double,
        ["boolean"] = (v, _) => v is bool,
        ["true"] = (v, _) => v is true,
        ["false"] = (v, _) => v is false,
        ["callable"] = (v, _) => v is Callable,
        ["odd"] = (v, _) => v is long n && n % 2 != 0,
        ["even"] = (v, _) => v is long n && n % 2 == 0,
        ["lower"] = (v, _) => v is string s && !s.Any(char.IsUpper),
        ["upper"] = (v, _) => v is string s && !s.Any(char.IsLower),
        ["divisibleby"] = (v, o) => v is long n && o is [long by, ..] && n % by == 0,
        ["in"] = (v, o) => Values.Contains(o[0], v),
        ["eq"] = Equal,
        ["equalto"] = Equal,
        ["=="] = Equal,
        ["ne"] = (v, o) => !Equal(v, o),
        ["gt"] = (v, o) => Values.Order(v, o[0]) > 0,
        ["lt"] = (v, o) => Values.Order(v, o[0]) < 0,
        ["ge"] = (v, o) => Values.Order(v, o[0]) >= 0,
        ["le"] = (v, o) => Values.Order(v, o[0]) <= 0,
    };

    public static Test Find(string name, int line) => All.TryGetValue(name, out var test) ? test
        : throw new JinjaError($"the test 'is {name}' is not known here.{Nearest.Hint(name, All.Keys)}", line);

    private static bool Equal(object? value, object?[] operands) => Values.AreEqual(value, operands[0]);
}

/// <summary>The functions that templates find: Jinja's, and those that transformers adds.</summary>
internal static class Globals
{
    private const int LongestRange = 1_000_000;

    public static IReadOnlyDictionary<string, object?> All { get; } = new Dictionary<string, object?>(StringComparer.Ordinal)
    {
        ["namespace"] = (Callable)((p, named) => new Namespace(p is [Dictionary<string, object?> first, ..]
            ? new Dictionary<string, object?>(first.Concat(named), StringComparer.Ordinal) : new Dictionary<string, object?>(named, StringComparer.Ordinal))),
        ["dict"] = (Callable)((_, named) => new Dictionary<string, object?>(named, StringComparer.Ordinal)),
        ["range"] = (Callable)((p, _) => Range(p)),
        ["raise_exception"] = (Callable)((p, _) => throw JinjaError.Without($"the chat template refuses the conversation: {Values.Text(p.FirstOrDefault())}")),
        ["strftime_now"] = (Callable)((p, _) => Time(Values.Text(p.FirstOrDefault()), DateTime.Now)),
    };

    private static List<object?> Range(object?[] given)
    {
        if (given.Any(g => g is not long)) throw JinjaError.Without("range takes whole numbers");
        var numbers = given.Cast<long>().ToArray();
        var (from, to, step) = numbers.Length switch
        {
            1 => (0, numbers[0], 1),
            2 => (numbers[0], numbers[1], 1),
            3 => (numbers[0], numbers[1], numbers[2]),
            _ => throw JinjaError.Without("range takes one to three numbers"),
        };
        if (step == 0 || Math.Abs((to - from) / step) > LongestRange) throw JinjaError.Without($"range({string.Join(", ", numbers)}) is too long");
        List<object?> all = [];
        for (var i = from; step > 0 ? i < to : i > to; i += step) all.Add(i);
        return all;
    }

    private static string Time(string format, DateTime now)
    {
        var text = new StringBuilder();
        for (var i = 0; i < format.Length; i++)
        {
            if (format[i] != '%' || i + 1 == format.Length)
            {
                text.Append(format[i]);
                continue;
            }
            text.Append(format[++i] switch
            {
                'Y' => now.ToString("yyyy", CultureInfo.InvariantCulture),
                'm' => now.ToString("MM", CultureInfo.InvariantCulture),
                'd' => now.ToString("dd", CultureInfo.InvariantCulture),
                'H' => now.ToString("HH", CultureInfo.InvariantCulture),
                'M' => now.ToString("mm", CultureInfo.InvariantCulture),
                'S' => now.ToString("ss", CultureInfo.InvariantCulture),
                'b' => now.ToString("MMM", CultureInfo.InvariantCulture),
                'B' => now.ToString("MMMM", CultureInfo.InvariantCulture),
                'a' => now.ToString("ddd", CultureInfo.InvariantCulture),
                'A' => now.ToString("dddd", CultureInfo.InvariantCulture),
                '%' => "%",
                var other => throw JinjaError.Without($"strftime_now knows no %{other}"),
            });
        }
        return text.ToString();
    }
}
