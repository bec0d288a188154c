using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary><see cref="DropoutMask"/> on a card: the same hash, so the same mask as on the CPU.</summary>
internal static class DropoutKernels
{
    private const int Block = 256;

    private const string Source = """
        // [rows, width], one block a row; row_ids (or null): the numbers to hash, where rows were permuted.
        extern "C" __global__ void apply_mask(const T* source, T* target, const int* row_ids, int width, unsigned long long key, long long first_row, unsigned int threshold, float scale)
        {
            unsigned long long row_key = mix(key + (unsigned long long)(first_row + (row_ids ? row_ids[blockIdx.x] : (int)blockIdx.x)));
            long long start = (long long)blockIdx.x * width;
            for (int i = threadIdx.x; i < width; i += blockDim.x)
                store(target + start + i, keeps(row_key, i, threshold) ? widen(source[start + i]) * scale : 0.0f);
        }
        """;

    private static readonly CudaProgram Program = new("DropoutKernels", Source);

    /// <summary>target = mask ∘ source; [R, K] of one type, F32 or BF16; target may be source. rowIds: I32 [R].</summary>
    public static void Apply(DropoutMask mask, Tensor source, Tensor target, Tensor? rowIds = null) => Program.Kernel(target.Card(), "apply_mask", source.Type == DType.F32 ? "-DTYPE=float" : "-DTYPE=bf16")
        .Launch(source.Rows, Block, source.Pointer, target.Pointer, rowIds?.Pointer ?? 0, source.Width, mask.Key, mask.FirstRow, mask.Threshold, 1 / (1 - mask.P));
}
