
namespace KtNotebooks.Tokenizers;

/// <summary>Takes the pieces of a text one after another, in order.</summary>
internal abstract class PieceSink
{
    /// <summary>One piece: the UTF-16 units from <paramref name="start"/> to before <paramref name="end"/> of <paramref name="text"/>; never empty.</summary>
    public abstract void Add(string text, int start, int end);
}

/// <summary>
/// Cuts text into the pieces that the model may not merge across. Pre-tokenizers form a pipe of sinks: each piece flows through all stages before
/// the next is cut, so no list of pieces is ever built.
/// </summary>
internal abstract class PreTokenizer
{
    /// <summary>A sink that cuts what it gets and hands the pieces to <paramref name="next"/>. Sinks hold buffers: one pipe for each thread.</summary>
    public abstract PieceSink Connect(PieceSink next);
}

/// <summary>What becomes of a match and of its neighbours.</summary>
internal enum SplitBehavior
{
    Isolated,
    Removed,
    MergedWithPrevious,
    MergedWithNext,
    Contiguous,
}

/// <summary>Cuts at the matches of a pattern. With <paramref name="invert"/> the text between the matches counts as the matches.</summary>
internal sealed class Split(Pattern pattern, SplitBehavior behavior, bool invert) : PreTokenizer
{
    public override PieceSink Connect(PieceSink next) => new Sink(pattern, behavior, invert, next);

    private sealed class Sink(Pattern pattern, SplitBehavior behavior, bool invert, PieceSink next) : PieceSink
    {
        private int _start = -1; // of the piece that is being gathered
        private int _end;
        private bool _lastMatched;

        public override void Add(string text, int start, int end)
        {
            var span = text.AsSpan(start, end - start);
            _start = -1;
            _lastMatched = false;
            var steps = Pattern.StepsFor(span.Length);
            for (var at = 0; at < span.Length;)
            {
                var found = pattern.Find(span, at, ref steps, out var from, out var to);
                if (from > at)
                    Take(text, start + at, start + from, invert);
                if (found)
                    Take(text, start + from, start + to, !invert);
                at = to;
            }
            Flush(text);
        }

        private void Take(string text, int from, int to, bool matched)
        {
            var joins = behavior switch
            {
                SplitBehavior.MergedWithPrevious => matched && !_lastMatched,
                SplitBehavior.MergedWithNext => _lastMatched && !matched,
                SplitBehavior.Contiguous => matched == _lastMatched,
                _ => false,
            };
            if (!joins)
                Flush(text);
            if (matched && behavior == SplitBehavior.Removed)
                return;
            if (_start < 0)
                _start = from;
            _end = to;
            _lastMatched = matched;
        }

        private void Flush(string text)
        {
            if (_start >= 0)
                next.Add(text, _start, _end);
            _start = -1;
        }
    }
}

/// <summary>
/// Puts a space before each piece when asked, and cuts by GPT-2's pattern when asked. That bytes become visible characters, its other half, is
/// done by the model, which works on bytes.
/// </summary>
internal sealed class ByteLevelPreTokenizer(bool addPrefixSpace, bool useRegex) : PreTokenizer
{
    private const string Gpt2 = @"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

    private readonly Split? _split = useRegex ? new Split(Pattern.Parse(Gpt2), SplitBehavior.Isolated, invert: false) : null;

    public override PieceSink Connect(PieceSink next)
    {
        var sink = _split?.Connect(next) ?? next;
        return addPrefixSpace ? new PrefixSpace(sink) : sink;
    }

    private sealed class PrefixSpace(PieceSink next) : PieceSink
    {
        public override void Add(string text, int start, int end)
        {
            if (text[start] == ' ')
                next.Add(text, start, end);
            else
                next.Add(string.Concat(" ", text.AsSpan(start, end - start)), 0, end - start + 1);
        }
    }
}

/// <summary>One after another.</summary>
internal sealed class PreTokenizerSequence(PreTokenizer[] stages) : PreTokenizer
{
    public override PieceSink Connect(PieceSink next)
    {
        for (var i = stages.Length - 1; i >= 0; i--)
            next = stages[i].Connect(next);
        return next;
    }
}
