using System.Globalization;

using static KtNotebooks.Generation.Grammars.Rule;

namespace KtNotebooks.Generation.Grammars;

/// <summary>Numbers between two bounds, digit by digit.</summary>
internal static class NumberRules
{
    private const long Most = 999_999_999_999_999; // 15 digits: a double holds it

    /// <summary>Whole numbers from a to b.</summary>
    public static Rule Integers(long a, long b)
    {
        List<Rule> options = [];
        if (b >= 0 && Math.Max(a, 0) <= b) options.Add(Naturals(Math.Max(a, 0), b));
        if (a < 0 && Math.Max(-b, 1) <= -a) options.Add(Of(Literal("-"), Naturals(Math.Max(-b, 1), -a)));
        return new Choice(options);
    }

    /// <summary>Numbers from a to b, or between them: whole ones, and those with a fraction that does not end in 0.</summary>
    public static Rule Decimals(double? a, bool openA, double? b, bool openB)
    {
        List<Rule> options = [Integers(LeastInteger(a, openA), -LeastInteger(-b, openB))];
        // A fraction lies between its whole part and the next whole number, so it is inside where both are.
        var (low, high) = ((long)Math.Ceiling(Math.Max(a ?? -Most, -Most)), (long)Math.Floor(Math.Min(b ?? Most, Most)));
        if (high - 1 >= Math.Max(low, 0)) options.Add(Of(Naturals(Math.Max(low, 0), high - 1), Fraction()));
        if (-low - 1 >= Math.Max(-high, 0)) options.Add(Of(Literal("-"), Naturals(Math.Max(-high, 0), -low - 1), Fraction()));
        return new Choice(options);
    }

    /// <summary>The least whole number that a bound allows.</summary>
    public static long LeastInteger(double? bound, bool open)
    {
        if (bound is not { } at || at < -Most) return -Most;
        var least = Math.Ceiling(at);
        return (long)Math.Min(open && least == at ? least + 1 : least, Most + 1);
    }

    private static Rule Fraction() => Of(Literal("."), new Repeat(JsonRules.Digit('0', '9'), 0, 14), JsonRules.Digit('1', '9'));

    private static Choice Naturals(long a, long b)
    {
        List<Rule> options = [];
        for (var (low, first) = (a, true); low <= b; first = false)
        {
            var digits = Text(low).Length;
            var last = digits > 17 ? b : Math.Min(b, (long)Math.Pow(10, digits) - 1);
            options.Add(SameLength(Text(low), Text(last)));
            if (last == b) break;
            low = last + 1;
        }
        return new Choice(options);
    }

    private static string Text(long value) => value.ToString(CultureInfo.InvariantCulture);

    private static Rule SameLength(string a, string b)
    {
        if (a.Length == 0) return new Sequence([]);
        if (a[0] == b[0]) return Of(Literal(a[..1]), SameLength(a[1..], b[1..]));
        List<Rule> options = [Of(Literal(a[..1]), SameLength(a[1..], new string('9', a.Length - 1)))];
        if (b[0] - a[0] > 1)
            options.Add(Of(JsonRules.Digit((char)(a[0] + 1), (char)(b[0] - 1)), new Repeat(JsonRules.Digit('0', '9'), a.Length - 1, a.Length - 1)));
        options.Add(Of(Literal(b[..1]), SameLength(new string('0', a.Length - 1), b[1..])));
        return new Choice(options);
    }
}
