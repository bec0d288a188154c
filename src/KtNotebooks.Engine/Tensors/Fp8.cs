namespace KtNotebooks.Tensors;

/// <summary>
/// FP8 E4M3 (torch's float8_e4m3fn): a sign, 4 bits of exponent with bias 7, 3 of mantissa; no infinities, 0x7F and 0xFF are NaN, the largest value is 448,
/// the smallest above zero 2⁻⁹.
/// </summary>
public static class Fp8
{
    public const float Max = 448;

    private static readonly float[] Values = [.. Enumerable.Range(0, 256).Select(bits => Value((byte)bits))];

    /// <summary>The values of all 256 codes.</summary>
    public static ReadOnlySpan<float> Table => Values;

    public static float ToFloat(byte bits) => Values[bits];

    /// <summary>Rounds to nearest, ties to even; larger than <see cref="Max"/> becomes it, NaN stays NaN.</summary>
    public static byte FromFloat(float value)
    {
        if (float.IsNaN(value)) return 0x7F;
        var sign = float.IsNegative(value) ? 0x80 : 0;
        var size = Math.Abs(value);
        if (size >= Max) return (byte)(sign | 0x7E);
        // Below 2⁻⁶ all steps are 2⁻⁹, the last place of numbers near 2¹⁴: adding that rounds, and counting in steps carries into the exponent by itself.
        if (size < 1f / 64) return (byte)(sign | (int)(BitConverter.SingleToUInt32Bits(size + 16384) & 15));
        var bits = BitConverter.SingleToUInt32Bits(size);
        return (byte)(sign | (int)(((bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20) - (120 << 3)));
    }

    private static float Value(byte bits)
    {
        var (exponent, mantissa, sign) = ((bits >> 3) & 15, bits & 7, (bits & 0x80) == 0 ? 1f : -1f);
        // The payload that the vector kernels give too.
        if ((bits & 0x7F) == 0x7F) return BitConverter.UInt32BitsToSingle(0x7FF00000u | ((uint)(bits & 0x80) << 24));
        return sign * (exponent == 0 ? MathF.ScaleB(mantissa, -9) : MathF.ScaleB(8 + mantissa, exponent - 10));
    }
}
