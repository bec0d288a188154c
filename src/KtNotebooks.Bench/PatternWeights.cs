using System.Runtime.CompilerServices;

using KtNotebooks.Formats;
using KtNotebooks.Interop;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Bench;

/// <summary>
/// Weights of true shape for benchmarks, made at memory speed: stretches of one pool of 4 Mi random numbers (normal, deviation 0.02), each tensor from
/// another place in it. Never zeros, which cards multiply faster. Norms are one, biases zero. Experts come in the asked format in host memory; everything else
/// on the asked device.
/// </summary>
public sealed unsafe class PatternWeights : IWeights
{
    private const int Pool = 1 << 22;
    private const float Deviation = 0.02f;
    private readonly Func<string, Device> _deviceOf;
    private readonly StorageFormat _format;
    private readonly ushort[] _values = new ushort[Pool];
    private readonly byte[] _bytes = new byte[Pool], _integers4 = new byte[Pool];

    /// <param name="device">Where all tensors but experts and the token table go.</param>
    /// <param name="format">Of the experts.</param>
    public PatternWeights(Device device, StorageFormat format, ulong seed = 1)
        : this(_ => device, format, seed)
    {
    }

    /// <param name="deviceOf">The same by the tensor's name.</param>
    /// <param name="format">Of the experts.</param>
    public PatternWeights(Func<string, Device> deviceOf, StorageFormat format, ulong seed = 1)
    {
        (_deviceOf, _format) = (deviceOf, format);
        var random = new NormalRandom(seed, "pattern");
        var row = new float[Pool];
        random.Fill(row, Deviation);
        Bf16.Narrow(row, _values);
        for (var i = 0; i < Pool; i++)
        {
            var b = (byte)(random.Next() >> 32);
            _bytes[i] = (b & 0x7F) >= 0x78 ? (byte)(b & 0xBF) : b; // as E4M3 neither NaN nor the largest binade
            // -8 has no counterpart: with it all weights would have a mean, which adds up over a row to more than the rest, and gradients of 27 layers explode.
            _integers4[i] = (byte)(((b & 15) == 0 ? 8 : b & 15) | ((b >> 4) == 0 ? 8 << 4 : b & 0xF0));
        }
    }

    /// <summary>Plain experts come in the CPU kernels' tiles where there are such, as a plan lays them out for the CPU.</summary>
    public bool Tiles { get; init; }

    /// <summary>Experts are made when they are brought to their home, and take no memory until then; nobody else can look at them.</summary>
    public bool Unmade { get; init; }

    /// <summary>Matrices of layers wait in pinned host memory (<see cref="VisitingBuffer"/>).</summary>
    public bool DenseOnHost { get; init; }

    /// <summary>Where the stacked matrices [E, N, K] of experts that are trained lie, by their first one's name; null: they are not trained.</summary>
    public Func<string, long[], Tensor>? Trained { get; init; }

    public Tensor Take(string name, DType type, params ReadOnlySpan<long> shape)
    {
        var tensor = Tensor.Empty(type, shape);
        if (shape.Length == 1) tensor.Store(Enumerable.Repeat(name.EndsWith(".bias", StringComparison.Ordinal) ? 0f : 1f, (int)shape[0]).ToArray());
        else if (type == DType.BF16) Fill(tensor, name);
        else
        {
            using var narrow = Tensor.Empty(DType.BF16, shape);
            Fill(narrow, name);
            using var wide = narrow.To(type);
            Memory.Copy(wide, tensor);
        }
        // The token table is read a few rows at a time: it stays with the host.
        if (name.StartsWith("model.embed_tokens", StringComparison.Ordinal) || _deviceOf(name) is not { Kind: DeviceKind.Cuda } card) return tensor;
        using (tensor) return DenseOnHost && shape.Length == 2 && name.StartsWith("model.layers.", StringComparison.Ordinal)
            ? VisitingBuffer.Of(tensor, card) : tensor.To(card);
    }

    public Matrices TakeExperts(ExpertProjection names, DType type, int count, long n, long k)
    {
        var format = _format == StorageFormat.BF16 ? StorageFormat.Of(type) : _format;
        if (format.Refusal(k) is { } refusal) throw new ArgumentException($"{names.Path}.{names.Name}: {refusal}");
        if (Trained is not null)
        {
            var all = Trained(names.Weight(0), [count, n, k]);
            for (var e = 0; e < count; e++)
            {
                using var one = Tensor.Empty(DType.BF16, n, k);
                Fill(one, names.Weight(e));
                using var place = all.Slice(e, 1);
                Memory.Copy(one, place);
            }
            return Matrices.Stack(all);
        }
        var (data, scales) = (new Tensor[count], new Tensor[count]);
        RowParallel.For(count, Unmade ? 1 : n * k, (first, last) =>
        {
            for (var e = (int)first; e < last; e++)
            {
                var name = names.Weight(e);
                data[e] = Made(format.DataType, format.DataShape(n, k), tensor => Fill(tensor, name, format == StorageFormat.Int4 ? _integers4 : _bytes));
                if (format.IsLowBit)
                    scales[e] = Made(format.ScaleType, format.ScaleShape(n, k), tensor => format.FillScales(tensor, Deviation / format.RandomDeviation));
            }
        });
        if (format.IsLowBit) return Matrices.Each(format, data, scales, n, k);
        return Tiles && type == DType.BF16 && Cpu.MultipliesTiles ? Matrices.Each(data).Tile() : Matrices.Each(data);
    }

    /// <summary>Filled now, or where it is brought to.</summary>
    private Tensor Made(DType type, long[] shape, Action<Tensor> fill)
    {
        if (Unmade)
        {
            var bytes = shape.Aggregate((long)type.Size(), (product, dim) => product * dim);
            return new Tensor(new UnmadeBuffer(bytes, target =>
            {
                using var place = new Tensor(new LentBuffer(target, bytes), 0, type, shape);
                fill(place);
            }), 0, type, shape);
        }
        var tensor = Tensor.Empty(type, shape);
        fill(tensor);
        return tensor;
    }

    private void Fill(Tensor tensor, string name, byte[]? codes = null)
    {
        var start = (int)(NormalRandom.HashOf(name) % Pool) & ~63;
        if (tensor.Type == DType.F32)
        {
            using var narrow = Tensor.Empty(DType.BF16, tensor.Shape);
            Fill(narrow, name);
            using var wide = narrow.To(DType.F32);
            Memory.Copy(wide, tensor);
            return;
        }
        fixed (ushort* values = _values)
        fixed (byte* bytes = codes ?? _bytes)
        {
            var pool = tensor.Type == DType.BF16 ? (byte*)values : bytes;
            var size = (long)Pool * tensor.Type.Size();
            var at = (long)start * tensor.Type.Size();
            for (long done = 0; done < tensor.ByteLength;)
            {
                var part = Math.Min(size - at, tensor.ByteLength - done);
                Unsafe.CopyBlockUnaligned((byte*)tensor.Pointer + done, pool + at, (uint)part);
                (done, at) = (done + part, 0);
            }
        }
    }
}
