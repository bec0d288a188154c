using KtNotebooks.Autograd;
using KtNotebooks.Experts;
using KtNotebooks.Formats;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

using Xunit;

namespace KtNotebooks.Tests.Experts;

/// <summary>A few tokens through experts on a card, without sorting: the definition's numbers, and a token's own whatever runs beside it.</summary>
[Trait("card", "cuda")]
[Collection("cpu variant")]
public sealed class FewRowsTests
{
    [Theory]
    [InlineData("f32", false, false)]
    [InlineData("bf16", true, false)]
    [InlineData("bf16", false, true)]
    [InlineData("fp8", false, false)]
    [InlineData("int8", true, false)]
    [InlineData("int4", true, false)]
    [InlineData("mxfp4", true, true)]
    public void Values_and_gradients_are_the_definition_s(string formatName, bool lora, bool clamped)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        var format = StorageFormat.Parse(formatName);
        var type = format == StorageFormat.F32 ? DType.F32 : DType.BF16;
        foreach (var tokens in (int[])[1, 5, 16, FewRows.MaxTokens])
        {
            using var host = new ExpertLayer(format, type, Device.Cpu, tokens, lora, clamped);
            using var card = new ExpertLayer(format, type, Device.Cuda(), tokens, lora, clamped);
            Assert.True(FewRows.Suits(card.Call, new BankLayout(card.Call.Experts)));
            float[][] expected;
            using (Op.UsePlain()) expected = host.Run();
            var actual = card.Run();
            // Of many tokens some gate always stands where rounding decides on which side of the clamp it is, and its gradient with it.
            for (var i = 0; i < (clamped && tokens > 16 ? 1 : expected.Length); i++)
            {
                var distance = Math.Sqrt(expected[i].Zip(actual[i], (a, b) => Math.Pow((double)a - b, 2)).Sum() / expected[i].Sum(a => (double)a * a));
                Assert.True(distance < (type == DType.F32 ? 1e-5 : 0.01), $"{tokens} tokens, result {i}: {distance:P3} away");
            }
        }
    }

    [Theory]
    [InlineData("fp8")]
    [InlineData("int4")]
    public void A_token_is_the_same_alone_and_among_others(string formatName)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        using var many = new ExpertLayer(StorageFormat.Parse(formatName), DType.BF16, Device.Cuda(), FewRows.MaxTokens, lora: true, clamped: false);
        var all = many.Value();
        for (var t = 0; t < FewRows.MaxTokens; t += 5) Assert.Equal(all[(t * ExpertLayer.D)..((t + 1) * ExpertLayer.D)], many.Value(t));
    }

    [Fact]
    public void Many_tokens_dropout_and_odd_widths_take_the_other_way()
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        using var layer = new ExpertLayer(StorageFormat.BF16, DType.BF16, Device.Cuda(), FewRows.MaxTokens + 1, lora: true, clamped: false);
        Assert.False(FewRows.Suits(layer.Call, new BankLayout(layer.Call.Experts)));
        using var few = new ExpertLayer(StorageFormat.BF16, DType.BF16, Device.Cuda(), 2, lora: true, clamped: false);
        var layout = new BankLayout(few.Call.Experts);
        Assert.True(FewRows.Suits(few.Call, layout));
        Assert.False(FewRows.Suits(few.Call with { ValueUnused = true }, layout));
        Assert.False(FewRows.Suits(few.Call with { Experts = few.Call.Experts with { Lora = few.Call.Experts.Lora! with { Dropout = 0.1f } } }, layout));
        Assert.False(FewRows.Suits(few.Call, new BankLayout(ExpertLayer.E, ExpertLayer.D, ExpertLayer.I + 4, StorageFormat.BF16)));
    }
}
