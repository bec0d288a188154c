using KtNotebooks.Interop;
using KtNotebooks.Tensors;

namespace KtNotebooks.Formats;

/// <summary>How the elements of a matrix [N, K] lie.</summary>
public enum MatrixLayout
{
    /// <summary>Row by row, as checkpoints have them.</summary>
    Rows,

    /// <summary>
    /// In the CPU kernels' tiles (formats.h: KT_TILED), N and K padded to multiples of 32: nothing is packed when such a matrix is multiplied. Plain BF16
    /// alone, and only where <see cref="Cpu.MultipliesTiles"/>.
    /// </summary>
    Tiles,
}

/// <summary>
/// E matrices of one shape [N, K] and format, one an expert: a stacked tensor [E, N, K] (what is trained), or a tensor each (a checkpoint's memory-mapped
/// experts, which are never copied together), with a tensor of scales each where the format is low-bit. A dense layer is the case E = 1.
/// </summary>
public readonly struct Matrices
{
    private readonly Tensor? _stacked;
    private readonly Tensor[]? _each;
    private readonly Tensor[]? _scales;
    private readonly Addresses _addresses = new();

    private Matrices(StorageFormat format, Tensor? stacked, Tensor[]? each, Tensor[]? scales, int count, int n, int k)
    {
        Format = format;
        _stacked = stacked;
        _each = each;
        _scales = scales;
        Count = count;
        N = n;
        K = k;
    }

    public StorageFormat Format { get; }

    public MatrixLayout Layout { get; private init; }

    /// <summary>Format and layout, as the native library numbers them.</summary>
    internal int NativeCode => Format.Code | (Layout == MatrixLayout.Tiles ? Native.Tiled : 0);

    /// <summary>E.</summary>
    public int Count { get; }

    /// <summary>Rows of each.</summary>
    public int N { get; }

    /// <summary>Columns of each.</summary>
    public int K { get; }

    /// <summary>Type of the stored data.</summary>
    public DType Type => (_stacked ?? _each![0]).Type;

    /// <summary>The trained form, or null.</summary>
    public Tensor? Stacked => _stacked;

    /// <summary>A dense matrix [N, K], in rows or in tiles.</summary>
    public static Matrices One(Tensor matrix) => new(StorageFormat.Of(matrix.Type), null, [matrix], null, 1, checked((int)matrix.Dim(0)), matrix.Width)
    {
        Layout = matrix.Tiled is null ? MatrixLayout.Rows : MatrixLayout.Tiles,
    };

    public static Matrices Stack(Tensor stacked) =>
        new(StorageFormat.Of(stacked.Type), stacked, null, null, checked((int)stacked.Dim(0)), checked((int)stacked.Dim(1)), stacked.Width);

    /// <exception cref="ArgumentException">The tensors differ in shape or type.</exception>
    public static Matrices Each(Tensor[] matrices)
    {
        ArgumentNullException.ThrowIfNull(matrices);
        var first = matrices[0];
        foreach (var m in matrices)
            if (m.Type != first.Type || !m.HasShape(first.Shape)) throw new ArgumentException($"[Matrices] all experts must be like {first}, but one is {m}");
        return new Matrices(StorageFormat.Of(first.Type), null, matrices, null, matrices.Length, checked((int)first.Dim(0)), first.Width);
    }

    /// <summary>Low-bit matrices [n, k]: data and scales of each expert, shaped as <see cref="StorageFormat"/> says.</summary>
    /// <exception cref="ArgumentException">A tensor has another shape or type than the format wants.</exception>
    public static Matrices Each(StorageFormat format, Tensor[] data, Tensor[] scales, long n, long k)
    {
        ArgumentNullException.ThrowIfNull(data);
        ArgumentNullException.ThrowIfNull(scales);
        if (format.Refusal(k) is { } refusal) throw new ArgumentException($"[Matrices] {refusal}");
        if (data.Length != scales.Length) throw new ArgumentException($"[Matrices] {data.Length} experts have data, {scales.Length} have scales");
        foreach (var d in data) Expect("data", d, format.DataType, format.DataShape(n, k));
        foreach (var s in scales) Expect("scales", s, format.ScaleType, format.ScaleShape(n, k));
        return new Matrices(format, null, data, scales, data.Length, checked((int)n), checked((int)k));
    }

    /// <summary>The same matrices with every tensor (data and scales of each) replaced, for instance by a copy on another device.</summary>
    public Matrices Map(Func<Tensor, Tensor> replace) =>
        new(Format, _stacked is null ? null : replace(_stacked), _each is null ? null : Array.ConvertAll(_each, t => replace(t)), _scales is null ? null
            : Array.ConvertAll(_scales, t => replace(t)), Count, N, K)
        { Layout = Layout };

    /// <summary>
    /// The same matrices in tiles, laid out by all threads and the rows of each freed at once: where they are mapped from a file, nothing is held twice.
    /// </summary>
    /// <exception cref="InvalidOperationException">They are stacked, or no plain BF16 in host memory.</exception>
    public Matrices Tile()
    {
        if (_each is null || Format != StorageFormat.Of(DType.BF16) || _each[0].Device.Kind != DeviceKind.Cpu)
            throw new InvalidOperationException($"[Matrices] tiles are made of plain BF16 matrices in host memory, one an expert, not of {this}");
        return new Matrices(Format, null, TiledBuffer.Of(_each), null, Count, N, K) { Layout = MatrixLayout.Tiles };
    }

    /// <summary>The first matrices of the unstacked form, on the same tensors.</summary>
    public Matrices First(int count) => new(Format, null, _each![..count], _scales?[..count], count, N, K) { Layout = Layout };

    /// <summary>Frees the tensors of the unstacked form.</summary>
    public void DisposeEach()
    {
        foreach (var matrix in _each ?? []) matrix.Dispose();
        foreach (var scales in _scales ?? []) scales.Dispose();
    }

    internal nint Pointer(int e) => _stacked is { } all ? (nint)(all.Pointer + ((long)e * N * K * all.Type.Size()))
        : (_each![e].Tiled?.Tiles ?? _each[e]).Pointer;

    /// <summary>Address of the scales of matrix e; 0 where the format has none.</summary>
    internal nint ScalesPointer(int e) => _scales is { } scales ? scales[e].Pointer : 0;

    /// <summary>
    /// The addresses of all, not to be written to. Those of tensors of their own are asked for once: for 128 experts that takes as long as a tenth of what one
    /// token multiplies.
    /// </summary>
    internal nint[] Pointers()
    {
        var first = Pointer(0); // refuses matrices that were freed
        if (_stacked is null && _addresses.Data is { } known && known[0] == first) return known;
        var all = new nint[Count];
        for (var e = 0; e < Count; e++) all[e] = Pointer(e);
        return _addresses.Data = all;
    }

    /// <summary>The same of their scales; null where the format has none.</summary>
    internal nint[]? ScalesPointers()
    {
        if (_scales is null) return null;
        var first = ScalesPointer(0);
        if (_addresses.Scales is { } known && known[0] == first) return known;
        var all = new nint[Count];
        for (var e = 0; e < Count; e++) all[e] = ScalesPointer(e);
        return _addresses.Scales = all;
    }

    private sealed class Addresses
    {
        public nint[]? Data, Scales;
    }

    /// <summary>Writes the data of matrix e to one address and its scales, if it has any, to another, wherever they come from. Several threads may.</summary>
    internal void Bring(int e, nint data, nint scales)
    {
        using (var view = Data(e)) view.Bring(data);
        _scales?[e].Bring(scales);
    }

    /// <summary>Bytes of it in ordinary memory of this process.</summary>
    internal long OrdinaryBytes
    {
        get
        {
            Tensor[] all = [.. _stacked is { } stacked ? [stacked] : _each!, .. _scales ?? []];
            return all.Sum(t => t.Home.Buffer is HostBuffer or TiledBuffer ? t.ByteLength : 0);
        }
    }

    /// <summary>The stored data of matrix e: [N, K], for 4 bits [N, K/2], of tiles all in a row. A view; the caller disposes it.</summary>
    public Tensor Data(int e)
    {
        if (_stacked is null) return (_each![e].Tiled?.Tiles ?? _each[e]).Alias();
        using var slice = _stacked.Slice(e, 1);
        return slice.View(N, K);
    }

    /// <summary>What is named in a checkpoint: the stored data of matrix e, and one in tiles is [N, K] too. A view; the caller disposes it.</summary>
    internal Tensor Named(int e) => Layout == MatrixLayout.Tiles ? _each![e].Alias() : Data(e);

    /// <summary>The scales of matrix e, null where the format has none. A view; the caller disposes it.</summary>
    public Tensor? Scales(int e) => _scales?[e].Alias();

    /// <summary>The values of matrix e [N, K] as they meet rows of <paramref name="rows"/>: low bits are rounded to that type.</summary>
    public float[] ToFloats(int e, DType rows)
    {
        using var data = Named(e);
        if (!Format.IsLowBit) return data.ToFloats();
        using var scales = Scales(e)!;
        var values = new float[checked(N * K)];
        for (var i = 0; i < N; i++) Format.DequantizeRow(data, scales, i, values.AsSpan(i * K, K));
        if (rows == DType.BF16)
            for (var i = 0; i < values.Length; i++) values[i] = Bf16.Round(values[i]);
        return values;
    }

    /// <summary>A view on matrix e of a format without scales; the caller disposes it.</summary>
    public Tensor this[int e] => Layout == MatrixLayout.Tiles ? throw new InvalidOperationException("[Matrices] a tiled matrix is no tensor [N, K]")
        : Format.IsLowBit ? throw new InvalidOperationException($"[Matrices] a matrix of {Format} is data and scales, not one tensor")
        : Data(e);

    private static void Expect(string what, Tensor tensor, DType type, long[] shape)
    {
        if (tensor.Type != type || !tensor.HasShape(shape))
            throw new ArgumentException($"[Matrices] {what} must be {type}[{string.Join(", ", shape)}], but is {tensor}");
    }
}
