using static KtNotebooks.Generation.Grammars.Rule;

namespace KtNotebooks.Generation.Grammars;

/// <summary>
/// The pieces that JSON is made of (RFC 8259), in the spelling that models know best: no white space but one blank after `,` and `:` where they like. Strings
/// are whole UTF-8, escapes are whole characters, numbers fit a double, and values of no schema stand at most so deep in each other as parsers take.
/// </summary>
internal static class JsonRules
{
    private const int Deepest = 12;

    public static readonly Rule Null = Literal("null");
    public static readonly Rule Boolean = Any(Literal("true"), Literal("false"));
    public static readonly Rule Integer = Of(Maybe(Literal("-")), Natural());
    public static readonly Rule Number = Of(Maybe(Literal("-")), Natural(), Maybe(Of(Literal("."), new Repeat(Digit('0', '9'), 1, 16))),
        Maybe(Of(Literal("e"), Maybe(Any(Literal("+"), Literal("-"))), new Repeat(Digit('0', '9'), 1, 2))));

    public static readonly Rule Comma = Of(Literal(","), Maybe(Literal(" ")));
    public static readonly Rule Colon = Of(Literal(":"), Maybe(Literal(" ")));
    private static readonly Rule Continuation = new Rule.Byte(0x80, 0xBF);
    private static readonly Rule Hex = new Rule.Byte(('0', '9'), ('a', 'f'), ('A', 'F'));

    /// <summary>A character inside a string.</summary>
    public static readonly Rule Character = Any(
        new Rule.Byte((0x20, 0x21), (0x23, 0x5B), (0x5D, 0x7E)),
        Of(new Rule.Byte(0xC2, 0xDF), Continuation),
        Of(Literal("\\"), Any(new Rule.Byte([.. "\"\\/bfnrt".Select(c => ((int)c, (int)c))]), Of(Literal("u"), Unit()))),
        Of(new Rule.Byte(0xE0, 0xE0), new Rule.Byte(0xA0, 0xBF), Continuation),
        Of(new Rule.Byte((0xE1, 0xEC), (0xEE, 0xEF)), Continuation, Continuation),
        Of(new Rule.Byte(0xED, 0xED), new Rule.Byte(0x80, 0x9F), Continuation),
        Of(new Rule.Byte(0xF0, 0xF0), new Rule.Byte(0x90, 0xBF), Continuation, Continuation),
        Of(new Rule.Byte(0xF1, 0xF3), Continuation, Continuation, Continuation),
        Of(new Rule.Byte(0xF4, 0xF4), new Rule.Byte(0x80, 0x8F), Continuation, Continuation));

    public static readonly Rule AnyString = Text(0, int.MaxValue);

    /// <summary>Any value.</summary>
    public static readonly Rule Value = ValueOf(Deepest);

    /// <summary>Any object.</summary>
    public static readonly Rule AnyObject = Object(AnyString, ValueOf(Deepest - 1), 0, int.MaxValue);

    /// <summary>A string of so many characters.</summary>
    public static Rule Text(int least, int most) => Of(Literal("\""), new Repeat(Character, least, most), Literal("\""));

    /// <summary>An object of so many members.</summary>
    /// <param name="name">A string.</param>
    public static Rule Object(Rule name, Rule value, int least, int most) => Between("{", Of(name, Colon, value), "}", least, most);

    /// <summary>A list of so many elements.</summary>
    /// <param name="first">Of its first elements, no more than <paramref name="most"/>.</param>
    /// <param name="rest">Of the others.</param>
    public static Rule Array(Rule[] first, Rule rest, int least, int most)
    {
        if (first.Length == 0) return Between("[", rest, "]", least, most);
        // From behind: what may follow element i.
        var after = most == first.Length ? Of()
            : new Repeat(Of(Comma, rest), Math.Max(0, least - first.Length), most == int.MaxValue ? most : most - first.Length);
        for (var i = first.Length - 1; i > 0; i--)
        {
            var with = Of(Comma, first[i], after);
            after = i >= least ? Any(with, Of()) : with;
        }
        var some = Of(first[0], after);
        return Of(Literal("["), least > 0 ? some : Maybe(some), Literal("]"));
    }

    public static Rule Digit(char from, char to) => new Rule.Byte((byte)from, (byte)to);

    private static Rule Between(string open, Rule item, string close, int least, int most)
    {
        if (most == 0) return Literal(open + close);
        var some = Of(item, new Repeat(Of(Comma, item), Math.Max(0, least - 1), most == int.MaxValue ? most : most - 1));
        return Of(Literal(open), least > 0 ? some : Maybe(some), Literal(close));
    }

    private static Rule ValueOf(int depth)
    {
        Rule[] plain = [AnyString, Number, Boolean, Null];
        if (depth == 0) return Any(plain);
        return Any([.. plain, Object(AnyString, ValueOf(depth - 1), 0, int.MaxValue), Array([], ValueOf(depth - 1), 0, int.MaxValue)]);
    }

    private static Rule Natural() => Any(Literal("0"), Of(Digit('1', '9'), new Repeat(Digit('0', '9'), 0, 14)));

    /// <summary>The four digits of \u, but for halves of pairs.</summary>
    private static Rule Unit() => Any(
        Of(new Rule.Byte(('0', '9'), ('a', 'c'), ('e', 'f'), ('A', 'C'), ('E', 'F')),
            Hex, Hex, Hex),
        Of(new Rule.Byte(('d', 'd'), ('D', 'D')), Digit('0', '7'), Hex, Hex));
}
