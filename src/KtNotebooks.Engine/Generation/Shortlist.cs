namespace KtNotebooks.Generation;

/// <summary>
/// The likeliest tokens of one row of logits, from the most likely on, equal ones by their number: what a card sends of a row
/// (<see cref="ShortlistKernels"/>), and enough for a greedy draw or a top-k of fewer.
/// </summary>
/// <param name="keys">Of Shortlist.cu: logit above token.</param>
/// <param name="vocabulary">Tokens that there are; where they are fewer than keys, the rest of them is empty.</param>
internal readonly ref struct Shortlist(ReadOnlySpan<ulong> keys, int vocabulary)
{
    /// <summary>LLaMA-Factory's top_k, 50, and some that a penalty may lower.</summary>
    public const int Length = 64;

    private const uint Sign = 0x80000000;

    private readonly ReadOnlySpan<ulong> _keys = keys[..Math.Min(keys.Length, vocabulary)];

    public int Count => _keys.Length;

    /// <summary>No logit of the row is NaN.</summary>
    public bool IsNumber => Count == 0 || !float.IsNaN(Logit(0));

    public int Id(int place) => (int)~(uint)_keys[place];

    public float Logit(int place)
    {
        var order = (uint)(_keys[place] >> 32);
        return BitConverter.UInt32BitsToSingle((order & Sign) != 0 ? order ^ Sign : ~order);
    }

    public void CopyTo(Span<float> logits, Span<int> ids)
    {
        for (var i = 0; i < Count; i++) (logits[i], ids[i]) = (Logit(i), Id(i));
    }
}
