using KtNotebooks.Tokenizers;

namespace KtNotebooks.Generation.Grammars;

/// <summary>
/// Lets only those tokens come that go on to a text of the grammar, and ends it in time: when few tokens are left, only those that still leave room for the
/// shortest end, so that the answer is whole unless even the shortest one is longer than that.
/// </summary>
/// <param name="grammar">Whose text it becomes.</param>
/// <param name="trie">Of the tokenizer.</param>
/// <param name="tokenizer">Whose ids are drawn.</param>
/// <param name="stops">The tokens that end an answer.</param>
/// <param name="room">Tokens that may be drawn, with the one that ends it.</param>
internal sealed class GrammarMask(Grammar grammar, TokenTrie trie, Tokenizer tokenizer, IReadOnlySet<int> stops, int room) : ITokenMask
{
    private Grammar.State _state = grammar.Start;
    private readonly int[] _stops = [.. stops];
    private readonly float[] _stopLogits = new float[stops.Count];
    private int _seen;

    public void Apply(Span<float> logits, IReadOnlyList<int> drawn)
    {
        for (; _seen < drawn.Count; _seen++)
            foreach (var b in tokenizer.Bytes(drawn[_seen])) _state = _state.Step(b);
        var ends = _state.Accepts;
        var tokens = _state.IsEnd ? null : trie.Of(_state);
        // A byte is a token at most. One token is kept for the end, if there is room even for that.
        var left = room - drawn.Count - 2;
        if (tokens is not null && tokens.Worst > left)
        {
            var few = trie.Find(_state, Math.Max(left, _state.Least - 1));
            if (few.Bits.AsSpan().ContainsAnyExcept(0u)) tokens = few;
            else if (ends) tokens = null;
        }
        for (var i = 0; i < _stops.Length; i++) _stopLogits[i] = _stops[i] < logits.Length ? logits[_stops[i]] : 0;
        Keep(logits, tokens is null ? [] : tokens.Bits);
        for (var i = 0; i < _stops.Length; i++)
            if (_stops[i] < logits.Length) logits[_stops[i]] = ends ? _stopLogits[i] : float.NegativeInfinity;
    }

    private static void Keep(Span<float> logits, ReadOnlySpan<uint> bits)
    {
        for (var from = 0; from < logits.Length; from += 32)
        {
            var some = logits.Slice(from, Math.Min(32, logits.Length - from));
            var word = from / 32 < bits.Length ? bits[from / 32] : 0;
            if (word == 0) some.Fill(float.NegativeInfinity);
            else
                for (var i = 0; i < some.Length; i++)
                    if ((word >> i & 1) == 0) some[i] = float.NegativeInfinity;
        }
    }
}
