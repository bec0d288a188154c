using KtNotebooks.Autograd;
using KtNotebooks.Interop;
using KtNotebooks.Tensors;

using Xunit;

namespace KtNotebooks.Tests.Interop;

/// <summary>With <see cref="Cpu.RowInvariant"/> a row has the same bits alone and among others; without it, it may not, or this would test nothing.</summary>
[Collection("cpu variant")]
public class RowInvariantTests
{
    private const int K = 1000, N = 130, Rank = 8;

    public static TheoryData<string> Variants => OnVariant.All;

    [Theory]
    [MemberData(nameof(Variants))]
    public void A_row_alone_is_the_row_among_many(string variant)
    {
        using var on = new OnVariant(variant);
        foreach (var type in new[] { DType.F32, DType.BF16 })
        {
            using var invariant = Cpu.RowInvariant();
            foreach (var rows in new[] { 3, 4, 5, 40 }) Assert.Equal(Product(type, 1), Product(type, rows));
        }
        if (Cpu.IsNative) Assert.NotEqual(Product(DType.F32, 1), Product(DType.F32, 40));
    }

    /// <summary>The first row of x Wᵀ + LoRA for so many rows of x.</summary>
    private static float[] Product(DType type, int rows)
    {
        var random = new Random(1);
        Tensor Fill(DType t, params long[] shape)
        {
            var tensor = Tensor.Empty(t, Device.Cpu, shape);
            tensor.Store([.. Enumerable.Range(0, (int)tensor.Count).Select(_ => random.NextSingle() - 0.5f)]);
            return tensor;
        }
        using var w = Fill(type, N, K);
        using var a = Fill(DType.F32, Rank, K);
        using var b = Fill(DType.F32, N, Rank);
        using var x = Fill(type, rows, K);
        using var tape = Tape.Scratch();
        return KtNotebooks.Ops.Linear.Apply(x, w, a, b, 0.5f).ToFloats()[..N];
    }
}
