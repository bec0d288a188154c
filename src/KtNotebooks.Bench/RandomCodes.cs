using System.Runtime.InteropServices;

using KtNotebooks.Formats;
using KtNotebooks.Tensors;

namespace KtNotebooks.Bench;

/// <summary>
/// Stored numbers that look like a trained matrix's, at about a gigabyte a second a thread: random bits choose from tables of normal samples. A place's
/// bytes depend on the seed, the tensor's name and the piece alone.
/// </summary>
internal sealed class RandomCodes
{
    private readonly ulong _seed;
    private readonly ushort[] _bf16 = new ushort[1 << 16];
    private readonly byte[] _fp8 = new byte[1 << 8];
    private readonly byte[] _int4 = new byte[1 << 8];

    public RandomCodes(ulong seed, float deviation)
    {
        _seed = seed;
        var samples = new float[_bf16.Length];
        new NormalRandom(seed, "samples").Fill(samples, 1);
        Array.Sort(samples);
        for (var i = 0; i < samples.Length; i++) _bf16[i] = Bf16.FromFloat(samples[i] * deviation);
        float Quantile(int i, int of) => samples[((2 * i) + 1) * samples.Length / (2 * of)];
        for (var i = 0; i < 256; i++)
        {
            _fp8[i] = Fp8.FromFloat(Quantile(i, 256) * Fp8.Max / 3);
            int Nibble(int at) => Math.Clamp((int)MathF.Round(Quantile(at, 16) * 4), -8, 7) + 8;
            _int4[i] = (byte)(Nibble(i & 15) | (Nibble(i >> 4) << 4));
        }
        (Fp8Scale, Int4Scale) = (deviation * 3 / Fp8.Max, deviation / 4);
    }

    /// <summary>The scale with which FP8 codes have the wanted deviation.</summary>
    public float Fp8Scale { get; }

    public float Int4Scale { get; }

    /// <summary>Fills the bytes of a piece of a matrix stored as <paramref name="format"/>: BF16, FP8 or two of 4 bits.</summary>
    public void Fill(StorageFormat format, string name, long piece, Span<byte> target)
    {
        var random = new NormalRandom(_seed + (ulong)piece, name);
        if (format == StorageFormat.BF16)
        {
            var values = MemoryMarshal.Cast<byte, ushort>(target);
            for (var i = 0; i < values.Length; i += 4)
            {
                var bits = random.Next();
                for (var j = i; j < Math.Min(i + 4, values.Length); j++, bits >>= 16) values[j] = _bf16[bits & 0xFFFF];
            }
            return;
        }
        var table = format == StorageFormat.Fp8 ? _fp8 : _int4;
        for (var i = 0; i < target.Length; i += 8)
        {
            var bits = random.Next();
            for (var j = i; j < Math.Min(i + 8, target.Length); j++, bits >>= 8) target[j] = table[bits & 0xFF];
        }
    }
}
