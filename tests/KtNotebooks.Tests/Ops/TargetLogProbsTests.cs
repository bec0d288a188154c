using KtNotebooks.Ops;
using KtNotebooks.Tensors;

using Xunit;

namespace KtNotebooks.Tests.Ops;

/// <summary>Every variant gives the definition's log p and entropies, where rows have many equal logits or fewer than are looked at.</summary>
[Trait("card", "cuda")]
[Collection(Alone.Name)]
public class TargetLogProbsTests
{
    public static TheoryData<string, int> Cases
    {
        get
        {
            var data = new TheoryData<string, int>();
            foreach (var variant in Variant.Present)
                foreach (var width in (int[])[2, 19, 20, 300]) data.Add(variant.Name, width);
            return data;
        }
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void Is_the_definition(string variant, int width)
    {
        var where = Variant.Of(variant);
        using var kernels = where.Use();
        var random = new Random(width);
        float[] values = [.. Enumerable.Range(0, 7 * width).Select(i => i / width == 3 ? 0.5f : random.Next(-6, 7) * 0.75f)]; // few values: many are equal
        int[] targets = [.. Enumerable.Range(0, 7).Select(r => r * 5 % width)];
        using var z = Tensor.From(values, 7, width);
        using var there = z.To(where.IsCuda ? Device.Cuda(0) : Device.Cpu);
        var (logp, entropy) = TargetLogProbs.Apply(there, targets, withEntropy: true);
        var (alone, none) = TargetLogProbs.Apply(there, targets, withEntropy: false);
        Assert.Null(none);
        for (var r = 0; r < 7; r++)
        {
            double[] row = [.. values[(r * width)..((r + 1) * width)]];
            var sum = row.Sum(Math.Exp);
            double[] top = [.. row.OrderDescending().Take(20).Select(Math.Exp)];
            var wanted = -top.Sum(e => e / top.Sum() * Math.Log(e / top.Sum()));
            Assert.Equal(Math.Log(Math.Exp(row[targets[r]]) / sum), logp.ToFloats()[r], 1e-4);
            Assert.Equal(logp.ToFloats()[r], alone.ToFloats()[r], 1e-5);
            Assert.Equal(wanted, entropy!.ToFloats()[r], 1e-4);
        }
        foreach (var tensor in new[] { logp, entropy!, alone }) tensor.Dispose();
    }
}
