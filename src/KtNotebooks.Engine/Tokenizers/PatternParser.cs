using System.Globalization;
using System.Text;

namespace KtNotebooks.Tokenizers;

/// <summary>
/// Reads the regular-expression dialect of tokenizer.json files (Oniguruma's): classes with ranges, nesting and &amp;&amp;, \p{…} categories,
/// greedy, lazy and possessive loops, alternatives, groups, (?i:…), look-ahead and one-character look-behind. Its length and the depth of its brackets are
/// limited.
/// </summary>
internal sealed class PatternParser(string regex)
{
    /// <summary>The deepest brackets taken: the parser calls itself for each.</summary>
    private const int Deepest = 100;

    /// <summary>The most code points that (?i) is applied to, over the whole pattern.</summary>
    private const int MostCased = 3_000_000;

    /// <summary>The largest number in {m,n}.</summary>
    private const int MostRepeats = 1_000_000;

    private readonly int[] _text = regex.Length > Pattern.Longest
        ? throw new NotSupportedException($"The pattern '{Pattern.Short(regex)}' has {regex.Length:N0} characters; at most {Pattern.Longest:N0} are taken.")
        : [.. regex.EnumerateRunes().Select(r => r.Value)];
    private int _at;
    private int _depth;
    private int _cased;
    private bool _ignoreCase;

    private bool AtEnd => _at >= _text.Length;

    private int Peek => AtEnd ? -1 : _text[_at];

    public Syntax Parse()
    {
        var syntax = Alternatives();
        return AtEnd ? syntax : throw Unsupported("an unmatched ')'");
    }

    private Syntax Alternatives()
    {
        var branches = new List<Syntax> { Sequence() };
        while (Accept('|'))
            branches.Add(Sequence());
        return branches.Count == 1 ? branches[0] : new Syntax.Choice([.. branches]);
    }

    private Syntax.Sequence Sequence()
    {
        var items = new List<Syntax>();
        while (!AtEnd && Peek != '|' && Peek != ')')
            items.Add(Quantified(Atom()));
        return new Syntax.Sequence([.. items]);
    }

    private Syntax Quantified(Syntax atom)
    {
        for (; ; )
        {
            int min, max;
            var braces = false;
            if (Accept('*'))
                (min, max) = (0, int.MaxValue);
            else if (Accept('+'))
                (min, max) = (1, int.MaxValue);
            else if (Accept('?'))
                (min, max) = (0, 1);
            else if (Bounds(out min, out max))
                braces = true;
            else
                return atom;
            // {m,n}+ is a loop over a loop in this dialect, not a possessive one.
            var kind = Accept('?') ? Repetition.Lazy : !braces && Accept('+') ? Repetition.Possessive : Repetition.Greedy;
            atom = new Syntax.Repeat(atom, min, max, kind);
        }
    }

    private bool Bounds(out int min, out int max)
    {
        (min, max) = (0, 0);
        var back = _at;
        if (Accept('{'))
        {
            var low = Number();
            var comma = Accept(',');
            var high = comma ? Number() : low;
            if (Accept('}') && (low ?? high) is not null)
            {
                (min, max) = (low ?? 0, high ?? int.MaxValue);
                return min <= max ? true : throw Unsupported($"a repetition from {min} down to {max}");
            }
        }
        _at = back; // a lone { is a character
        return false;
    }

    private int? Number()
    {
        int? value = null;
        while (Peek is >= '0' and <= '9')
        {
            value = ((value ?? 0) * 10) + _text[_at++] - '0';
            if (value > MostRepeats)
                throw Unsupported($"more than {MostRepeats:N0} repetitions");
        }
        return value;
    }

    private Syntax Atom()
    {
        var c = _text[_at++];
        switch (c)
        {
            case '(':
                return Group();
            case '[':
                return new Syntax.One(Class());
            case '.':
                return new Syntax.One(~CodePointSet.Range('\n', '\n'));
            case '^':
                return new Syntax.Edge(AtEnd: false, OfLine: true);
            case '$':
                return new Syntax.Edge(AtEnd: true, OfLine: true);
            case '\\' when Peek is 'A' or 'z':
                return new Syntax.Edge(AtEnd: _text[_at++] == 'z', OfLine: false);
            case '\\':
                return new Syntax.One(Escape(out _));
            case '*' or '+' or '?':
                throw Unsupported($"'{(char)c}' with nothing to repeat");
            default:
                return new Syntax.One(Cased(CodePointSet.Range(c, c)));
        }
    }

    private Syntax Group()
    {
        Enter();
        var ignoreCase = _ignoreCase;
        Syntax group;
        if (!Accept('?') || Accept(':'))
        {
            group = Alternatives();
        }
        else if (Peek is '=' or '!')
        {
            var negative = _text[_at++] == '!';
            group = new Syntax.Ahead(Alternatives(), negative);
        }
        else if (Accept('<') && Peek is '=' or '!')
        {
            var negative = _text[_at++] == '!';
            group = Alternatives() is Syntax.Sequence([Syntax.One one])
                ? new Syntax.Behind(one.Set, negative)
                : throw Unsupported("look-behind of more than one character");
        }
        else if (Accept('i'))
        {
            _ignoreCase = true;
            // (?i) alone holds to the end of the enclosing group; (?i:…) for its own.
            if (Accept(')'))
            {
                var rest = Alternatives();
                _ignoreCase = ignoreCase;
                _depth--;
                return rest;
            }
            if (!Accept(':'))
                throw Unsupported("a group option other than i");
            group = Alternatives();
        }
        else
        {
            throw Unsupported("a group of an unknown kind");
        }
        _ignoreCase = ignoreCase;
        _depth--;
        return Accept(')') ? group : throw Unsupported("a '(' that is not closed");
    }

    private void Enter()
    {
        if (++_depth > Deepest)
            throw Unsupported($"brackets more than {Deepest} deep in each other");
    }

    private CodePointSet Class()
    {
        Enter();
        var negative = Accept('^');
        var set = CodePointSet.Empty;
        CodePointSet? left = null;
        for (var first = true; ; first = false)
        {
            if (AtEnd)
                throw Unsupported("a '[' that is not closed");
            if (Peek == ']' && !first)
            {
                _at++;
                break;
            }
            if (Peek == '&' && _at + 1 < _text.Length && _text[_at + 1] == '&')
            {
                _at += 2;
                left = left is null ? set : left & set;
                set = CodePointSet.Empty;
                continue;
            }
            set |= ClassItem();
        }
        if (left is not null)
            set = left & set;
        _depth--;
        return negative ? ~set : set;
    }

    private CodePointSet ClassItem()
    {
        if (Accept('['))
            return Peek == ':' ? throw Unsupported("a POSIX class such as [:alpha:]") : Class();
        var item = Single(out var low);
        if (low is not int from || Peek != '-' || _at + 1 >= _text.Length || _text[_at + 1] == ']')
            return low is null ? item : Cased(item);
        _at++;
        Single(out var high);
        if (high is not int to || to < from)
            throw Unsupported("a range that does not go from a lower to a higher character");
        return Cased(CodePointSet.Range(from, to));
    }

    private CodePointSet Single(out int? codePoint)
    {
        var c = _text[_at++];
        if (c == '\\')
            return Escape(out codePoint);
        codePoint = c;
        return CodePointSet.Range(c, c);
    }

    /// <summary>What follows a backslash; <paramref name="codePoint"/> is set when it stands for one character.</summary>
    private CodePointSet Escape(out int? codePoint)
    {
        codePoint = null;
        if (AtEnd)
            throw Unsupported("a backslash at the end");
        var c = _text[_at++];
        switch (c)
        {
            case 'p' or 'P':
                var inner = Name();
                var negative = c == 'P' != inner.StartsWith('^');
                var set = UnicodeClass(inner.TrimStart('^'));
                return negative ? ~set : set;
            case 's':
                return UnicodeClass("Space");
            case 'S':
                return ~UnicodeClass("Space");
            case 'd':
                return UnicodeClass("Nd");
            case 'D':
                return ~UnicodeClass("Nd");
            case 'w':
                return UnicodeClass("Word");
            case 'W':
                return ~UnicodeClass("Word");
        }
        codePoint = c switch
        {
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'f' => '\f',
            'v' => '\v',
            'a' => '\a',
            'e' => 0x1B,
            '0' => 0,
            'x' => Accept('{') ? Hex(8, closing: true) : Hex(2),
            'u' => Hex(4),
            _ when c < 128 && char.IsAsciiLetterOrDigit((char)c) => throw Unsupported($"\\{(char)c}"),
            _ => c,
        };
        return CodePointSet.Range(codePoint.Value, codePoint.Value);
    }

    private int Hex(int digits, bool closing = false)
    {
        var start = _at;
        var value = 0;
        while (_at - start < digits && Peek is >= 0 and < 128 && char.IsAsciiHexDigit((char)Peek))
            value = (value << 4) + Convert.ToInt32(((char)_text[_at++]).ToString(), 16);
        if (_at == start || (closing && !Accept('}')))
            throw Unsupported("a hexadecimal escape without its digits");
        return value is >= 0 and <= 0x10FFFF ? value : throw Unsupported("a hexadecimal escape beyond U+10FFFF");
    }

    private string Name()
    {
        if (!Accept('{'))
            throw Unsupported("\\p without braces");
        var name = new StringBuilder();
        while (!AtEnd && Peek != '}')
            name.Append(new Rune(_text[_at++]));
        return Accept('}') ? name.ToString() : throw Unsupported("\\p{ that is not closed");
    }

    private CodePointSet UnicodeClass(string name) => name switch
    {
        "L" or "Letter" => Categories("Lu Ll Lt Lm Lo"),
        "M" or "Mark" => Categories("Mn Mc Me"),
        "N" or "Number" => Categories("Nd Nl No"),
        "P" or "Punct" or "Punctuation" => Categories("Pc Pd Ps Pe Pi Pf Po"),
        "S" or "Symbol" => Categories("Sm Sc Sk So"),
        "Z" or "Separator" => Categories("Zs Zl Zp"),
        "C" or "Other" => Categories("Cc Cf Cs Co Cn"),
        "Space" => Categories("Zs Zl Zp") | CodePointSet.Ranges('\t', '\r', 0x85, 0x85),
        "Word" => Categories("Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc"),
        "Han" or "Script=Han" => Han,
        _ when CategoryNames.IndexOf(name) is >= 0 and var i => CodePointSet.Of((UnicodeCategory)i),
        _ => throw Unsupported($"\\p{{{Pattern.Short(name)}}}"),
    };

    private static CodePointSet Categories(string names) =>
        names.Split(' ').Aggregate(CodePointSet.Empty, (set, name) => set | CodePointSet.Of((UnicodeCategory)CategoryNames.IndexOf(name)));

    /// <summary>The two-letter names, in the order of <see cref="UnicodeCategory"/>.</summary>
    private static readonly List<string> CategoryNames =
        [.. "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Zs Zl Zp Cc Cf Cs Co Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Cn".Split(' ')];

    private static readonly CodePointSet Han = CodePointSet.Ranges(
        0x2E80, 0x2E99, 0x2E9B, 0x2EF3, 0x2F00, 0x2FD5, 0x3005, 0x3005, 0x3007, 0x3007, 0x3021, 0x3029, 0x3038, 0x303B, 0x3400, 0x4DBF,
        0x4E00, 0x9FFF, 0xF900, 0xFA6D, 0xFA70, 0xFAD9, 0x16FE2, 0x16FE3, 0x16FF0, 0x16FF1, 0x20000, 0x2A6DF, 0x2A700, 0x2B739,
        0x2B740, 0x2B81D, 0x2B820, 0x2CEA1, 0x2CEB0, 0x2EBE0, 0x2EBF0, 0x2EE5D, 0x2F800, 0x2FA1D, 0x30000, 0x3134A, 0x31350, 0x323AF);

    private CodePointSet Cased(CodePointSet set)
    {
        if (!_ignoreCase)
            return set;
        return (_cased += set.Count) <= MostCased ? set.IgnoringCase() : throw Unsupported("(?i) over too many large classes");
    }

    private bool Accept(int c)
    {
        if (Peek != c)
            return false;
        _at++;
        return true;
    }

    private NotSupportedException Unsupported(string what) =>
        new($"The pattern '{Pattern.Short(regex)}' has {what} at character {_at}, which is not supported.");
}
