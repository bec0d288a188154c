using KtNotebooks.Autograd;
using KtNotebooks.Formats;
using KtNotebooks.Interop;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Interop;

using Xunit;

namespace KtNotebooks.Tests.Experts;

/// <summary>Rows quantized where they meet INT8 experts (kernels_int8.cpp): near the definition, and another way than dequantized weights.</summary>
[Collection("cpu variant")]
public sealed class Int8KernelTests
{
    public static TheoryData<string, bool> Everywhere =>
        [.. from variant in (string[])["amx_int8", "amx_int8-emulated"] from lora in (bool[])[false, true] select (variant, lora)];

    [Theory, MemberData(nameof(Everywhere))]
    public void Values_and_gradients_are_at_most_two_and_a_half_percent_away(string variant, bool lora)
    {
        using var on = new OnVariant(variant);
        foreach (var tokens in (int[])[3, 61, 150])
        {
            using var layer = new ExpertLayer(StorageFormat.Int8, DType.BF16, Device.Cpu, tokens, lora, clamped: false);
            float[][] expected;
            using (Op.UsePlain()) expected = layer.Run();
            var actual = layer.Run();
            for (var i = 0; i < expected.Length; i++)
            {
                var distance = Distance(expected[i], actual[i]);
                Assert.True(distance < 0.025, $"{tokens} tokens, result {i}: {distance:P3} away");
            }
        }
    }

    [Fact]
    public void Only_this_variant_quantizes_rows()
    {
        float[] Value(string variant, StorageFormat format)
        {
            using var on = new OnVariant(variant);
            using var layer = new ExpertLayer(format, DType.BF16, Device.Cpu, 150, lora: false, clamped: false);
            return layer.Value();
        }
        Assert.NotEqual(Value("amx-emulated", StorageFormat.Int8), Value("amx_int8-emulated", StorageFormat.Int8));
        Assert.Equal(Value("amx-emulated", StorageFormat.Int4), Value("amx_int8-emulated", StorageFormat.Int4));
    }

    /// <summary>A row has its own scale and integers have one sum: nothing that is computed with it shows.</summary>
    [Fact]
    public void Alike_rows_are_alike()
    {
        using var on = new OnVariant("amx_int8-emulated");
        using var layer = new ExpertLayer(StorageFormat.Int8, DType.BF16, Device.Cpu, 40, lora: true, clamped: false);
        using var invariant = Cpu.RowInvariant();
        var all = layer.Value();
        for (var t = 0; t < 40; t += 9) Assert.Equal(all[(t * ExpertLayer.D)..((t + 1) * ExpertLayer.D)], layer.Value(t));
    }

    private static double Distance(float[] expected, float[] actual) =>
        Math.Sqrt(expected.Zip(actual, (a, b) => Math.Pow((double)a - b, 2)).Sum() / expected.Sum(a => (double)a * a));
}
