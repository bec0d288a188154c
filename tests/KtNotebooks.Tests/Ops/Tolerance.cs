using KtNotebooks.Tensors;

namespace KtNotebooks.Tests.Ops;

/// <summary>
/// How far two correct kernels may differ. Both round the result once: up to one unit in the last place of the stored type, relative to the value itself.
/// Sums of n terms in F32 in any order differ by up to n roundings of their terms, and each BF16 intermediate adds one rounding of the terms that pass
/// through it; terms are as large as the value, or as the tensor's values usually are (their root mean square); where they cancel, the case says how large
/// they were.
/// </summary>
public static class Tolerance
{
    private const float F32 = 1f / (1 << 23);
    private const float BF16 = 1f / (1 << 8);

    public static float Limit(OpCase test, float expected, float scale)
    {
        var value = Math.Abs(expected);
        var terms = Math.Max(value, scale);
        var sum = 2 * test.Reduction * F32 * terms;
        return test.Precision == DType.BF16 ? (BF16 * (value + (test.Roundings * terms))) + sum : (2 * F32 * value) + sum;
    }

    /// <summary>Null when all values agree, else the worst one with its place and limit.</summary>
    public static string? Difference(string what, OpCase test, ReadOnlySpan<float> expected, ReadOnlySpan<float> actual)
    {
        if (expected.Length != actual.Length) return $"{what} has {actual.Length} values, expected {expected.Length}";
        double squares = 0;
        foreach (var v in expected) squares += (double)v * v;
        var scale = Math.Max(test.Terms, (float)Math.Sqrt(squares / Math.Max(1, expected.Length)));
        var (worst, at) = (1.0, -1);
        for (var i = 0; i < expected.Length; i++)
        {
            if (expected[i].Equals(actual[i])) continue;
            var ratio = Math.Abs((double)expected[i] - actual[i]) / Limit(test, expected[i], scale);
            if (ratio <= worst) continue; // not reached by NaN: it falls through and is reported
            (worst, at) = (double.IsNaN(ratio) ? double.PositiveInfinity : ratio, i);
        }
        return at < 0 ? null
            : $"{what}[{at}] is {actual[at]:R}, expected {expected[at]:R} within {Limit(test, expected[at], scale):g3} (rms {scale:g3}, "
            + $"{expected.Length} values)";
    }
}
