using KtNotebooks.Autograd;
using KtNotebooks.Bench;
using KtNotebooks.Experts;
using KtNotebooks.Formats;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Experts;

/// <summary>Small experts in ordinary memory come into one stretch a bank (ExpertExecutors.Gather), and are the experts that they were.</summary>
public sealed class GatheredExpertsTests
{
    private const int E = 40, D = 256, I = 192, K = 3, Tokens = 7;

    [Theory, InlineData("int4"), InlineData("fp8"), InlineData("bf16")]
    public void A_gathered_bank_gives_the_same_bits(string formatName)
    {
        var format = StorageFormat.Parse(formatName);
        using var bank = Bank(format, format == StorageFormat.Int4 ? 2 * E : E);
        var before = Values(bank);
        Assert.NotEqual(bank.ExpertBytes, Distance(bank));
        ExpertExecutors.Gather([bank]);
        Assert.Equal(bank.ExpertBytes, Distance(bank)); // one expert after the other
        Assert.Equal(before, Values(bank));
    }

    [Fact]
    public void Banks_that_gain_nothing_stay()
    {
        using var little = Bank(StorageFormat.Int4, 4);
        var set = little.Set;
        ExpertExecutors.Gather([little]);
        Assert.Same(set, little.Set);
    }

    private static ExpertBank Bank(StorageFormat format, int count) =>
        new(new PatternWeights(Device.Cpu, format), ExpertNames.Each("model.layers.1.mlp.experts"), DType.BF16, count, D, I);

    private static long Distance(ExpertBank bank) => bank.Set.Gate.Pointer(1) - bank.Set.Gate.Pointer(0);

    private static float[] Values(ExpertBank bank)
    {
        var random = new Random(5);
        using var x = Tensor.From([.. Enumerable.Range(0, Tokens * D).Select(_ => (float)random.NextDouble() - 0.5f)], DType.BF16, Tokens, D);
        using var weights = Tensor.From([.. Enumerable.Range(0, Tokens * K).Select(_ => (float)random.NextDouble())], Tokens, K);
        using var indices = Tensor.From([.. Enumerable.Range(0, Tokens * K).Select(i => ((i / K * 4) + (i % K * 7)) % E)], Tokens, K);
        using var scratch = Tape.Scratch();
        return bank.Forward(x, weights, indices, new Pass([], [0])).ToFloats();
    }
}
