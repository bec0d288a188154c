using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary><see cref="DropoutMask"/> on a card: the same hash, so the same mask as on the CPU.</summary>
internal static class DropoutKernels
{
    private const int Block = 256;

    private const string Source = """
        // [rows, width], one block a row.
        extern "C" __global__ void apply_mask(const T* source, T* target, int width, unsigned long long key, long long first_row, unsigned int threshold, float scale)
        {
            unsigned long long row_key = mix(key + (unsigned long long)(first_row + blockIdx.x));
            long long start = (long long)blockIdx.x * width;
            for (int i = threadIdx.x; i < width; i += blockDim.x)
                store(target + start + i, keeps(row_key, i, threshold) ? widen(source[start + i]) * scale : 0.0f);
        }
        """;

    private static readonly CudaProgram Program = new("DropoutKernels", Source);

    /// <summary>target = mask ∘ source; [R, K] of one type, F32 or BF16; target may be source.</summary>
    public static void Apply(DropoutMask mask, Tensor source, Tensor target) => Program.Kernel(target.Card(), "apply_mask", source.Type == DType.F32 ? "-DTYPE=float" : "-DTYPE=bf16")
        .Launch(source.Rows, Block, source.Pointer, target.Pointer, source.Width, mask.Key, mask.FirstRow, mask.Threshold, 1 / (1 - mask.P));
}
