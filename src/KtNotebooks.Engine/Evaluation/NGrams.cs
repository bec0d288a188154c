using System.Runtime.InteropServices;

namespace KtNotebooks.Evaluation;

/// <summary>
/// n-grams of a sequence of symbols (characters by code point, words by number in <see cref="Vocabulary"/>), counted by ranks: grams of order n are pairs
/// (rank of the first n − 1 symbols, last symbol), so an n-gram is one 64-bit key whatever n, without hashing strings again.
/// </summary>
internal sealed class NGrams
{
    private readonly Dictionary<ulong, int> _ranks = [];
    private readonly Dictionary<int, (int Hypothesis, int Reference)> _counts = [];

    /// <summary>
    /// For orders 1 … highest: how many grams hypothesis and reference have, as multisets and as sets, and how many they share (each at most as often as
    /// the other has it).
    /// </summary>
    public static Overlap[] Count(ReadOnlySpan<int> hypothesis, ReadOnlySpan<int> reference, int highest)
    {
        var grams = new NGrams();
        var overlaps = new Overlap[highest];
        int[] h = hypothesis.ToArray(), r = reference.ToArray();
        for (var n = 1; n <= highest; n++)
        {
            // Before this order h[i] ranks the (n − 1)-gram that begins at i; now it becomes the rank of the n-gram.
            grams._ranks.Clear();
            grams._counts.Clear();
            h = grams.Extend(h, hypothesis, n, ofHypothesis: true);
            r = grams.Extend(r, reference, n, ofHypothesis: false);
            overlaps[n - 1] = grams.Sum(h.Length, r.Length);
        }
        return overlaps;
    }

    private int[] Extend(int[] ranks, ReadOnlySpan<int> symbols, int n, bool ofHypothesis)
    {
        var grams = new int[Math.Max(0, symbols.Length - n + 1)];
        for (var i = 0; i < grams.Length; i++)
        {
            var key = ((ulong)(uint)(n == 1 ? 0 : ranks[i]) << 32) | (uint)symbols[i + n - 1];
            ref var rank = ref CollectionsMarshal.GetValueRefOrAddDefault(_ranks, key, out var known);
            if (!known) rank = _ranks.Count;
            grams[i] = rank;
            ref var count = ref CollectionsMarshal.GetValueRefOrAddDefault(_counts, rank, out _);
            if (ofHypothesis) count.Hypothesis++;
            else count.Reference++;
        }
        return grams;
    }

    private Overlap Sum(int hypothesis, int reference)
    {
        var (shared, inHypothesis, inReference, inBoth) = (0, 0, 0, 0);
        foreach (var (h, r) in _counts.Values)
        {
            shared += Math.Min(h, r);
            if (h > 0) inHypothesis++;
            if (r > 0) inReference++;
            if (h > 0 && r > 0) inBoth++;
        }
        return new Overlap(hypothesis, reference, shared, inHypothesis, inReference, inBoth);
    }
}

/// <summary>Grams of one order.</summary>
/// <param name="Hypothesis">How many the hypothesis has.</param>
/// <param name="Reference">How many the reference has.</param>
/// <param name="Shared">Clipped matches: Σ min(count here, count there).</param>
/// <param name="DistinctHypothesis">Different ones in the hypothesis.</param>
/// <param name="DistinctReference">Different ones in the reference.</param>
/// <param name="DistinctShared">Different ones in both.</param>
internal readonly record struct Overlap(int Hypothesis, int Reference, int Shared, int DistinctHypothesis, int DistinctReference, int DistinctShared);

/// <summary>Numbers for words, in the order in which they are first seen.</summary>
internal sealed class Vocabulary
{
    private readonly Dictionary<string, int> _numbers = new(StringComparer.Ordinal);
    private readonly Dictionary<string, int>.AlternateLookup<ReadOnlySpan<char>> _lookup;

    public Vocabulary() => _lookup = _numbers.GetAlternateLookup<ReadOnlySpan<char>>();

    public int NumberOf(ReadOnlySpan<char> word)
    {
        if (_lookup.TryGetValue(word, out var number)) return number;
        number = _numbers.Count;
        _lookup[word] = number;
        return number;
    }
}
