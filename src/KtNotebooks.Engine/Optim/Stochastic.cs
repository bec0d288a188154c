using KtNotebooks.Ops;
using KtNotebooks.Tensors;

namespace KtNotebooks.Optim;

/// <summary>
/// Rounding to BF16 by chance: up with the probability by which a value lies above the lower of its two neighbours (Gupta et al. 2015), so that steps smaller
/// than half a BF16 step, which is 1/256 of a weight, are not lost but come about as often as their size says. Chance is a hash of the weight, its place and
/// the step: a run that goes on has the same bits, and a card has those of the CPU.
/// </summary>
internal static class Stochastic
{
    /// <summary>The same in CUDA; bits: the hash of a place.</summary>
    public const string CudaSource = """
        __device__ __forceinline__ unsigned int chance(unsigned int key, long long at)
        {
            unsigned int x = key ^ (unsigned int)at ^ ((unsigned int)(at >> 32) * 0x9E3779B9u);
            x ^= x >> 16; x *= 0x7FEB352Du; x ^= x >> 15; x *= 0x846CA68Bu; x ^= x >> 16;
            return x;
        }

        __device__ __forceinline__ bf16 by_chance(float v, unsigned int random)
        {
            unsigned int bits = __float_as_uint(v);
            bf16 r;
            r.bits = (unsigned short)((bits & 0x7F800000u) == 0x7F800000u ? (bits >> 16) | ((bits & 0xFFFFu) ? 0x40u : 0u) : (bits + (random & 0xFFFFu)) >> 16);
            return r;
        }
        """;

    /// <summary>Of a parameter in a step.</summary>
    public static uint Key(string name, int step)
    {
        var mixed = DropoutMask.Mix(NormalRandom.HashOf(name) ^ (ulong)step);
        return (uint)(mixed ^ (mixed >> 32));
    }

    /// <summary>values [n], elements at … at + n of their tensor, to BF16.</summary>
    public static void Narrow(ReadOnlySpan<float> values, Span<ushort> target, uint key, long at)
    {
        for (var i = 0; i < values.Length; i++) target[i] = Round(values[i], Chance(key, at + i));
    }

    public static ushort Round(float value, uint random)
    {
        var bits = BitConverter.SingleToUInt32Bits(value);
        return (ushort)((bits & 0x7F800000u) == 0x7F800000u ? (bits >> 16) | ((bits & 0xFFFFu) != 0 ? 0x40u : 0u) : (bits + (random & 0xFFFFu)) >> 16);
    }

    /// <summary>32 bits of chance (lowbias32, Wellons 2018).</summary>
    public static uint Chance(uint key, long at)
    {
        var x = key ^ (uint)at ^ ((uint)(at >> 32) * 0x9E3779B9u);
        x ^= x >> 16;
        x *= 0x7FEB352Du;
        x ^= x >> 15;
        x *= 0x846CA68Bu;
        return x ^ (x >> 16);
    }
}
