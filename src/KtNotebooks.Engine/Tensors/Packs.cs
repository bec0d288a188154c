namespace KtNotebooks.Tensors;

/// <summary>
/// How a kernel goes over the elements of rows: a thread moves VEC neighbours at once, 16 bytes of the type T, where the width and all addresses allow it;
/// else one. The options define TYPE (T), OTHER (a second element type) and VEC; they are made once, so that a launch allocates nothing.
/// </summary>
/// <param name="Options">For <see cref="Interop.Cuda.CudaProgram.Kernel"/>.</param>
/// <param name="Vec">Elements of a pack.</param>
internal readonly record struct Packs(string Options, int Vec)
{
    /// <summary>Threads of a block where every pack has a thread of its own.</summary>
    public const int Block = 256;

    private static readonly string[] Known = [.. Enumerable.Range(0, 8)
        .Select(i => $"-DTYPE={Name((i & 1) != 0)} -DOTHER={Name((i & 2) != 0)} -DVEC={((i & 4) == 0 ? 1 : (i & 1) != 0 ? 8 : 4)}")];

    /// <summary>
    /// Tensors seen as rows of <paramref name="width"/> elements (of several widths: their bitwise or): <paramref name="main"/> of type T,
    /// <paramref name="other"/> of OTHER, the rest of either.
    /// </summary>
    public static Packs Of(long width, Tensor main, Tensor other, params ReadOnlySpan<Tensor?> rest)
    {
        var vec = main.Type == DType.BF16 ? 8 : 4;
        var wide = width % vec == 0 && Aligned(main, vec) && Aligned(other, vec);
        foreach (var tensor in rest) wide &= tensor is null || Aligned(tensor, vec);
        return new Packs(Known[(main.Type == DType.BF16 ? 1 : 0) | (other.Type == DType.BF16 ? 2 : 0) | (wide ? 4 : 0)], wide ? vec : 1);
    }

    /// <summary>Packs in a row or a tensor.</summary>
    public long In(long elements) => elements / Vec;

    /// <summary>Threads of a block that goes over one row.</summary>
    public int Threads(long width) => (int)Math.Clamp((In(width) + 31) / 32 * 32, 32, 512);

    /// <summary>Blocks of <see cref="Block"/> threads for all packs.</summary>
    public long Blocks(long elements) => (In(elements) + Block - 1) / Block;

    private static bool Aligned(Tensor tensor, int vec) => tensor.Pointer % (vec * tensor.Type.Size()) == 0;

    private static string Name(bool bf16) => bf16 ? "bf16" : "float";
}
