using KtNotebooks.Interop.Cuda;

namespace KtNotebooks.Tensors;

/// <summary>The element-wise work that is not an op: conversion between float types, and addition for the tape. CUDA tensors of one card; the shapes have been checked.</summary>
internal static class DeviceMath
{
    private const int Block = 256;

    private const string Source = """
        typedef SOURCE S; // any of the four pairs of types
        extern "C" __global__ void convert(const S* source, T* target, long long count)
        {
            for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < count; i += (long long)gridDim.x * blockDim.x) store(target + i, widen(source[i]));
        }

        extern "C" __global__ void add_into(const S* source, T* target, long long count)
        {
            for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < count; i += (long long)gridDim.x * blockDim.x) store(target + i, widen(target[i]) + widen(source[i]));
        }
        """;

    private static readonly CudaProgram Program = new("DeviceMath", Source);

    /// <summary>The card that a tensor lies on.</summary>
    public static CudaDevice Card(this Tensor tensor) => CudaDevice.Get(tensor.Device.Index);

    public static void Convert(Tensor source, Tensor target) => Run("convert", source, target);

    /// <summary>target += source, summed in F32 and rounded to target's type.</summary>
    public static void AddInto(Tensor target, Tensor source) => Run("add_into", source, target);

    private static void Run(string entry, Tensor source, Tensor target)
    {
        var card = target.Card();
        var blocks = Math.Min((target.Count + Block - 1) / Block, card.Multiprocessors * 16L);
        Program.Kernel(card, entry, Options(source.Type, target.Type)).Launch(blocks, Block, source.Pointer, target.Pointer, target.Count);
    }

    private static string Options(DType source, DType target) => (source, target) switch
    {
        (DType.F32, DType.F32) => "-DSOURCE=float -DTYPE=float",
        (DType.F32, DType.BF16) => "-DSOURCE=float -DTYPE=bf16",
        (DType.BF16, DType.F32) => "-DSOURCE=bf16 -DTYPE=float",
        (DType.BF16, DType.BF16) => "-DSOURCE=bf16 -DTYPE=bf16",
        _ => throw new NotSupportedException($"[DeviceMath] from {source} to {target}: only F32 and BF16 are converted on a card"),
    };
}
