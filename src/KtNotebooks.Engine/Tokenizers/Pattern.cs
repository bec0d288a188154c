namespace KtNotebooks.Tokenizers;

/// <summary>
/// A regular expression of a pre-tokenizer, matched on code points with the leftmost, first-alternative meaning that Oniguruma gives to
/// the patterns in tokenizer.json files. Loops over one class run in a tight loop and give back from the end, so the usual patterns cost time
/// linear in the text even for a megabyte of one letter. Not supported, and refused by name: captures that are referred to, unbounded
/// loops over groups, look-behind of more than one character.
/// </summary>
internal sealed class Pattern
{
    private readonly Node _start;
    private readonly CodePointSet? _first;

    private Pattern(Node start, CodePointSet? first)
    {
        _start = start;
        _first = first;
    }

    /// <exception cref="NotSupportedException">The pattern has a construct that is not supported; the message names it.</exception>
    public static Pattern Parse(string regex)
    {
        var syntax = new PatternParser(regex).Parse();
        return new Pattern(syntax.Compile(new Accept()), syntax.First());
    }

    /// <summary>A pattern that matches exactly this text.</summary>
    public static Pattern Literal(string text)
    {
        Syntax syntax = new Syntax.Sequence([.. text.EnumerateRunes().Select(r => new Syntax.One(CodePointSet.Range(r.Value, r.Value)))]);
        return new Pattern(syntax.Compile(new Accept()), syntax.First());
    }

    /// <summary>Finds the leftmost non-empty match at or after <paramref name="from"/> (an index in UTF-16 units).</summary>
    public bool Find(ReadOnlySpan<char> text, int from, out int start, out int end)
    {
        for (var at = from; at < text.Length;)
        {
            var c = CodePointAt(text, at, out var length);
            if (_first is null || _first.Contains(c))
            {
                var stop = _start.Match(text, at);
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

    /// <summary>One step of the compiled pattern: matches at an index and goes on with what follows it. Returns the end, or -1.</summary>
    internal abstract class Node
    {
        public abstract int Match(ReadOnlySpan<char> text, int at);
    }

    internal sealed class Accept : Node
    {
        public override int Match(ReadOnlySpan<char> text, int at) => at;
    }

    internal sealed class One(CodePointSet set, Node next) : Node
    {
        public override int Match(ReadOnlySpan<char> text, int at) =>
            at < text.Length && set.Contains(CodePointAt(text, at, out var length)) ? next.Match(text, at + length) : -1;
    }

    internal sealed class Loop(CodePointSet set, int min, int max, Repetition kind, Node next) : Node
    {
        public override int Match(ReadOnlySpan<char> text, int at)
        {
            var count = 0;
            var end = at;
            if (kind == Repetition.Lazy)
            {
                for (; ; )
                {
                    var result = count >= min ? next.Match(text, end) : -1;
                    if (result >= 0 || count == max || !Step(text, ref end))
                        return result;
                    count++;
                }
            }
            while (count < max && Step(text, ref end))
                count++;
            if (kind == Repetition.Possessive)
                return count >= min ? next.Match(text, end) : -1;
            for (; count >= min; count--)
            {
                var result = next.Match(text, end);
                if (result >= 0)
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
        public override int Match(ReadOnlySpan<char> text, int at)
        {
            var c = at < text.Length ? CodePointAt(text, at, out _) : -1;
            foreach (var (first, start) in branches)
            {
                if (first is not null && (c < 0 || !first.Contains(c)))
                    continue;
                var end = start.Match(text, at);
                if (end >= 0)
                    return end;
            }
            return -1;
        }
    }

    /// <summary>Look-ahead: asks without moving.</summary>
    internal sealed class Ahead(Node inner, bool negative, Node next) : Node
    {
        public override int Match(ReadOnlySpan<char> text, int at) => inner.Match(text, at) >= 0 == negative ? -1 : next.Match(text, at);
    }

    /// <summary>Look-behind of one character.</summary>
    internal sealed class Behind(CodePointSet set, bool negative, Node next) : Node
    {
        public override int Match(ReadOnlySpan<char> text, int at)
        {
            var found = at > 0 && set.Contains(CodePointAt(text, Back(text, at), out _));
            return found == negative ? -1 : next.Match(text, at);
        }
    }

    /// <summary>The beginning or the end of the text, or of a line.</summary>
    internal sealed class Edge(bool atEnd, bool ofLine, Node next) : Node
    {
        public override int Match(ReadOnlySpan<char> text, int at)
        {
            var here = atEnd
                ? at == text.Length || (ofLine && text[at] == '\n')
                : at == 0 || (ofLine && text[at - 1] == '\n');
            return here ? next.Match(text, at) : -1;
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
