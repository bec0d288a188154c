using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>
/// Dense products of tensors on a card, by cuBLASLt: tensor cores for BF16, true F32 (no TF32) for F32; a few rows by <see cref="RowProduct"/>. All sums are
/// F32.
/// </summary>
internal static class DeviceMatmul
{
    /// <summary>
    /// target [M, N] = alpha · op(a) op(b) (+ target), op(a) [M, K], op(b) [K, N]; the tensors are seen as rows of their last dimension. a and b have one
    /// type, F32 or BF16; target has any of the two; what is added is read, summed in F32 and rounded once.
    /// </summary>
    public static void Run(Tensor a, bool transposeA, Tensor b, bool transposeB, Tensor target, float alpha = 1, bool add = false)
    {
        var (M, K) = transposeA ? (a.Width, a.Rows) : (a.Rows, a.Width);
        var (k, N) = transposeB ? (b.Width, b.Rows) : (b.Rows, b.Width);
        if (k != K || a.Type != b.Type || target.Count != (long)M * N)
            throw new ArgumentException($"[DeviceMatmul] {a}{(transposeA ? "ᵀ" : "")} times {b}{(transposeB ? "ᵀ" : "")} does not give {target}");
        if (!transposeA && transposeB && RowProduct.Suits(a, b))
        {
            RowProduct.Run(a, b, target, alpha, add);
            return;
        }
        if (a.Type == DType.F32 && target.Type == DType.BF16) // cuBLASLt has no F32 product with BF16 output
        {
            using var sum = add ? target.To(DType.F32) : Tensor.Empty(DType.F32, target.Device, target.Shape);
            Run(a, transposeA, b, transposeB, sum, alpha, add);
            DeviceMath.Convert(sum, target);
            return;
        }
        var shape = new MatmulShape(M, N, K, transposeA, transposeB, a.Type == DType.BF16, target.Type == DType.BF16);
        CudaMatmul.Run(target.Gpu(), shape, alpha, a.Pointer, b.Pointer, add, target.Pointer);
    }
}
