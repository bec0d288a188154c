namespace KtNotebooks.Tokenizers;

/// <summary>
/// A regular expression of a pre-tokenizer, matched on code points with the leftmost, first-alternative meaning that Oniguruma gives to
/// the patterns in tokenizer.json files. Loops over one class run in a tight loop and give back from the end, so the usual patterns cost time
/// linear in the text even for a megabyte of one letter. Not supported, and refused by name: captures that are referred to, unbounded
/// loops over groups, look-behind of more than one character. Patterns come with downloaded models, so their size is limited, and so is the work on a text:
/// loops behind loops (`a*a*a*b`) else take a time that grows with a power of its length.
/// </summary>
internal sealed class Pattern
{
    /// <summary>The longest pattern taken, in characters; the longest known has 600.</summary>
    public const int Longest = 10_000;

    /// <summary>Steps of the compiled pattern: a step calls the next, so they are also frames of the stack.</summary>
    private const int MostNodes = 4_000;

    private readonly string _regex;
    private readonly Node _start;
    private readonly CodePointSet? _first;

    private Pattern(string regex, Node start, CodePointSet? first)
    {
        _regex = regex;
        _start = start;
        _first = first;
    }

    /// <exception cref="NotSupportedException">The pattern has a construct that is not supported; the message names it.</exception>
    public static Pattern Parse(string regex)
    {
        var syntax = new PatternParser(regex).Parse();
        if (syntax.Size > MostNodes)
            throw new NotSupportedException($"The pattern '{Short(regex)}' is too large: {syntax.Size} steps when written out, more than {MostNodes}.");
        return new Pattern(regex, syntax.Compile(new Accept()), syntax.First());
    }

    /// <summary>A pattern that matches exactly this text.</summary>
    public static Pattern Literal(string text)
    {
        if (text.Length > MostNodes)
            throw new NotSupportedException($"The text '{Short(text)}' of a pattern has {text.Length} characters; at most {MostNodes} are taken.");
        Syntax syntax = new Syntax.Sequence([.. text.EnumerateRunes().Select(r => new Syntax.One(CodePointSet.Range(r.Value, r.Value)))]);
        return new Pattern(text, syntax.Compile(new Accept()), syntax.First());
    }

    /// <summary>The steps that all searches in a text of this length may take together; usual patterns need about ten a character.</summary>
    public static long StepsFor(int length) => 1_000_000 + (200L * length);

    /// <summary>Finds the leftmost non-empty match at or after <paramref name="from"/> (an index in UTF-16 units).</summary>
    /// <param name="steps">What is left of <see cref="StepsFor"/>.</param>
    /// <exception cref="InvalidDataException">No step is left.</exception>
    public bool Find(ReadOnlySpan<char> text, int from, ref long steps, out int start, out int end)
    {
        for (var at = from; at < text.Length;)
        {
            var c = CodePointAt(text, at, out var length);
            if (_first is null || _first.Contains(c))
            {
                var stop = _start.Match(text, at, ref steps);
                if (steps < 0)
                {
                    throw new InvalidDataException($"the pattern '{Short(_regex)}' takes more than {StepsFor(text.Length):N0} steps "
                        + $"on a text of {text.Length:N0} characters; it has loops behind loops over the same characters.");
                }
                if (stop > at)
                {
                    (start, end) = (at, stop);
                    return true;
                }
            }
            at += length;
        }
        (start, end) = (text.Length, text.Length);
        return false;
    }

    /// <summary>The code point at an index; a surrogate without its partner is itself.</summary>
    internal static int CodePointAt(ReadOnlySpan<char> text, int at, out int length)
    {
        var c = text[at];
        if (char.IsHighSurrogate(c) && at + 1 < text.Length && char.IsLowSurrogate(text[at + 1]))
        {
            length = 2;
            return char.ConvertToUtf32(c, text[at + 1]);
        }
        length = 1;
        return c;
    }

    /// <summary>The index of the code point before <paramref name="at"/>.</summary>
    internal static int Back(ReadOnlySpan<char> text, int at) =>
        at >= 2 && char.IsLowSurrogate(text[at - 1]) && char.IsHighSurrogate(text[at - 2]) ? at - 2 : at - 1;

    /// <summary>A pattern as messages show it.</summary>
    internal static string Short(string regex) => regex.Length <= 80 ? regex : regex[..79] + "…";

    /// <summary>
    /// One step of the compiled pattern: matches at an index and goes on with what follows it. Returns the end, or -1; also -1, with no steps left, when the
    /// work has become too much.
    /// </summary>
    internal abstract class Node
    {
        public abstract int Match(ReadOnlySpan<char> text, int at, ref long steps);
    }

    internal sealed class Accept : Node
    {
        public override int Match(ReadOnlySpan<char> text, int at, ref long steps) => at;
    }

    internal sealed class One(CodePointSet set, Node next) : Node
    {
        public override int Match(ReadOnlySpan<char> text, int at, ref long steps) =>
            at < text.Length && set.Contains(CodePointAt(text, at, out var length)) ? next.Match(text, at + length, ref steps) : -1;
    }

    internal sealed class Loop(CodePointSet set, int min, int max, Repetition kind, Node next) : Node
    {
        public override int Match(ReadOnlySpan<char> text, int at, ref long steps)
        {
            var count = 0;
            var end = at;
            if (kind == Repetition.Lazy)
            {
                for (; ; )
                {
                    var result = count >= min ? next.Match(text, end, ref steps) : -1;
                    if (result >= 0 || --steps < 0 || count == max || !Step(text, ref end))
                        return result;
                    count++;
                }
            }
            while (count < max && Step(text, ref end))
                count++;
            steps -= count;
            if (kind == Repetition.Possessive)
                return count >= min ? next.Match(text, end, ref steps) : -1;
            for (; count >= min; count--)
            {
                var result = next.Match(text, end, ref steps);
                if (result >= 0 || --steps < 0)
                    return result;
                if (count > 0)
                    end = Back(text, end);
            }
            return -1;
        }

        private bool Step(ReadOnlySpan<char> text, ref int at)
        {
            if (at >= text.Length || !set.Contains(CodePointAt(text, at, out var length)))
                return false;
            at += length;
            return true;
        }
    }

    /// <summary>Ordered alternatives, each with the set of code points it can begin with (null: any, also none).</summary>
    internal sealed class Choice((CodePointSet? First, Node Start)[] branches) : Node
    {
        public override int Match(ReadOnlySpan<char> text, int at, ref long steps)
        {
            var c = at < text.Length ? CodePointAt(text, at, out _) : -1;
            foreach (var (first, start) in branches)
            {
                if (--steps < 0)
                    return -1;
                if (first is not null && (c < 0 || !first.Contains(c)))
                    continue;
                var end = start.Match(text, at, ref steps);
                if (end >= 0)
                    return end;
            }
            return -1;
        }
    }

    /// <summary>Look-ahead: asks without moving.</summary>
    internal sealed class Ahead(Node inner, bool negative, Node next) : Node
    {
        public override int Match(ReadOnlySpan<char> text, int at, ref long steps) => inner.Match(text, at, ref steps) >= 0 == negative ? -1
            : next.Match(text, at, ref steps);
    }

    /// <summary>Look-behind of one character.</summary>
    internal sealed class Behind(CodePointSet set, bool negative, Node next) : Node
    {
        public override int Match(ReadOnlySpan<char> text, int at, ref long steps)
        {
            var found = at > 0 && set.Contains(CodePointAt(text, Back(text, at), out _));
            return found == negative ? -1 : next.Match(text, at, ref steps);
        }
    }

    /// <summary>The beginning or the end of the text, or of a line.</summary>
    internal sealed class Edge(bool atEnd, bool ofLine, Node next) : Node
    {
        public override int Match(ReadOnlySpan<char> text, int at, ref long steps)
        {
            var here = atEnd
                ? at == text.Length || (ofLine && text[at] == '\n')
                : at == 0 || (ofLine && text[at - 1] == '\n');
            return here ? next.Match(text, at, ref steps) : -1;
        }
    }
}

/// <summary>How a loop behaves when what follows fails: gives back from the end, takes more, or holds on to all of it.</summary>
internal enum Repetition
{
    Greedy,
    Lazy,
    Possessive,
}
