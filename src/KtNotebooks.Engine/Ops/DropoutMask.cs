using System.Runtime.CompilerServices;

using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>
/// Inverted dropout without stored masks: element (row, column) is kept when a hash of (key, row, column) is at least p, and then divided by 1 − p. The
/// same key gives the same mask on every device and in the recomputed forward of backward. <paramref name="FirstRow"/> makes chunks of a stream see the
/// stream's rows.
/// </summary>
public readonly record struct DropoutMask(float P, ulong Key, long FirstRow = 0)
{
    public static DropoutMask None => default;

    public bool Active => P > 0;

    /// <summary>1 / (1 − p) where kept, else 0.</summary>
    public float At(long row, int column) => Keeps(Mix(Key + (ulong)(row + FirstRow)), column, Threshold) ? 1 / (1 - P) : 0;

    /// <summary>
    /// target = mask ∘ source over all rows; rows [R, K], types alike. <paramref name="rowIds"/>: the row numbers to hash, where rows were permuted.
    /// </summary>
    public void Apply(Tensor source, Tensor target, ReadOnlyMemory<int> rowIds = default)
    {
        var mask = this;
        var width = source.Width;
        RowParallel.For(source.Rows, width, (first, last) =>
        {
            var scratch = new float[width];
            for (var row = first; row < last; row++)
            {
                var id = rowIds.IsEmpty ? row : rowIds.Span[(int)row];
                var from = FloatRows.Load(source, row, scratch);
                var to = FloatRows.Target(target, row, scratch);
                mask.ApplyRow(from, to, id);
                FloatRows.Store(target, row, to);
            }
        });
    }

    /// <summary>Kept are the hashes at or above it.</summary>
    internal uint Threshold => (uint)(P * 4294967296.0);

    private void ApplyRow(ReadOnlySpan<float> from, Span<float> to, long row)
    {
        var scale = 1 / (1 - P);
        var threshold = Threshold;
        var rowKey = Mix(Key + (ulong)(row + FirstRow));
        for (var i = 0; i < from.Length; i++) to[i] = Keeps(rowKey, i, threshold) ? from[i] * scale : 0;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static bool Keeps(ulong rowKey, int column, uint threshold) => (uint)(Mix(rowKey + (uint)column) >> 32) >= threshold;

    /// <summary>The finaliser of splitmix64 (Steele, Lea, Flood 2014).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static ulong Mix(ulong z)
    {
        z += 0x9E3779B97F4A7C15;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
        return z ^ (z >> 31);
    }
}
