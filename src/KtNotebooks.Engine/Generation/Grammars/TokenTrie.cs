using KtNotebooks.Tokenizers;

namespace KtNotebooks.Generation.Grammars;

/// <summary>Tokens that may come in a state, a bit each.</summary>
/// <param name="Bits">By id.</param>
/// <param name="Worst">The most bytes that any of them leaves to the end.</param>
internal sealed record TokenSet(uint[] Bits, int Worst)
{
    public bool Has(int id) => (Bits[id >> 5] >> (id & 31) & 1) != 0;
}

/// <summary>
/// The bytes of all tokens but the special ones as a tree in one array, in the order of a walk: where a byte does not fit, all that begins with it is
/// skipped at once.
/// </summary>
internal sealed class TokenTrie
{
    private readonly int _vocabulary;
    private readonly byte[] _bytes;
    private readonly int[] _depths;
    private readonly int[] _ends; // where the tree below a node ends
    private readonly int[] _tokens; // of the text up to a node; −1: none
    private readonly int _deepest;

    public TokenTrie(Tokenizer tokenizer)
    {
        _vocabulary = tokenizer.VocabSize;
        List<(byte[] Bytes, int Id)> tokens = [];
        for (var id = 0; id < _vocabulary; id++)
            if (!tokenizer.IsSpecial(id) && BytesOf(tokenizer, id) is { Length: > 0 } bytes) tokens.Add((bytes, id));
        tokens.Sort((a, b) => a.Bytes.AsSpan().SequenceCompareTo(b.Bytes));
        List<byte> labels = [];
        List<int> depths = [], ids = [];
        byte[] before = [];
        foreach (var (bytes, id) in tokens)
        {
            var shared = before.AsSpan().CommonPrefixLength(bytes);
            if (shared == bytes.Length) continue; // another token of the same bytes: the first is enough
            for (var d = shared; d < bytes.Length; d++)
            {
                labels.Add(bytes[d]);
                depths.Add(d);
                ids.Add(d == bytes.Length - 1 ? id : -1);
            }
            (before, _deepest) = (bytes, Math.Max(_deepest, bytes.Length));
        }
        (_bytes, _depths, _tokens) = ([.. labels], [.. depths], [.. ids]);
        _ends = new int[_bytes.Length];
        var open = new Stack<int>();
        for (var i = 0; i <= _bytes.Length; i++)
        {
            while (open.TryPeek(out var node) && (i == _bytes.Length || _depths[node] >= _depths[i])) _ends[open.Pop()] = i;
            if (i < _bytes.Length) open.Push(i);
        }
    }

    /// <summary>The tokens that may come in a state; kept there.</summary>
    public TokenSet Of(Grammar.State state) => state.Tokens ??= Find(state, Rule.Endless);

    /// <summary>Those of them that leave at most so many bytes to the end.</summary>
    public TokenSet Find(Grammar.State state, int mostLeft)
    {
        var bits = new uint[(_vocabulary + 31) / 32];
        var path = new Grammar.State[_deepest + 1];
        path[0] = state;
        var worst = 0;
        for (var i = 0; i < _bytes.Length;)
        {
            var next = path[_depths[i]].Step(_bytes[i]);
            if (next == Grammar.State.Dead)
            {
                i = _ends[i];
                continue;
            }
            path[_depths[i] + 1] = next;
            if (_tokens[i] is >= 0 and var id && next.Least <= mostLeft)
            {
                bits[id >> 5] |= 1u << (id & 31);
                worst = Math.Max(worst, next.Least);
            }
            i++;
        }
        return new TokenSet(bits, worst);
    }

    private static byte[] BytesOf(Tokenizer tokenizer, int id)
    {
        try
        {
            return tokenizer.Bytes(id).ToArray();
        }
        catch (ArgumentOutOfRangeException)
        {
            return []; // a gap in the vocabulary
        }
    }
}
