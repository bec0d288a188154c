using KtNotebooks.Tensors;

using Xunit;

namespace KtNotebooks.Tests;

public class Fp8Tests
{
    [Fact]
    public void Known_codes_have_their_values()
    {
        Assert.Equal([0f, MathF.ScaleB(1, -9), MathF.ScaleB(7, -9), MathF.ScaleB(1, -6), 1f, 1.125f, 448f, -448f],
            ((byte[])[0x00, 0x01, 0x07, 0x08, 0x38, 0x39, 0x7E, 0xFE]).Select(Fp8.ToFloat));
        Assert.True(float.IsNaN(Fp8.ToFloat(0x7F)) && float.IsNaN(Fp8.ToFloat(0xFF)));
        Assert.True(float.IsNegative(Fp8.ToFloat(0x80)) && Fp8.ToFloat(0x80) == 0);
    }

    [Fact]
    public void A_value_becomes_the_nearest_code_and_ties_go_to_the_even_one()
    {
        for (var code = 0; code < 0x7E; code++)
        {
            var (low, high) = (Fp8.ToFloat((byte)code), Fp8.ToFloat((byte)(code + 1)));
            var middle = (low + high) / 2; // exact: both have few bits
            Assert.Equal(code, Fp8.FromFloat(low));
            Assert.Equal(code, Fp8.FromFloat(float.BitDecrement(middle)));
            Assert.Equal(code + 1, Fp8.FromFloat(float.BitIncrement(middle)));
            Assert.Equal(code % 2 == 0 ? code : code + 1, Fp8.FromFloat(middle));
            Assert.Equal(code | 0x80, Fp8.FromFloat(-low));
        }
        Assert.Equal([0x7E, 0x7E, 0xFE, 0x7F], ((float[])[449, float.PositiveInfinity, -1e9f, float.NaN]).Select(v => (int)Fp8.FromFloat(v)));
    }
}
