using System.Text;

namespace KtNotebooks.Course.Synthetic;

/// <summary>
/// SplitMix64. The committed data sets are compared byte for byte with what the generator writes, so the numbers may not depend
/// on the runtime's own <see cref="Random"/>, whose algorithm is free to change.
/// </summary>
public sealed class SeededRandom(ulong seed)
{
    private ulong _state = seed;

    /// <summary>A generator whose sequence is fixed by a seed and a text: a row keeps its style when other rows come or go.</summary>
    public static SeededRandom For(ulong seed, string text) => new(seed ^ Hash(text));

    public ulong Next()
    {
        var z = _state += 0x9E3779B97F4A7C15;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
        return z ^ (z >> 31);
    }

    /// <summary>A number in [0, bound). The bias of the modulus is below 2⁻⁴⁰ for the bounds used here.</summary>
    public int Below(int bound)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(bound);
        return (int)(Next() % (ulong)bound);
    }

    /// <summary>True with probability <paramref name="percent"/> / 100.</summary>
    public bool Chance(int percent) => Below(100) < percent;

    public T Pick<T>(IReadOnlyList<T> items) => items[Below(items.Count)];

    /// <summary>The numbers 0 … count − 1 in random order (Fisher and Yates).</summary>
    public int[] Permutation(int count)
    {
        var order = new int[count];
        for (var i = 0; i < count; i++)
        {
            var j = Below(i + 1);
            order[i] = order[j];
            order[j] = i;
        }
        return order;
    }

    /// <summary>FNV-1a over UTF-8, finished by one SplitMix step so that also its low bits are good.</summary>
    public static ulong Hash(string text)
    {
        var hash = 0xCBF29CE484222325UL;
        foreach (var b in Encoding.UTF8.GetBytes(text))
            hash = (hash ^ b) * 0x100000001B3;
        return new SeededRandom(hash).Next();
    }
}
