using System.Numerics;

namespace KtNotebooks.Data;

/// <summary>
/// Random numbers that are the same on every machine and in every version of .NET: xoshiro256** (Blackman and Vigna), its state filled from
/// the seed by splitmix64. What a seed gives is part of the contract: resuming a run depends on it.
/// </summary>
public sealed class StableRandom
{
    private ulong _a, _b, _c, _d;

    public StableRandom(ulong seed)
    {
        _a = SplitMix(ref seed);
        _b = SplitMix(ref seed);
        _c = SplitMix(ref seed);
        _d = SplitMix(ref seed);
    }

    /// <summary>The next 64 random bits.</summary>
    public ulong NextBits()
    {
        var result = BitOperations.RotateLeft(_b * 5, 7) * 9;
        var t = _b << 17;
        _c ^= _a;
        _d ^= _b;
        _b ^= _c;
        _a ^= _d;
        _c ^= t;
        _d = BitOperations.RotateLeft(_d, 45);
        return result;
    }

    /// <summary>A number from 0 to below <paramref name="bound"/>, without bias (Lemire's method).</summary>
    public int Next(int bound)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(bound);
        var threshold = unchecked((ulong)-(long)bound) % (ulong)bound;
        for (; ; )
        {
            var high = Math.BigMul(NextBits(), (ulong)bound, out var low);
            if (low >= threshold)
                return (int)high;
        }
    }

    /// <summary>Shuffles in place (Fisher and Yates, from the end).</summary>
    public void Shuffle(Span<int> values)
    {
        for (var i = values.Length - 1; i > 0; i--)
        {
            var j = Next(i + 1);
            (values[i], values[j]) = (values[j], values[i]);
        }
    }

    private static ulong SplitMix(ref ulong state)
    {
        var z = state += 0x9E3779B97F4A7C15;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
        return z ^ (z >> 31);
    }
}

/// <summary>The order of the examples in an epoch.</summary>
public static class EpochOrder
{
    /// <summary>
    /// A permutation of 0 … n-1 that depends on seed, epoch and n alone. Each epoch has a generator of its own, so a resumed run finds the order of its epoch
    /// without replaying the earlier ones. It differs from the order that PyTorch makes of the same seed.
    /// </summary>
    public static int[] Of(int seed, int epoch, int n)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(n);
        int[] order = [.. Enumerable.Range(0, n)];
        new StableRandom(((ulong)(uint)seed << 32) | (uint)epoch).Shuffle(order);
        return order;
    }
}
