using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary><see cref="DropoutMask"/> on a card: the same hash, so the same mask as on the CPU.</summary>
internal static class DropoutKernels
{
    private const string Source = """
        typedef Pack<T, VEC> Values;

        // [rows, width], one block a row; width counts packs. row_ids: the row numbers to hash where rows were permuted, or null.
        extern "C" __global__ void apply_mask(const Values* source, Values* target, const int* row_ids, int width,
            unsigned long long key, long long first_row, unsigned int threshold, float scale)
        {
            unsigned long long row_key = mix(key + (unsigned long long)(first_row + (row_ids ? row_ids[blockIdx.x] : (int)blockIdx.x)));
            long long start = (long long)blockIdx.x * width;
            for (int i = threadIdx.x; i < width; i += blockDim.x)
            {
                Values a = source[start + i];
                for (int j = 0; j < VEC; j++) store(&a.v[j], keeps(row_key, i * VEC + j, threshold) ? widen(a.v[j]) * scale : 0.0f);
                target[start + i] = a;
            }
        }
        """;

    private static readonly CudaProgram Program = new("DropoutKernels", Source);

    /// <summary>
    /// target = mask ∘ source; [R, K] of one type, F32 or BF16; target may be source. rowIds I32, from entry <paramref name="first"/> on: the row numbers
    /// to hash, where rows were permuted.
    /// </summary>
    public static void Apply(DropoutMask mask, Tensor source, Tensor target, Tensor? rowIds = null, int first = 0)
    {
        var packs = Packs.Of(source.Width, source, target);
        Program.Kernel(target.Gpu(), "apply_mask", packs.Options)
            .Launch(source.Rows, packs.Threads(source.Width), source.Pointer, target.Pointer, rowIds is null ? 0 : (nint)(rowIds.Pointer + (4L * first)),
            (int)packs.In(source.Width), mask.Key, mask.FirstRow, mask.Threshold, 1 / (1 - mask.P));
    }
}
