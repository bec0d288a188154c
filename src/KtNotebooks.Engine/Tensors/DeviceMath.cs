using KtNotebooks.Interop.Cuda;

namespace KtNotebooks.Tensors;

/// <summary>
/// The element-wise work that is not an op: conversion between float types, and addition for the tape. CUDA tensors of one card; the shapes have been
/// checked.
/// </summary>
internal static class DeviceMath
{
    private const string Source = """
        typedef Pack<OTHER, VEC> Source; // any of the four pairs of types
        typedef Pack<T, VEC> Target;

        extern "C" __global__ void convert(const Source* source, Target* target, long long packs)
        {
            long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
            if (i >= packs) return;
            Source a = source[i];
            Target r;
            for (int j = 0; j < VEC; j++) store(&r.v[j], widen(a.v[j]));
            target[i] = r;
        }

        extern "C" __global__ void add_into(const Source* source, Target* target, long long packs)
        {
            long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
            if (i >= packs) return;
            Source a = source[i];
            Target r = target[i];
            for (int j = 0; j < VEC; j++) store(&r.v[j], widen(r.v[j]) + widen(a.v[j]));
            target[i] = r;
        }

        extern "C" __global__ void convert_two(const Source* first, const Source* second, Target* to_first, Target* to_second, long long packs, long long more)
        {
            long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
            if (i >= packs + more) return;
            Source a = i < packs ? first[i] : second[i - packs];
            Target r;
            for (int j = 0; j < VEC; j++) store(&r.v[j], widen(a.v[j]));
            *(i < packs ? to_first + i : to_second + (i - packs)) = r;
        }
        """;

    private static readonly CudaProgram Program = new("DeviceMath", Source);

    /// <summary>The card that a tensor lies on.</summary>
    public static CudaDevice Gpu(this Tensor tensor) => CudaDevice.Get(tensor.Device.Index);

    public static void Convert(Tensor source, Tensor target) => Run("convert", source, target);

    /// <summary>Two tensors of one float type in another, by one launch; the caller disposes them.</summary>
    public static (Tensor First, Tensor Second) ConvertTwo(Tensor first, Tensor second, DType type)
    {
        if (first.Type == type && second.Type == type) return (first.Alias(), second.Alias());
        var (a, b) = (Tensor.Empty(type, first.Device, first.Shape), Tensor.Empty(type, second.Device, second.Shape));
        var packs = Packs.Of(first.Count | second.Count, a, first, second, b);
        Program.Kernel(first.Gpu(), "convert_two", packs.Options)
            .Launch(packs.Blocks(first.Count + second.Count), Packs.Block, first.Pointer, second.Pointer, a.Pointer, b.Pointer, packs.In(first.Count),
                packs.In(second.Count));
        return (a, b);
    }

    /// <summary>target += source, summed in F32 and rounded to target's type.</summary>
    public static void AddInto(Tensor target, Tensor source) => Run("add_into", source, target);

    private static void Run(string entry, Tensor source, Tensor target)
    {
        if (!source.Type.IsFloat() || !target.Type.IsFloat())
            throw new NotSupportedException($"[DeviceMath] from {source.Type} to {target.Type}: only F32 and BF16 are converted on a card");
        var packs = Packs.Of(target.Count, target, source);
        Program.Kernel(target.Gpu(), entry, packs.Options)
            .Launch(packs.Blocks(target.Count), Packs.Block, source.Pointer, target.Pointer, packs.In(target.Count));
    }
}
