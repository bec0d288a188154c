using KtNotebooks.Formats;
using KtNotebooks.Tensors;

using Xunit;

namespace KtNotebooks.Tests.Formats;

/// <summary>What every storage format must hold, asked of the registry: a new one is asked without being named here.</summary>
public sealed class FormatTests
{
    public static TheoryData<string> LowBit => [.. StorageFormat.All.Where(f => f.IsLowBit).Select(f => f.Name)];

    [Fact]
    public void The_registry_is_in_the_order_of_the_native_numbers()
    {
        Assert.All(StorageFormat.All.Index(), f => Assert.Equal(f.Index, f.Item.Code));
        Assert.All(StorageFormat.Names, name => Assert.Equal(name, StorageFormat.Parse(name).Name));
    }

    /// <summary>Codes are nearest: quantizing what a format can say gives it back, bit for bit.</summary>
    [Theory, MemberData(nameof(LowBit))]
    public void What_a_format_can_say_stays(string name)
    {
        var format = StorageFormat.Parse(name);
        using var source = Normal(300, 256, seed: 1);
        using var once = RoundTrip(format, source);
        using var twice = RoundTrip(format, once);
        var (a, b) = (once.ToFloats(), twice.ToFloats());
        // A scale is a quotient, rounded: a second quotient may be one step beside it.
        for (var i = 0; i < a.Length; i++) Assert.True(Math.Abs(a[i] - b[i]) <= Math.Abs(a[i]) / 256, $"{name}[{i}]: {a[i]:R} became {b[i]:R}");
    }

    /// <summary>Relative error on normal numbers (root mean square), which the docstrings quote.</summary>
    [Theory]
    [InlineData("fp8", 0.0262, 0.0272)]
    [InlineData("int8", 0.0060, 0.0085)]
    [InlineData("int4", 0.085, 0.087)]
    [InlineData("mxfp4", 0.110, 0.113)]
    public void The_error_is_what_is_said(string name, double least, double most)
    {
        var format = StorageFormat.Parse(name);
        using var source = Normal(512, 1024, seed: 2);
        using var coded = RoundTrip(format, source);
        var (a, b) = (source.ToFloats(), coded.ToFloats());
        double error = 0, size = 0;
        for (var i = 0; i < a.Length; i++) (error, size) = (error + (((double)a[i] - b[i]) * (a[i] - b[i])), size + ((double)a[i] * a[i]));
        Assert.InRange(Math.Sqrt(error / size), least, most);
    }

    /// <summary>Values by hand: 16 codes under the scale 2^1, the low nibble first.</summary>
    [Fact]
    public void Mxfp4_reads_what_gpt_oss_ships()
    {
        using var data = Tensor.Empty(DType.U8, 1, 16);
        using var scales = Tensor.Empty(DType.U8, 1, 1);
        for (var i = 0; i < 16; i++) data.Span<byte>()[i] = (byte)(i | ((15 - i) << 4));
        scales.Span<byte>()[0] = 128;
        using var values = StorageFormat.Mxfp4.Dequantize(data, scales, 1, 32, DType.F32);
        float[] table = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];
        var expected = Enumerable.Range(0, 16).SelectMany(i => new[] { table[i], table[15 - i] });
        Assert.Equal(expected, values.ToFloats());
    }

    [Theory, MemberData(nameof(LowBit))]
    public void Zeros_stay_zeros(string name)
    {
        using var zeros = Tensor.From(new float[64 * 64], DType.F32, 64, 64);
        using var coded = RoundTrip(StorageFormat.Parse(name), zeros);
        Assert.All(coded.ToFloats(), v => Assert.Equal(0, v));
    }

    private static Tensor RoundTrip(StorageFormat format, Tensor source)
    {
        var (data, scales) = format.Quantize(source);
        using (data)
        using (scales) return format.Dequantize(data, scales, source.Dim(0), source.Width, DType.F32);
    }

    private static Tensor Normal(int n, int k, int seed)
    {
        var values = new float[n * k];
        new NormalRandom((ulong)seed, "formats").Fill(values, 1);
        return Tensor.From(values, DType.F32, n, k);
    }
}
