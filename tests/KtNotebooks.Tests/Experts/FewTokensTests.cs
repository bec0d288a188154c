using KtNotebooks.Autograd;
using KtNotebooks.Formats;
using KtNotebooks.Interop;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Interop;

using Xunit;

namespace KtNotebooks.Tests.Experts;

/// <summary>A few tokens through experts on the CPU (experts_few.cpp) are the definition's, in every variant, format and layout.</summary>
[Collection("cpu variant")]
public sealed class FewTokensTests
{
    public static TheoryData<string, string> Everywhere =>
        [.. from variant in OnVariant.All from format in (string[])["bf16", "fp8", "int8", "int4", "mxfp4"] select (variant.Data, format)];

    [Theory, MemberData(nameof(Everywhere))]
    public void Values_and_gradients_are_the_definition_s(string variant, string formatName)
    {
        using var on = new OnVariant(variant);
        var format = StorageFormat.Parse(formatName);
        foreach (var tokens in (int[])[1, 2, 5, 16, 17])
            foreach (var (lora, tiled) in ((bool, bool)[])[(false, false), (true, false), (true, true)])
            {
                if (tiled && (format.IsLowBit || !Cpu.MultipliesTiles)) continue;
                using var rows = new ExpertLayer(format, DType.BF16, Device.Cpu, tokens, lora, clamped: false);
                using var layer = new ExpertLayer(format, DType.BF16, Device.Cpu, tokens, lora, clamped: false, tiled);
                float[][] expected;
                using (Op.UsePlain()) expected = rows.Run();
                var actual = layer.Run();
                for (var i = 0; i < expected.Length; i++)
                {
                    var distance = Math.Sqrt(expected[i].Zip(actual[i], (a, b) => Math.Pow((double)a - b, 2)).Sum() / expected[i].Sum(a => (double)a * a));
                    Assert.True(distance < 0.01, $"{tokens} tokens, lora {lora}, tiled {tiled}, result {i}: {distance:P3} away");
                }
            }
    }

    /// <summary>A thread's share must not show: sums go by the experts, whoever makes them.</summary>
    [Fact]
    public void Bits_do_not_depend_on_the_number_of_threads()
    {
        float[]? first = null;
        foreach (var threads in (int[])[1, 2, 3, 3])
        {
            using var on = new OnVariant("avx2", threads);
            using var layer = new ExpertLayer(StorageFormat.Parse("int4"), DType.BF16, Device.Cpu, 7, lora: true, clamped: false);
            var value = layer.Value();
            Assert.Equal(first ??= value, value);
        }
    }

    /// <summary>Where rows must be alike they are, also among so few; the way without that is another, or this would test nothing.</summary>
    [Fact]
    public void Alike_rows_are_alike()
    {
        using var on = new OnVariant("avx2");
        using var layer = new ExpertLayer(StorageFormat.Parse("int4"), DType.BF16, Device.Cpu, 16, lora: true, clamped: false);
        var free = layer.Value();
        using var invariant = Cpu.RowInvariant();
        var all = layer.Value();
        for (var t = 0; t < 16; t += 5) Assert.Equal(all[(t * ExpertLayer.D)..((t + 1) * ExpertLayer.D)], layer.Value(t));
        Assert.NotEqual(free, all);
    }
}
