using KtNotebooks.Interop;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>
/// Decoding of low-bit matrices: code · scale in F32, rounded once where BF16 is wanted. The native kernels and the managed loop give the same bits.
/// </summary>
public static unsafe class LowBit
{
    /// <summary>The whole matrix [n, k] as a new tensor of <paramref name="type"/>, F32 or BF16; rows in parallel.</summary>
    public static Tensor Decode(MatrixFormat format, Tensor data, Tensor scales, long n, long k, DType type)
    {
        ArgumentNullException.ThrowIfNull(data);
        ArgumentNullException.ThrowIfNull(scales);
        var target = Tensor.Empty(type, n, k);
        RowParallel.For(n, k, (first, last) =>
            DecodeRows(format, data, scales, k, first, last - first, (void*)(target.Pointer + (nint)(first * k * type.Size())), type));
        return target;
    }

    /// <summary>Rows [row, row + rows) to memory of F32 or BF16, on the calling thread.</summary>
    internal static void DecodeRows(MatrixFormat format, Tensor data, Tensor scales, long k, long row, long rows, void* target, DType type)
    {
        if (Cpu.IsNative)
        {
            Native.Ok(Native.kt_decode((int)format, (void*)data.Pointer, (void*)scales.Pointer, k, row, rows, target, type == DType.BF16 ? Native.BF16
                : Native.F32));
            return;
        }
        var width = checked((int)k);
        var scratch = type == DType.BF16 ? new float[width] : [];
        for (long i = 0; i < rows; i++)
        {
            var floats = type == DType.BF16 ? scratch : new Span<float>((float*)target + (i * k), width);
            PlainRow(format, data, scales, row + i, floats);
            if (type == DType.BF16) Bf16.Narrow(floats, new Span<ushort>((ushort*)target + (i * k), width));
        }
    }

    /// <summary>The definition: one row, element by element.</summary>
    internal static void PlainRow(MatrixFormat format, Tensor data, Tensor scales, long row, Span<float> target)
    {
        switch (format)
        {
            case MatrixFormat.Fp8:
                var codes = data.Row<byte>(row);
                var blocks = scales.Row<float>(row / MatrixFormats.Fp8Block);
                for (var j = 0; j < target.Length; j++) target[j] = Fp8.ToFloat(codes[j]) * blocks[j / MatrixFormats.Fp8Block];
                break;
            case MatrixFormat.Int8:
                var bytes = data.Row<sbyte>(row);
                var scale = ((float*)scales.Pointer)[row];
                for (var j = 0; j < target.Length; j++) target[j] = bytes[j] * scale;
                break;
            case MatrixFormat.Int4:
                var pairs = data.Row<byte>(row);
                var groups = scales.Row<ushort>(row);
                for (var j = 0; j < target.Length; j++)
                    target[j] = (((pairs[j / 2] >> (j % 2 * 4)) & 15) - 8) * Bf16.ToFloat(groups[j / MatrixFormats.Int4Group]);
                break;
            default:
                throw new ArgumentException($"[LowBit] {format} is not a low-bit format");
        }
    }
}
