using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary><see cref="DropoutMask"/> on a card: the same hash, so the same mask as on the CPU.</summary>
internal static class DropoutKernels
{
    private const int Block = 256;

    private const string Source = """
        // ADD 0: target = mask ∘ source, 1: target += mask ∘ source. [rows, width], one block a row.
        extern "C" __global__ void apply_mask(const T* source, T* target, int width, unsigned long long key, long long first_row, unsigned int threshold, float scale)
        {
            unsigned long long row_key = mix(key + (unsigned long long)(first_row + blockIdx.x));
            long long start = (long long)blockIdx.x * width;
            for (int i = threadIdx.x; i < width; i += blockDim.x)
            {
                float v = keeps(row_key, i, threshold) ? widen(source[start + i]) * scale : 0.0f;
                store(target + start + i, ADD ? widen(target[start + i]) + v : v);
            }
        }
        """;

    private static readonly CudaProgram Program = new("DropoutKernels", Source);

    /// <summary>target = mask ∘ source; [R, K] of one type, F32 or BF16.</summary>
    public static void Apply(this DropoutMask mask, Tensor source, Tensor target) => Run(mask, source, target, source.Type == DType.F32 ? "-DTYPE=float -DADD=0" : "-DTYPE=bf16 -DADD=0");

    /// <summary>target += mask ∘ source; [R, K] F32.</summary>
    public static void AddTo(this DropoutMask mask, Tensor source, Tensor target) => Run(mask, source, target, "-DTYPE=float -DADD=1");

    private static void Run(DropoutMask mask, Tensor source, Tensor target, string options) => Program.Kernel(target.Card(), "apply_mask", options)
        .Launch(source.Rows, Block, source.Pointer, target.Pointer, source.Width, mask.Key, mask.FirstRow, mask.Threshold, 1 / (1 - mask.P));
}
