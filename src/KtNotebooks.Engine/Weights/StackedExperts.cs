using KtNotebooks.Formats;
using KtNotebooks.Tensors;

namespace KtNotebooks.Weights;

/// <summary>
/// Experts of a checkpoint that holds one projection of all experts, or two of them, in one tensor (<see cref="StackedTensor"/>): `X` [E, K, rows], which is
/// transposed on its way into memory of ours, or gpt-oss's MXFP4, `X_blocks` U8 [E, rows, K/32, 16] and `X_scales` U8 [E, rows, K/32], of which what lies in
/// one piece stays mapped.
/// </summary>
internal sealed class StackedExperts(Checkpoint checkpoint)
{
    private const string Blocks = "_blocks", Scales = "_scales";

    /// <summary>Columns that are turned together.</summary>
    private const int Band = 32;

    private static StorageFormat Packed => StorageFormat.Mxfp4;

    public bool Has(ExpertProjection names) => names.Stacked is { } s && (checkpoint.Has(s.Name) || checkpoint.Has(s.Name + Blocks));

    /// <summary>Null: it is not there.</summary>
    public StorageFormat? FormatOf(ExpertProjection names) => !Has(names) ? null : checkpoint.Has(names.Stacked!.Name + Blocks) ? Packed
        : StorageFormat.Of(checkpoint.Entry(names.Stacked.Name).Type);

    public Matrices Take(ExpertProjection names, DType type, int count, long n, long k)
    {
        var (s, packed) = (names.Stacked!, checkpoint.Has(names.Stacked!.Name + Blocks));
        var wanted = checkpoint.FormatOf(names.Path) ?? (packed ? Packed : StorageFormat.Of(type));
        if (wanted.Refusal(k) is { } refusal)
            throw new InvalidDataException($"{checkpoint.Folder}: experts '{s.Name}' [{n}, {k}]: {refusal}; choose int8 or fp8");
        var (data, scales) = (new Tensor[count], new Tensor[count]);
        try
        {
            if (packed) TakePacked(names, wanted, type, data, scales, n, k);
            else TakePlain(s, wanted, type, data, scales, n, k);
            return wanted.IsLowBit ? Matrices.Each(wanted, data, scales, n, k) : Matrices.Each(data);
        }
        catch
        {
            foreach (var tensor in data.Concat(scales)) tensor?.Dispose();
            throw;
        }
    }

    private void TakePlain(StackedTensor s, StorageFormat wanted, DType type, Tensor[] data, Tensor[] scales, long n, long k)
    {
        var entry = Expect(s.Name, null, [data.Length, k, n * s.Every]);
        HostMemory.Require(data.Length * (wanted.IsLowBit ? wanted.Bytes(n, k) : n * k * type.Size()));
        using (var all = checkpoint.Stored(s.Name))
        using (var rows = all.View(data.Length * k, n * s.Every))
            for (var e = 0; e < data.Length; e++)
            {
                using var floats = Turned(rows, s, e, n, k);
                if (wanted.IsLowBit) (data[e], scales[e]) = wanted.Quantize(floats);
                else data[e] = floats.To(type);
            }
        Took(s, entry, copied: true);
    }

    /// <summary>Expert e of rows [E · K, rows] as a matrix [N, K].</summary>
    private static Tensor Turned(Tensor rows, StackedTensor s, int e, long n, long k)
    {
        var target = Tensor.Empty(DType.F32, n, k);
        RowParallel.For((k + Band - 1) / Band, n * Band, (first, last) =>
        {
            var (scratch, width) = (new float[Band * rows.Width], rows.Width);
            for (var band = first; band < last; band++)
            {
                var (from, columns) = (band * Band, (int)Math.Min(Band, k - (band * Band)));
                for (var c = 0; c < columns; c++)
                {
                    var place = scratch.AsSpan(c * width, width);
                    var row = FloatRows.Load(rows, (e * k) + from + c, place);
                    if (!row.Overlaps(place)) row.CopyTo(place);
                }
                for (long i = 0; i < n; i++)
                {
                    var to = target.Row<float>(i).Slice((int)from, columns);
                    for (var c = 0; c < columns; c++) to[c] = scratch[(c * width) + s.First + (i * s.Every)];
                }
            }
        });
        return target;
    }

    private void TakePacked(ExpertProjection names, StorageFormat wanted, DType type, Tensor[] data, Tensor[] scales, long n, long k)
    {
        var (s, path) = (names.Stacked!, names.Path);
        var rows = data.Length * n * s.Every;
        var entries = (Expect(s.Name + Blocks, DType.U8, [data.Length, n * s.Every, k / 32, 16]),
            Expect(s.Name + Scales, DType.U8, [data.Length, n * s.Every, k / 32]));
        var mapped = wanted == Packed && names.CanStayMapped(Packed);
        if (!mapped) HostMemory.Require(data.Length * (wanted.IsLowBit ? wanted.Bytes(n, k) : n * k * type.Size()));
        using var blocks = Bytes(s.Name + Blocks, mapped && checkpoint.InMemory(path), rows, k / 2);
        using var exponents = Bytes(s.Name + Scales, mapped && checkpoint.InMemory(path), rows, k / 32);
        for (var e = 0; e < data.Length; e++)
        {
            var (codes, powers) = mapped ? (blocks.Slice(e * n, n), exponents.Slice(e * n, n)) : (Rows(blocks, s, e, n), Rows(exponents, s, e, n));
            if (wanted == Packed)
            {
                (data[e], scales[e]) = (codes, powers);
                continue;
            }
            using (codes)
            using (powers)
            {
                var values = Packed.Dequantize(codes, powers, n, k, wanted.IsLowBit ? DType.F32 : type);
                if (!wanted.IsLowBit)
                {
                    data[e] = values;
                    continue;
                }
                using (values) (data[e], scales[e]) = wanted.Quantize(values);
            }
        }
        Took(s, entries.Item1, copied: !mapped);
        Took(s, entries.Item2, copied: !mapped);
    }

    /// <summary>Rows First, First + Every, … of expert e.</summary>
    private static Tensor Rows(Tensor all, StackedTensor s, int e, long n)
    {
        var rows = Tensor.Empty(DType.U8, n, all.Width);
        RowParallel.For(n, all.Width, (first, last) =>
        {
            for (var i = first; i < last; i++) all.Row<byte>((((e * n) + i) * s.Every) + s.First).CopyTo(rows.Row<byte>(i));
        });
        return rows;
    }

    private Tensor Bytes(string name, bool inMemory, long rows, long width)
    {
        var file = checkpoint.FileOf(name);
        if (!inMemory) return file.Get(name, DType.U8, rows, width);
        HostMemory.Require(rows * width);
        return file.Read(name, DType.U8, rows, width);
    }

    /// <summary>A tensor that two projections share is counted once.</summary>
    private void Took(StackedTensor s, TensorEntry entry, bool copied)
    {
        if (s.First == 0) checkpoint.Took(checkpoint.FileOf(entry.Name), entry, drop: copied);
        else if (copied) checkpoint.FileOf(entry.Name).Drop(entry.Name);
    }

    private TensorEntry Expect(string name, DType? type, long[] shape)
    {
        var file = checkpoint.FileOf(name);
        var entry = file.Entries[name];
        return (type is null ? entry.Type.IsFloat() : entry.Type == type) && entry.Shape.AsSpan().SequenceEqual(shape) ? entry
            : throw new InvalidDataException($"{file.Path}: tensor '{name}' must be {type?.ToString() ?? "F32 or BF16"}[{string.Join(", ", shape)}] by "
                + $"config.json, but is {entry.Type}[{string.Join(", ", entry.Shape)}]");
    }
}
