using System.Numerics;

namespace KtNotebooks.Tensors;

/// <summary>
/// xoshiro256** (Blackman, Vigna 2018) seeded from a number and a name; uniform, and normal by Box–Muller. Ours and written out, so that the same seed
/// gives the same numbers everywhere.
/// </summary>
public sealed class NormalRandom
{
    private readonly ulong[] _s = new ulong[4];

    public NormalRandom(ulong seed, string name)
    {
        ArgumentNullException.ThrowIfNull(name);
        var z = seed ^ HashOf(name);
        for (var i = 0; i < 4; i++)
        {
            z += 0x9E3779B97F4A7C15;
            var x = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
            x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
            _s[i] = x ^ (x >> 31);
        }
    }

    /// <summary>FNV-1a of a name: a stable number for it.</summary>
    public static ulong HashOf(string name)
    {
        var hash = 14695981039346656037UL;
        foreach (var c in name) hash = (hash ^ c) * 1099511628211UL;
        return hash;
    }

    public ulong Next()
    {
        var result = BitOperations.RotateLeft(_s[1] * 5, 7) * 9;
        var t = _s[1] << 17;
        _s[2] ^= _s[0];
        _s[3] ^= _s[1];
        _s[1] ^= _s[2];
        _s[0] ^= _s[3];
        _s[2] ^= t;
        _s[3] = BitOperations.RotateLeft(_s[3], 45);
        return result;
    }

    /// <summary>Uniform in [0, 1), 53 bits.</summary>
    public double Uniform() => (Next() >> 11) * (1.0 / (1UL << 53));

    /// <summary>Normal with mean 0.</summary>
    public void Fill(Span<float> target, float deviation)
    {
        for (var i = 0; i < target.Length; i += 2)
        {
            var radius = Math.Sqrt(-2 * Math.Log(1 - Uniform())) * deviation;
            var angle = 2 * Math.PI * Uniform();
            target[i] = (float)(radius * Math.Cos(angle));
            if (i + 1 < target.Length) target[i + 1] = (float)(radius * Math.Sin(angle));
        }
    }
}
