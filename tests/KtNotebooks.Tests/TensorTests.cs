using KtNotebooks.Tensors;

using Xunit;

namespace KtNotebooks.Tests;

public class TensorTests
{
    [Fact]
    public void Views_and_slices_look_at_the_same_memory()
    {
        using var t = Tensor.From([1f, 2, 3, 4, 5, 6], 3, 2);
        using var view = t.View(2, 3);
        using var slice = t.Slice(1, 2);
        slice.Span<float>()[0] = 30;
        Assert.Equal([1, 2, 30, 4, 5, 6], view.ToFloats());
        Assert.Equal((2, 2, "F32[2, 2]"), (slice.Rows, slice.Width, slice.ToString()));
    }

    [Fact]
    public void Memory_lives_as_long_as_its_last_view()
    {
        var t = Tensor.From([1f, 2], 2);
        var alias = t.Alias();
        t.Dispose();
        t.Dispose(); // twice is once
        Assert.Equal([1, 2], alias.ToFloats());
        Assert.Throws<ObjectDisposedException>(() => t.Span<float>());
        alias.Dispose();
        Assert.Throws<ObjectDisposedException>(() => alias.ToFloats());
    }

    [Fact]
    public void What_does_not_fit_is_said()
    {
        using var t = Tensor.Zeros(DType.BF16, 3, 2);
        Assert.Equal("[Tensor] a view must keep all 6 elements of BF16[3, 2], but [4] has another count",
            Assert.Throws<ArgumentException>(() => t.View(4)).Message);
        Assert.StartsWith("[Tensor] a view must keep all 6 elements of BF16[3, 2], but [7] has another count",
            Assert.Throws<ArgumentException>(() => t.View(7)).Message, StringComparison.Ordinal);
        Assert.StartsWith("[Tensor] rows 2 … 4 are not in BF16[3, 2]", Assert.Throws<ArgumentOutOfRangeException>(() => t.Slice(2, 2)).Message,
            StringComparison.Ordinal);
        Assert.Equal("[Tensor] BF16[3, 2] has 2-byte elements, asked for 4-byte ones",
            Assert.Throws<InvalidOperationException>(() => t.Span<float>().Length).Message);
        Assert.Equal("[Tensor] BF16[3, 2] has 6 elements, got 5 values", Assert.Throws<ArgumentException>(() => t.Store(new float[5])).Message);
        Assert.Equal("[Tensor] a dimension is negative: [-1, 2]", Assert.Throws<ArgumentException>(() => Tensor.Empty(DType.F32, -1, 2)).Message);
        Assert.Throws<OverflowException>(() => Tensor.Empty(DType.F32, 1L << 40, 1L << 40));
        Assert.Equal("[Tensor] Item wants one element, BF16[3, 2] has 6", Assert.Throws<InvalidOperationException>(() => t.Item()).Message);
    }

    /// <summary>To the nearest, ties to even; infinities and NaN stay what they are.</summary>
    [Theory]
    [InlineData(0x3F800000u, 0x3F80)] // 1
    [InlineData(0x3F808000u, 0x3F80)] // half way: even below
    [InlineData(0x3F818000u, 0x3F82)] // half way: even above
    [InlineData(0x3F808001u, 0x3F81)]
    [InlineData(0x7F7FFFFFu, 0x7F80)] // the largest float rounds to infinity
    [InlineData(0xFF800000u, 0xFF80)]
    [InlineData(0x80000000u, 0x8000)]
    [InlineData(0x00000001u, 0x0000)]
    public void BF16_rounds_to_the_nearest(uint bits, int expected)
    {
        var value = BitConverter.UInt32BitsToSingle(bits);
        Assert.Equal(expected, Bf16.FromFloat(value));
        // In a row the vector code meets every lane and the tail.
        using var row = Tensor.From([.. Enumerable.Repeat(value, 37)], DType.BF16, 37);
        Assert.All(row.Span<ushort>().ToArray(), v => Assert.Equal(expected, v));
    }

    [Theory]
    [InlineData(0x7FC00000u)]
    [InlineData(0x7F800001u)] // would become infinity if only its upper half were kept
    [InlineData(0xFFFFFFFFu)]
    public void NaN_stays_NaN(uint bits)
    {
        using var row = Tensor.From([.. Enumerable.Repeat(BitConverter.UInt32BitsToSingle(bits), 37)], DType.BF16, 37);
        Assert.All(row.ToFloats(), v => Assert.True(float.IsNaN(v)));
    }

    [Fact]
    public void Empty_tensors_are_tensors()
    {
        using var t = Tensor.Empty(DType.F32, 0, 4);
        Assert.Equal((0, 0, 4), (t.Count, t.Rows, t.Width));
        Assert.Empty(t.ToFloats());
        using var copy = t.Clone();
        Assert.Equal("F32[0, 4]", copy.ToString());
    }

    [Fact]
    public void A_row_is_in_the_tensor_in_host_memory_and_of_its_type()
    {
        using var tensor = Tensor.From([1f, 2, 3, 4, 5, 6], 2, 3);
        Assert.Equal([4, 5, 6], tensor.Row<float>(1).ToArray());
        Assert.StartsWith("[Tensor] row 2 is not in F32[2, 3]", Assert.Throws<ArgumentOutOfRangeException>(() => tensor.Row<float>(2).Length).Message,
            StringComparison.Ordinal);
        Assert.Throws<ArgumentOutOfRangeException>(() => tensor.Row<float>(-1).Length);
        Assert.Equal("[Tensor] F32[2, 3] has 4-byte elements, asked for 2-byte ones",
            Assert.Throws<InvalidOperationException>(() => tensor.Row<ushort>(0).Length).Message);
        using var shape = Tensor.Empty(DType.F32, Device.Meta, 2, 3);
        Assert.Equal("[Tensor] F32[2, 3] is not in host memory; copy it with ToHost first",
            Assert.Throws<InvalidOperationException>(() => shape.Row<float>(0).Length).Message);
        var gone = Tensor.From([1f, 2], 1, 2);
        gone.Dispose();
        Assert.Throws<ObjectDisposedException>(() => gone.Row<float>(0).Length);
    }
}
