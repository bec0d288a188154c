using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>
/// Stored expert matrices, as they crossed PCIe, to the type that products read. Memory-bound: reads the stored bytes and writes N · K elements an expert.
/// </summary>
internal static class DecodeKernels
{
    private const int Block = 256;
    private static readonly CudaProgram Program = new("DecodeKernels", CudaProgram.Resource("Ops.DecodeKernels.cu"));

    /// <summary>
    /// target [experts, N, K] F32 or BF16 = the matrices whose data (and scales) of the first expert lie at these addresses, the next expert's expertBytes on.
    /// </summary>
    public static void Run(MatrixFormat format, nint data, nint scales, long expertBytes, Tensor target)
    {
        int experts = (int)target.Dim(0), n = (int)target.Dim(1), k = target.Width;
        var pieces = (long)n * ((k + 7) / 8);
        Program.Kernel(target.Card(), "decode", Options(format, target.Type))
            .Launch(((pieces + Block - 1) / Block, experts), Block, data, scales, expertBytes, target.Pointer, n, k);
    }

    private static string Options(MatrixFormat format, DType type) => (format, type) switch
    {
        (MatrixFormat.F32, DType.F32) => "-DFORMAT=0 -DTYPE=float",
        (MatrixFormat.F32, _) => "-DFORMAT=0 -DTYPE=bf16",
        (MatrixFormat.BF16, DType.F32) => "-DFORMAT=1 -DTYPE=float",
        (MatrixFormat.BF16, _) => "-DFORMAT=1 -DTYPE=bf16",
        (MatrixFormat.Fp8, DType.F32) => "-DFORMAT=2 -DTYPE=float",
        (MatrixFormat.Fp8, _) => "-DFORMAT=2 -DTYPE=bf16",
        (MatrixFormat.Int8, DType.F32) => "-DFORMAT=3 -DTYPE=float",
        (MatrixFormat.Int8, _) => "-DFORMAT=3 -DTYPE=bf16",
        (_, DType.F32) => "-DFORMAT=4 -DTYPE=float",
        _ => "-DFORMAT=4 -DTYPE=bf16",
    };
}
