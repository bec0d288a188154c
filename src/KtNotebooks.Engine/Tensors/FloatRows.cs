
namespace KtNotebooks.Tensors;

/// <summary>
/// Rows of a host float tensor as F32, whatever the storage type: ops write one loop for F32 and BF16. F32 rows are handed out in place, BF16 rows pass through
/// the caller's scratch of one row, which stays in the first-level cache.
/// </summary>
public static class FloatRows
{
    /// <summary>Row as F32: the row itself, or <paramref name="scratch"/> filled with the widened values.</summary>
    public static ReadOnlySpan<float> Load(Tensor tensor, long row, Span<float> scratch)
    {
        if (tensor.Type == DType.F32) return tensor.Row<float>(row);
        var width = scratch[..tensor.Width];
        Bf16.Widen(tensor.Row<ushort>(row), width);
        return width;
    }

    /// <summary>Where to compute a row: the row itself, or scratch. Finish with <see cref="Store"/>.</summary>
    public static Span<float> Target(Tensor tensor, long row, Span<float> scratch) => tensor.Type == DType.F32 ? tensor.Row<float>(row)
        : scratch[..tensor.Width];

    /// <summary>Writes a row; a no-op when the values were computed in place.</summary>
    public static void Store(Tensor tensor, long row, ReadOnlySpan<float> values)
    {
        if (tensor.Type == DType.BF16)
        {
            Bf16.Narrow(values, tensor.Row<ushort>(row));
            return;
        }
        var target = tensor.Row<float>(row);
        if (!values.Overlaps(target)) values.CopyTo(target);
    }
}
