using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>How Absorbed.cu is compiled.</summary>
internal enum AbsorbedForm
{
    OneRow,
    EightRows,

    /// <summary>Eight rows, their columns by packs of eight.</summary>
    EightRowsPacked,
    OneRowPacked,

    /// <summary>Tensor cores, for up to eight rows.</summary>
    FewTiles,

    /// <summary>Tensor cores, for more.</summary>
    Tiles,
}

/// <summary>The program of Absorbed.cu.</summary>
internal static class AbsorbedKernels
{
    private static readonly CudaProgram Program = new("Absorbed", CudaProgram.Resource("Ops.Absorbed.cu"));

    private static readonly string[] Scalar = ["-DROWS=1 -DVEC=1", "-DROWS=8 -DVEC=1", "-DROWS=8 -DVEC=8", "-DROWS=1 -DVEC=8"];

    private static readonly string[] Options = [.. ((string[])[.. Scalar, "-DROWS=8 -DVEC=8 -DTILES", "-DROWS=32 -DVEC=8 -DTILES"])
        .SelectMany(form => new[] { form + " -DTYPE=float", form + " -DTYPE=bf16" })];

    /// <summary>Of T rows; <paramref name="packed"/>: R and all addresses are multiples of 8 elements.</summary>
    public static AbsorbedForm Form(int tokens, bool packed = false) => (tokens == 1, packed) switch
    {
        (true, false) => AbsorbedForm.OneRow,
        (true, true) => AbsorbedForm.OneRowPacked,
        (false, false) => AbsorbedForm.EightRows,
        _ => AbsorbedForm.EightRowsPacked,
    };

    /// <summary>Of T rows in one pass over the weights.</summary>
    public static int Rows(AbsorbedForm form) => form switch
    {
        AbsorbedForm.OneRow or AbsorbedForm.OneRowPacked => 1,
        AbsorbedForm.Tiles => 32,
        _ => 8,
    };

    /// <param name="like">Its type and card.</param>
    /// <param name="entry">Name in the file.</param>
    /// <param name="form">Of the kernel.</param>
    public static CudaKernel Kernel(Tensor like, string entry, AbsorbedForm form) =>
        Program.Kernel(like.Gpu(), entry, Options[((int)form * 2) + (like.Type == DType.BF16 ? 1 : 0)]);
}
