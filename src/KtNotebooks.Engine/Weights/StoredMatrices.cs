using System.Numerics.Tensors;

using KtNotebooks.Ops;
using KtNotebooks.Tensors;

namespace KtNotebooks.Weights;

/// <summary>
/// Matrices of a checkpoint in whatever format they are stored: plain (`X.weight`), FP8 (`X.weight` F8E4M3 with `X.weight_scale_inv` in F32, BF16 or F16), or 4
/// bits (`X.weight_packed` I32 [N, K/8],
/// `X.weight_scale` BF16 [N, K/32], `X.weight_shape`). A matrix and its scales may lie in different shards.
/// </summary>
internal sealed class StoredMatrices(Checkpoint checkpoint)
{
    internal const string Fp8ScaleSuffix = "_scale_inv";
    internal const string Packed = "_packed";
    private const string PackedScales = "_scale";
    private const string PackedShape = "_shape";

    /// <summary>How a tensor of this name is stored; null: not a matrix, or not there.</summary>
    public MatrixFormat? FormatOf(string name) => !checkpoint.Has(name) ? checkpoint.Has(name + Packed) ? MatrixFormat.Int4 : null
        : checkpoint.Entry(name).Type switch { DType.F32 => MatrixFormat.F32, DType.BF16 => MatrixFormat.BF16, DType.F8E4M3 => MatrixFormat.Fp8, _ => null };

    /// <summary>A low-bit matrix as a tensor of <paramref name="type"/>.</summary>
    public Tensor Decode(string name, MatrixFormat format, long n, long k, DType type)
    {
        var (data, scales) = Stored(name, format, n, k, inMemory: false);
        using (data)
        using (scales)
        {
            var decoded = LowBit.Decode(format, data, scales, n, k, type);
            Drop(name, format);
            return decoded;
        }
    }

    public Matrices TakeExperts(string path, string suffix, DType type, int count, long n, long k)
    {
        string Name(int e) => $"{path}.{e}.{suffix}";
        var stored = FormatOf(Name(0));
        var wanted = checkpoint.FormatOf(path) ?? stored ?? MatrixFormats.Of(type);
        if (!wanted.IsLowBit()) return Matrices.Each(All(count, e => checkpoint.Take(Name(e), type, n, k)));
        if (wanted.Refusal(k) is { } refusal)
            throw new InvalidDataException($"{checkpoint.Folder}: experts '{path}.*.{suffix}' [{n}, {k}]: {refusal}; choose int8 or fp8");
        var scales = new Tensor[count];
        var inMemory = checkpoint.InMemory(path);
        var data = All(count, e =>
        {
            (var codes, scales[e]) = wanted == FormatOf(Name(e)) ? Stored(Name(e), wanted, n, k, inMemory) : Encode(Name(e), wanted, n, k);
            return codes;
        });
        return Matrices.Each(wanted, data, scales, n, k);
    }

    /// <summary>Codes and scales as they are stored; FP8 scales as F32.</summary>
    private (Tensor Data, Tensor Scales) Stored(string name, MatrixFormat format, long n, long k, bool inMemory)
    {
        if (format == MatrixFormat.Fp8)
        {
            Expect(name, DType.F8E4M3, [n, k]);
            var scales = Fp8Scales(name, n, k, inMemory);
            return (checkpoint.TakeBytes(name, inMemory, DType.F8E4M3, n, k), scales);
        }
        CheckPackedShape(name, n, k);
        RequireScales(name, name + Packed, name + PackedScales, format);
        Expect(name + Packed, DType.I32, [n, k / 8]);
        Expect(name + PackedScales, format.ScaleType(), format.ScaleShape(n, k));
        return (checkpoint.TakeBytes(name + Packed, inMemory, format.DataType(), format.DataShape(n, k)),
            checkpoint.TakeBytes(name + PackedScales, inMemory, format.ScaleType(), format.ScaleShape(n, k)));
    }

    /// <summary>
    /// The scales of an FP8 matrix as F32. DeepSeek stores them so; Qwen3's FP8 releases have BF16, others F16: both are widened, which is exact, into memory
    /// of ours (they are 1/8192 of the codes).
    /// </summary>
    public Tensor Fp8Scales(string name, long n, long k, bool inMemory)
    {
        CheckFp8Scales(name, n, k);
        var entry = checkpoint.Entry(name + Fp8ScaleSuffix);
        if (entry.Type == DType.F32) return checkpoint.TakeBytes(entry.Name, inMemory, DType.F32, entry.Shape);
        var file = checkpoint.FileOf(entry.Name);
        using var narrow = file.Read(entry.Name, entry.Type, entry.Shape);
        var wide = Tensor.Empty(DType.F32, entry.Shape);
        if (entry.Type == DType.BF16) Bf16.Widen(narrow.Span<ushort>(), wide.Span<float>());
        else TensorPrimitives.ConvertToSingle(narrow.Span<Half>(), wide.Span<float>());
        checkpoint.Took(file, entry, drop: false);
        return wide;
    }

    /// <summary>Fails when the scales of an FP8 matrix [n, k] are missing, or of another type or shape.</summary>
    public void CheckFp8Scales(string name, long n, long k)
    {
        RequireScales(name, name, name + Fp8ScaleSuffix, MatrixFormat.Fp8);
        var (scales, wanted) = (checkpoint.Entry(name + Fp8ScaleSuffix), MatrixFormat.Fp8.ScaleShape(n, k));
        if (scales.Type is not (DType.F32 or DType.BF16 or DType.F16) || !scales.Shape.AsSpan().SequenceEqual(wanted))
        {
            throw new InvalidDataException($"{checkpoint.FileOf(scales.Name).Path}: tensor '{scales.Name}' must be "
                + $"F32, BF16 or F16 [{string.Join(", ", wanted)}], but is {scales.Type}[{string.Join(", ", scales.Shape)}]");
        }
    }

    /// <summary>Quantises a matrix while it is loaded. From a low-bit one by way of F32.</summary>
    private (Tensor Data, Tensor Scales) Encode(string name, MatrixFormat wanted, long n, long k)
    {
        HostMemory.Require(wanted.Bytes(n, k));
        var stored = FormatOf(name);
        using var floats = stored?.IsLowBit() == true ? Decode(name, stored.Value, n, k, DType.F32)
            : checkpoint.Take(name, stored == MatrixFormat.F32 ? DType.F32 : DType.BF16, n, k);
        var encoded = LowBitEncoder.Encode(wanted, floats);
        if (stored is MatrixFormat.F32 or MatrixFormat.BF16) checkpoint.FileOf(name).Drop(name);
        return encoded;
    }

    private void Drop(string name, MatrixFormat format)
    {
        string[] parts = format == MatrixFormat.Fp8 ? [name, name + Fp8ScaleSuffix] : [name + Packed, name + PackedScales];
        foreach (var part in parts) checkpoint.FileOf(part).Drop(part);
    }

    private void RequireScales(string name, string data, string scales, MatrixFormat format)
    {
        if (checkpoint.Has(scales)) return;
        var file = checkpoint.FileOf(data).Path;
        throw new InvalidDataException($"{file}: tensor '{name}' is stored as {format.Name()}, but its scales '{scales}' are in no shard");
    }

    private void Expect(string name, DType type, long[] shape)
    {
        var entry = checkpoint.Entry(name);
        if (entry.Type != type || !entry.Shape.AsSpan().SequenceEqual(shape))
            throw new InvalidDataException($"{checkpoint.FileOf(name).Path}: tensor '{name}' must be {type}[{string.Join(", ", shape)}], but "
                + $"is {entry.Type}[{string.Join(", ", entry.Shape)}]");
    }

    /// <summary>weight_shape says [N, K] where the packed form has lost it.</summary>
    private void CheckPackedShape(string name, long n, long k)
    {
        if (!checkpoint.Has(name + PackedShape)) return;
        var file = checkpoint.FileOf(name + PackedShape);
        using var shape = file.Get(name + PackedShape);
        long[] values = shape.Type switch
        {
            DType.I64 => shape.Span<long>().ToArray(),
            DType.I32 => [.. shape.ToInts().Select(v => (long)v)],
            _ => throw new InvalidDataException($"{file.Path}: tensor '{name}{PackedShape}' must be I64[2], but is {shape}"),
        };
        if (!values.AsSpan().SequenceEqual([n, k]))
            throw new InvalidDataException($"{file.Path}: tensor '{name}' must be [{n}, {k}] by config.json, but '{name}{PackedShape}' says ["
                + $"{string.Join(", ", values)}]");
    }

    /// <summary>One tensor an expert; what was made is freed when a later one fails.</summary>
    private static Tensor[] All(int count, Func<int, Tensor> make)
    {
        var all = new Tensor[count];
        try
        {
            for (var e = 0; e < count; e++) all[e] = make(e);
            return all;
        }
        catch
        {
            foreach (var tensor in all) tensor?.Dispose();
            throw;
        }
    }
}
