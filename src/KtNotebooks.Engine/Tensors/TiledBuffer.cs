using KtNotebooks.Interop;

namespace KtNotebooks.Tensors;

/// <summary>
/// A BF16 matrix [N, K] in the CPU kernels' tiles (formats.h: KT_TILED): nothing is packed when it is multiplied. It has no rows in memory, so no address
/// of its own; products take <see cref="Tiles"/>, and whoever wants rows gets a copy of them (<see cref="Memory.Copy(Tensor, Tensor)"/>).
/// </summary>
internal sealed unsafe class TiledBuffer : Buffer
{
    private const int Strip = 16, Unit = 32; // rows that lie together; what N and K are padded to
    private const int BandRows = 64;
    private const nint Nowhere = 1; // 0 would be an invalid handle

    private TiledBuffer(int n, int k)
        : base(Nowhere, (long)n * k * sizeof(ushort), Device.Cpu, holds: false)
    {
        (Rows, Width) = (n, k);
        Tiles = Tensor.Empty(DType.BF16, Bytes(n, k) / sizeof(ushort));
    }

    /// <summary>N.</summary>
    public int Rows { get; }

    /// <summary>K.</summary>
    public int Width { get; }

    /// <summary>As they lie: strips of 16 n along K, in each [K / 2][n % 16][2].</summary>
    public Tensor Tiles { get; }

    /// <summary>Bytes of a matrix in tiles.</summary>
    public static long Bytes(long n, long k) => (n + Unit - 1) / Unit * Unit * ((k + Unit - 1) / Unit * Unit) * sizeof(ushort);

    /// <summary>Matrices [N, K] in tiles, laid out by all threads; rows are freed as soon as they are, and read where they are mapped from a file.</summary>
    public static Tensor[] Of(Tensor[] rows)
    {
        var (n, k) = ((int)rows[0].Dim(0), rows[0].Width);
        HostMemory.Require(rows.Length * Bytes(n, k));
        var tiles = Array.ConvertAll(rows, _ => new TiledBuffer(n, k));
        var (bands, left) = ((n + BandRows - 1) / BandRows, new int[rows.Length]);
        Array.Fill(left, bands);
        CpuLoop.For((long)rows.Length * bands, i =>
        {
            var (matrix, first) = ((int)(i / bands), (int)(i % bands) * BandRows);
            var from = (ushort*)rows[matrix].Pointer + ((long)first * k);
            var to = (ushort*)tiles[matrix].Tiles.Pointer + ((long)first * Padded(k));
            Native.Ok(Native.kt_tile(Math.Min(BandRows, n - first), k, from, to));
            if (Interlocked.Decrement(ref left[matrix]) == 0) rows[matrix].Dispose();
        });
        return Array.ConvertAll(tiles, t => new Tensor(t, 0, DType.BF16, [n, k]));
    }

    /// <summary>Whole rows, as a file has them.</summary>
    internal override void Bring(long offset, nint target, long bytes)
    {
        var row = Width * sizeof(ushort);
        if (offset % row != 0 || bytes % row != 0) throw new NotSupportedException($"[TiledBuffer] rows have {row} bytes, not {bytes} from {offset} on");
        var from = (ushort*)Tiles.Pointer;
        RowParallel.For(bytes / row, Width, (first, last) =>
        {
            for (var i = first; i < last; i++)
            {
                var n = (offset / row) + i;
                var pairs = from + (n / Strip * Strip * Padded(Width)) + (n % Strip * 2);
                var to = (ushort*)target + (i * Width);
                for (var c = 0; c < Width; c++) to[c] = pairs[(c / 2 * Strip * 2) + (c % 2)];
            }
        });
    }

    protected override string Absence => "a matrix in the CPU kernels' tiles has no rows in memory; ToHost copies them";

    protected override void Free(nint pointer) => Tiles.Dispose();

    private static int Padded(int k) => (k + Unit - 1) / Unit * Unit;
}
