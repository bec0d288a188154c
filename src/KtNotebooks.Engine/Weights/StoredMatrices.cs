using System.Numerics.Tensors;

using KtNotebooks.Formats;
using KtNotebooks.Tensors;

namespace KtNotebooks.Weights;

/// <summary>
/// Matrices of a checkpoint in whatever format they are stored: plain (`X.weight`), or in parts whose names, types and shapes the format's
/// <see cref="StoredForm"/> tells. A matrix and its scales may lie in different shards.
/// </summary>
internal sealed class StoredMatrices(Checkpoint checkpoint)
{
    private readonly StackedExperts _stacked = new(checkpoint);

    /// <summary>The matrix that a data tensor belongs to: its name without what a format adds.</summary>
    public static string MatrixOf(string tensor) =>
        StorageFormat.All.FirstOrDefault(f => f.Stored is { Data.Length: > 0 } form && tensor.EndsWith(form.Data, StringComparison.Ordinal)) is { } format
            ? tensor[..^format.Stored!.Data.Length] : tensor;

    /// <summary>How a tensor of this name is stored; null: not a matrix, or not there.</summary>
    public StorageFormat? FormatOf(string name) =>
        StorageFormat.All.FirstOrDefault(f =>
            f.Stored is { } form && checkpoint.Has(name + form.Data) && checkpoint.Entry(name + form.Data).Type == form.DataType)
        ?? (!checkpoint.Has(name) ? null : StorageFormat.All.FirstOrDefault(f => !f.IsLowBit && f.DataType == checkpoint.Entry(name).Type));

    /// <summary>How these experts are stored; null: they are not there.</summary>
    public StorageFormat? FormatOf(ExpertProjection names) => _stacked.FormatOf(names) ?? FormatOf(names.Weight(0));

    /// <summary>A low-bit matrix as a tensor of <paramref name="type"/>.</summary>
    public Tensor Dequantize(string name, StorageFormat format, long n, long k, DType type)
    {
        var (data, scales) = Stored(name, format, n, k, inMemory: false);
        using (data)
        using (scales)
        {
            var values = format.Dequantize(data, scales, n, k, type);
            foreach (var part in (string[])[name + format.Stored!.Data, name + format.Stored.Scales]) checkpoint.FileOf(part).Drop(part);
            return values;
        }
    }

    public Matrices TakeExperts(ExpertProjection names, DType type, int count, long n, long k)
    {
        if (_stacked.Has(names)) return _stacked.Take(names, type, count, n, k);
        var (path, stored) = (names.Path, FormatOf(names.Weight(0)));
        var wanted = checkpoint.FormatOf(path) ?? stored ?? StorageFormat.Of(type);
        if (!wanted.IsLowBit) return Matrices.Each(All(count, e => checkpoint.Take(names.Weight(e), type, n, k)));
        if (wanted.Refusal(k) is { } refusal)
            throw new InvalidDataException($"{checkpoint.Folder}: experts '{path}.*.{names.Name}.weight' [{n}, {k}]: {refusal}; choose int8 or fp8");
        var scales = new Tensor[count];
        var inMemory = checkpoint.InMemory(path);
        var data = All(count, e =>
        {
            var name = names.Weight(e);
            (var codes, scales[e]) = wanted == FormatOf(name) ? Stored(name, wanted, n, k, inMemory) : Quantize(name, wanted, n, k);
            return codes;
        });
        return Matrices.Each(wanted, data, scales, n, k);
    }

    /// <summary>Codes and scales as they are stored, scales in the format's own type.</summary>
    private (Tensor Data, Tensor Scales) Stored(string name, StorageFormat format, long n, long k, bool inMemory)
    {
        var form = format.Stored!;
        CheckShape(name, form, n, k);
        Expect(name + form.Data, form.DataType, [n, k / form.ElementsEach]);
        var scales = Scales(name, format, n, k, inMemory);
        return (checkpoint.TakeBytes(name + form.Data, inMemory, format.DataType, format.DataShape(n, k)), scales);
    }

    /// <summary>
    /// The scales of a low-bit matrix. Those of a narrower float type than the format's own are widened, which is exact, into memory of ours (FP8's are
    /// 1/8192 of the codes).
    /// </summary>
    public Tensor Scales(string name, StorageFormat format, long n, long k, bool inMemory)
    {
        CheckScales(name, format, n, k);
        var entry = checkpoint.Entry(name + format.Stored!.Scales);
        if (entry.Type == format.ScaleType) return checkpoint.TakeBytes(entry.Name, inMemory, entry.Type, format.ScaleShape(n, k));
        var file = checkpoint.FileOf(entry.Name);
        using var narrow = file.Read(entry.Name, entry.Type, entry.Shape);
        var wide = Tensor.Empty(DType.F32, entry.Shape);
        if (entry.Type == DType.BF16) Bf16.Widen(narrow.Span<ushort>(), wide.Span<float>());
        else TensorPrimitives.ConvertToSingle(narrow.Span<Half>(), wide.Span<float>());
        checkpoint.Took(file, entry, drop: false);
        return wide;
    }

    /// <summary>Fails when the scales of a low-bit matrix [n, k] are missing, or of another type or shape.</summary>
    public void CheckScales(string name, StorageFormat format, long n, long k)
    {
        var form = format.Stored!;
        if (!checkpoint.Has(name + form.Scales))
            throw new InvalidDataException($"{checkpoint.FileOf(name + form.Data).Path}: tensor '{name}' is stored as {format.Name}, but its "
                + $"scales '{name}{form.Scales}' are in no shard");
        var (scales, wanted) = (checkpoint.Entry(name + form.Scales), format.ScaleShape(n, k));
        if (form.ScaleTypes.Contains(scales.Type) && scales.Shape.AsSpan().SequenceEqual(wanted)) return;
        var types = string.Join(" or ", new[] { string.Join(", ", form.ScaleTypes[..^1]), form.ScaleTypes[^1].ToString() }.Where(t => t.Length > 0));
        throw new InvalidDataException($"{checkpoint.FileOf(scales.Name).Path}: tensor '{scales.Name}' must be "
            + $"{types}{(form.ScaleTypes.Length > 1 ? " " : "")}[{string.Join(", ", wanted)}], but is {scales.Type}[{string.Join(", ", scales.Shape)}]");
    }

    /// <summary>Quantizes a matrix while it is loaded. From a low-bit one by way of F32.</summary>
    private (Tensor Data, Tensor Scales) Quantize(string name, StorageFormat wanted, long n, long k)
    {
        HostMemory.Require(wanted.Bytes(n, k));
        var stored = FormatOf(name);
        using var floats = stored?.IsLowBit == true ? Dequantize(name, stored, n, k, DType.F32)
            : checkpoint.Take(name, stored == StorageFormat.F32 ? DType.F32 : DType.BF16, n, k);
        var quantized = wanted.Quantize(floats);
        if (stored?.IsLowBit == false) checkpoint.FileOf(name).Drop(name);
        return quantized;
    }

    private void Expect(string name, DType type, long[] shape)
    {
        var entry = checkpoint.Entry(name);
        if (entry.Type != type || !entry.Shape.AsSpan().SequenceEqual(shape))
            throw new InvalidDataException($"{checkpoint.FileOf(name).Path}: tensor '{name}' must be {type}[{string.Join(", ", shape)}], but "
                + $"is {entry.Type}[{string.Join(", ", entry.Shape)}]");
    }

    /// <summary>A tensor that says [N, K] where the packed form has lost it.</summary>
    private void CheckShape(string name, StoredForm form, long n, long k)
    {
        if (form.Shape is not { } suffix || !checkpoint.Has(name + suffix)) return;
        var file = checkpoint.FileOf(name + suffix);
        using var shape = file.Get(name + suffix);
        long[] values = shape.Type switch
        {
            DType.I64 => shape.Span<long>().ToArray(),
            DType.I32 => [.. shape.ToInts().Select(v => (long)v)],
            _ => throw new InvalidDataException($"{file.Path}: tensor '{name}{suffix}' must be I64[2], but is {shape}"),
        };
        if (!values.AsSpan().SequenceEqual([n, k]))
            throw new InvalidDataException($"{file.Path}: tensor '{name}' must be [{n}, {k}] by config.json, but '{name}{suffix}' "
                + $"says [{string.Join(", ", values)}]");
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
