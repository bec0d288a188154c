using KtNotebooks.Tensors;

namespace KtNotebooks.Optim;

/// <summary>
/// Tensors of one device cut into chunks of one size, so that one parallel loop or one launch goes over thousands of them. A chunk belongs to the first
/// tensor whose end lies above it. The cut depends on nothing but the lengths: sums by chunk have the same bits however many threads or blocks there are.
/// </summary>
internal sealed class Chunks
{
    /// <summary>Elements: 64 KB of each operand.</summary>
    public const int Size = 1 << 14;

    public Chunks(IReadOnlyList<Tensor> tensors)
    {
        (Tensors, Ends, Counts) = (tensors, new int[tensors.Count], new long[tensors.Count]);
        for (var i = 0; i < Ends.Length; i++)
        {
            Counts[i] = tensors[i].Count;
            Ends[i] = checked((i == 0 ? 0 : Ends[i - 1]) + (int)((Counts[i] + Size - 1) / Size));
        }
    }

    public IReadOnlyList<Tensor> Tensors { get; }

    public Device Device => Tensors[0].Device;

    /// <summary>[tensors]: chunks of all tensors up to and with this one.</summary>
    public int[] Ends { get; }

    /// <summary>[tensors]: elements.</summary>
    public long[] Counts { get; }

    /// <summary>Chunks in all.</summary>
    public int Count => Ends[^1];

    /// <summary>Where a chunk lies.</summary>
    public (int Tensor, long From, int Length) At(int chunk)
    {
        var found = Array.BinarySearch(Ends, chunk + 1);
        var tensor = found < 0 ? ~found : found;
        while (tensor > 0 && Ends[tensor - 1] == Ends[tensor]) tensor--; // empty tensors share their end with the one before
        var from = (chunk - (tensor == 0 ? 0 : Ends[tensor - 1])) * (long)Size;
        return (tensor, from, (int)Math.Min(Size, Counts[tensor] - from));
    }

    /// <summary>Elements [from, from + length) of a host tensor.</summary>
    public static unsafe Span<float> Elements(Tensor tensor, long from, int length) => new((float*)tensor.Pointer + from, length);

    /// <summary>The same of a BF16 tensor.</summary>
    public static unsafe Span<ushort> Halves(Tensor tensor, long from, int length) => new((ushort*)tensor.Pointer + from, length);
}
