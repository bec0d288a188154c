
namespace KtNotebooks.Tensors;

/// <summary>
/// A row-major, contiguous view on a counted native buffer. Shapes are lists of dimensions; most ops see a tensor as
/// <see cref="Rows"/> rows of <see cref="Width"/> elements, the last dimension. Lengths are 64 bits: the experts of one large layer exceed 2³¹ elements.
/// Whoever makes a tensor outside a tape disposes it; a recording tape owns what is made while it records.
/// </summary>
public sealed class Tensor : IDisposable
{
    private readonly long[] _shape;
    private readonly Buffer _buffer;
    private readonly long _byteOffset;
    private int _disposed;

    internal Tensor(Buffer buffer, long byteOffset, DType type, ReadOnlySpan<long> shape)
    {
        _shape = shape.ToArray();
        Count = 1;
        foreach (var dim in _shape) Count = checked(Count * dim);
        Type = type;
        _buffer = buffer;
        _byteOffset = byteOffset;
        if (byteOffset + ByteLength > buffer.ByteLength)
            throw new ArgumentException($"[Tensor] {this} does not fit in {buffer.ByteLength} bytes at offset {byteOffset}");
        buffer.Retain();
    }

    public ReadOnlySpan<long> Shape => _shape;

    public int Rank => _shape.Length;

    public DType Type { get; }

    public Device Device => _buffer.Device;

    /// <summary>Number of elements.</summary>
    public long Count { get; }

    public long ByteLength => Count * Type.Size();

    /// <summary>The last dimension (1 for a scalar).</summary>
    public int Width => _shape.Length == 0 ? 1 : checked((int)_shape[^1]);

    /// <summary>All dimensions but the last, multiplied.</summary>
    public int Rows => Width == 0 ? 0 : checked((int)(Count / Width));

    /// <summary>A trainable parameter, or something computed from one.</summary>
    public bool RequiresGrad { get; set; }

    /// <summary>Where backward adds the gradient of a leaf; null until then. F32 for parameters.</summary>
    public Tensor? Grad { get; set; }

    internal nint Pointer => _disposed != 0 ? throw new ObjectDisposedException(nameof(Tensor), $"tensor {this} has been disposed")
        : (nint)(_buffer.Pointer + _byteOffset);

    /// <summary>In page-locked host memory: a card can copy from here behind our back.</summary>
    internal bool IsPinned => _buffer is PinnedBuffer;

    /// <summary>Where a disk is its home; null: it is in memory.</summary>
    internal DiskBuffer? OnDisk => _buffer as DiskBuffer;

    /// <summary>The host's memory holds none of it: bytes of a checkpoint, or not there at all.</summary>
    public bool IsMapped => Device.Kind == DeviceKind.Cpu && _buffer is not (HostBuffer or PinnedBuffer or DiskBuffer or TiledBuffer);

    internal bool IsUnique => _buffer.IsUnique;

    /// <summary>What it is a view on, and from which byte on.</summary>
    internal (Buffer Buffer, long Offset) Home => (_buffer, _byteOffset);

    /// <summary>Where its bytes are brought from when its layer is at work; null: they are where they are.</summary>
    internal VisitingBuffer? Visiting => _buffer as VisitingBuffer;

    /// <summary>The whole of a matrix in the CPU kernels' tiles; null: rows, or a part of such a matrix.</summary>
    internal TiledBuffer? Tiled => _buffer is TiledBuffer tiled && HasShape(tiled.Rows, tiled.Width) ? tiled : null;

    /// <summary>Its values lie in rows, one after the other, wherever that is.</summary>
    internal bool IsInRows => _buffer is not TiledBuffer;

    /// <summary>Writes its bytes to host memory on the shortest way: see <see cref="Buffer.Bring"/>.</summary>
    internal void Bring(nint target) => _buffer.Bring(_byteOffset, target, ByteLength);

    /// <summary>Dimension <paramref name="index"/>; negative counts from the end.</summary>
    public long Dim(int index) => _shape[index < 0 ? _shape.Length + index : index];

    public bool HasShape(params ReadOnlySpan<long> shape) => shape.SequenceEqual(_shape);

    /// <summary>Another view on the same elements with another shape of the same count.</summary>
    public Tensor View(params ReadOnlySpan<long> shape)
    {
        long count = 1;
        foreach (var dim in shape) count = checked(count * dim);
        if (count != Count)
            throw new ArgumentException($"[Tensor] a view must keep all {Count} elements of {this}, but [{string.Join(", ", shape.ToArray())}] has another "
                + "count");
        return new Tensor(_buffer, _byteOffset, Type, shape);
    }

    /// <summary>A tensor of any type on bytes of this one's memory, from <paramref name="byteOffset"/> of its first element on.</summary>
    internal Tensor Reinterpret(long byteOffset, DType type, params ReadOnlySpan<long> shape) => new(_buffer, _byteOffset + byteOffset, type, shape);

    /// <summary>A second handle on the same memory.</summary>
    public Tensor Alias() => new(_buffer, _byteOffset, Type, _shape) { RequiresGrad = RequiresGrad };

    /// <summary>Rows [start, start + length) of the first dimension, as a view.</summary>
    public Tensor Slice(long start, long length)
    {
        if (Rank == 0 || start < 0 || length < 0 || start + length > _shape[0])
            throw new ArgumentOutOfRangeException(nameof(start), $"[Tensor] rows {start} … {start + length} are not in {this}");
        var shape = (long[])_shape.Clone();
        var stride = _shape[0] == 0 ? 0 : Count / _shape[0];
        shape[0] = length;
        return new Tensor(_buffer, _byteOffset + (start * stride * Type.Size()), Type, shape);
    }

    /// <summary>The elements in place. Only for host tensors below 2³¹ elements whose type has <typeparamref name="T"/>'s size.</summary>
    public unsafe Span<T> Span<T>()
        where T : unmanaged
    {
        return new Span<T>(Host<T>(), checked((int)Count));
    }

    /// <summary>One row in place, row in [0, Rows), of host tensors of any length; not to be used after the tensor is disposed.</summary>
    public unsafe Span<T> Row<T>(long row)
        where T : unmanaged
    {
        var width = Width;
        if (row < 0 || row >= Count / Math.Max(1, width)) throw new ArgumentOutOfRangeException(nameof(row), $"[Tensor] row {row} is not in {this}");
        return new Span<T>(Host<T>() + (row * width), width);
    }

    private unsafe T* Host<T>()
        where T : unmanaged
    {
        if (Device.Kind != DeviceKind.Cpu) throw new InvalidOperationException($"[Tensor] {this} is not in host memory; copy it with ToHost first");
        if (sizeof(T) != Type.Size()) throw new InvalidOperationException($"[Tensor] {this} has {Type.Size()}-byte elements, asked for {sizeof(T)}-byte ones");
        return (T*)Pointer;
    }

    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0) return;
        _buffer.Release();
        Grad?.Dispose();
    }

    public override string ToString() => $"{Type}[{string.Join(", ", _shape)}]";

    /// <summary>Uninitialised.</summary>
    public static Tensor Empty(DType type, Device device, params ReadOnlySpan<long> shape)
    {
        long count = 1;
        foreach (var dim in shape)
        {
            if (dim < 0) throw new ArgumentException($"[Tensor] a dimension is negative: [{string.Join(", ", shape.ToArray())}]");
            count = checked(count * dim);
        }
        try
        {
            return new Tensor(Memory.Allocate(device, checked(count * type.Size())), 0, type, shape);
        }
        catch (InsufficientMemoryException e)
        {
            throw new InsufficientMemoryException($"[Tensor] {type}[{string.Join(", ", shape.ToArray())}]: {e.Message}", e);
        }
    }

    public static Tensor Empty(DType type, params ReadOnlySpan<long> shape) => Empty(type, Device.Cpu, shape);

    public static Tensor Zeros(DType type, params ReadOnlySpan<long> shape) => Zeros(type, Device.Cpu, shape);

    public static Tensor Zeros(DType type, Device device, params ReadOnlySpan<long> shape)
    {
        var tensor = Empty(type, device, shape);
        Memory.Clear(tensor);
        return tensor;
    }

    /// <summary>A host tensor with the given values, rounded when <paramref name="type"/> is BF16.</summary>
    public static Tensor From(ReadOnlySpan<float> values, DType type, params ReadOnlySpan<long> shape)
    {
        var tensor = Empty(type, shape);
        tensor.Store(values);
        return tensor;
    }

    public static Tensor From(ReadOnlySpan<float> values, params ReadOnlySpan<long> shape) => From(values, DType.F32, shape);

    public static Tensor From(ReadOnlySpan<int> values, params ReadOnlySpan<long> shape)
    {
        var tensor = Empty(DType.I32, shape);
        values.CopyTo(tensor.Span<int>());
        return tensor;
    }

    /// <summary>A copy of the values as F32, from any device and either float type.</summary>
    public float[] ToFloats()
    {
        var values = new float[Count];
        CopyTo(values);
        return values;
    }

    /// <summary>The same into a place of the caller's.</summary>
    public void CopyTo(Span<float> values)
    {
        using var host = this.ToHost();
        switch (Type)
        {
            case DType.F32: host.Span<float>().CopyTo(values); break;
            case DType.BF16: Bf16.Widen(host.Span<ushort>(), values); break;
            default: throw new InvalidOperationException($"[Tensor] {this} is not a float tensor");
        }
    }

    public int[] ToInts()
    {
        using var host = this.ToHost();
        return host.Span<int>().ToArray();
    }

    /// <summary>Overwrites a host tensor with values, rounding to BF16 where needed.</summary>
    public void Store(ReadOnlySpan<float> values)
    {
        if (values.Length != Count) throw new ArgumentException($"[Tensor] {this} has {Count} elements, got {values.Length} values");
        switch (Type)
        {
            case DType.F32: values.CopyTo(Span<float>()); break;
            case DType.BF16: Bf16.Narrow(values, Span<ushort>()); break;
            default: throw new InvalidOperationException($"[Tensor] {this} is not a float tensor");
        }
    }

    /// <summary>The only element of a one-element tensor.</summary>
    public float Item()
    {
        if (Count != 1) throw new InvalidOperationException($"[Tensor] Item wants one element, {this} has {Count}");
        return ToFloats()[0];
    }
}
