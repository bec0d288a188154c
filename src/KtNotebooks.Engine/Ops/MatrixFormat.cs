using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>
/// How the matrices of an expert bank are stored. In the low-bit formats an element is code · scale; it counts as rounded to the type of the rows that it
/// meets. The values are kt.h's type codes.
/// </summary>
public enum MatrixFormat
{
    F32 = 0,
    BF16 = 1,

    /// <summary>Data F8E4M3 [N, K], scales F32 [⌈N/128⌉, ⌈K/128⌉]: DeepSeek's weight and weight_scale_inv.</summary>
    Fp8 = 2,

    /// <summary>Data I8 [N, K], scales F32 [N].</summary>
    Int8 = 3,

    /// <summary>
    /// Data U8 [N, K/2], element 2j in the low nibble of byte j, stored as value + 8; scales BF16 [N, K/32]: byte for byte Kimi-K2's pack-quantized form.
    /// </summary>
    Int4 = 4,
}

public static class MatrixFormats
{
    /// <summary>Side of a square of FP8 codes that share a scale.</summary>
    public const int Fp8Block = 128;

    /// <summary>Neighbours in a row that share a scale of 4-bit codes.</summary>
    public const int Int4Group = 32;

    /// <summary>The names that configs use.</summary>
    public static IReadOnlyList<string> Names { get; } = ["f32", "bf16", "fp8", "int8", "int4"];

    public static bool IsLowBit(this MatrixFormat format) => format > MatrixFormat.BF16;

    public static string Name(this MatrixFormat format) => Names[(int)format];

    /// <exception cref="ArgumentException">Not one of <see cref="Names"/>.</exception>
    public static MatrixFormat Parse(string name) => Names.ToList().IndexOf(name) is >= 0 and var index ? (MatrixFormat)index
        : throw new ArgumentException($"a format must be one of {string.Join(", ", Names)}, but is '{name}'");

    public static MatrixFormat Of(DType type) => type switch
    {
        DType.F32 => MatrixFormat.F32,
        DType.BF16 => MatrixFormat.BF16,
        DType.F8E4M3 => MatrixFormat.Fp8,
        DType.I8 => MatrixFormat.Int8,
        _ => throw new ArgumentException($"[Matrices] no matrix is stored as {type}"),
    };

    /// <summary>Type of the data tensor.</summary>
    public static DType DataType(this MatrixFormat format) => format switch
    {
        MatrixFormat.F32 => DType.F32,
        MatrixFormat.BF16 => DType.BF16,
        MatrixFormat.Fp8 => DType.F8E4M3,
        MatrixFormat.Int8 => DType.I8,
        _ => DType.U8,
    };

    /// <summary>Type of the scales tensor of a low-bit format.</summary>
    public static DType ScaleType(this MatrixFormat format) => format == MatrixFormat.Int4 ? DType.BF16 : DType.F32;

    /// <summary>Shape of the data tensor of a matrix [n, k].</summary>
    public static long[] DataShape(this MatrixFormat format, long n, long k) => format == MatrixFormat.Int4 ? [n, k / 2] : [n, k];

    /// <summary>Shape of the scales tensor of a low-bit matrix [n, k].</summary>
    public static long[] ScaleShape(this MatrixFormat format, long n, long k) => format switch
    {
        MatrixFormat.Fp8 => [(n + Fp8Block - 1) / Fp8Block, (k + Fp8Block - 1) / Fp8Block],
        MatrixFormat.Int8 => [n],
        MatrixFormat.Int4 => [n, k / Int4Group],
        _ => throw new ArgumentException($"[Matrices] {format} has no scales"),
    };

    /// <summary>Bytes of a matrix [n, k], scales included.</summary>
    public static long Bytes(this MatrixFormat format, long n, long k)
    {
        var data = format.DataShape(n, k).Aggregate((long)format.DataType().Size(), (product, dim) => product * dim);
        return format.IsLowBit() ? data + format.ScaleShape(n, k).Aggregate((long)format.ScaleType().Size(), (product, dim) => product * dim) : data;
    }

    /// <summary>Why a matrix with rows of k elements cannot have this format; null when it can.</summary>
    public static string? Refusal(this MatrixFormat format, long k) => format == MatrixFormat.Int4 && k % Int4Group != 0
        ? $"int4 needs rows of a multiple of {Int4Group} elements, but they have {k}" : null;
}
