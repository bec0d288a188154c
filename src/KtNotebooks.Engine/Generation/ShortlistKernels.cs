using System.Numerics;

using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Generation;

/// <summary>
/// The likeliest tokens of rows of logits, found on the card that has them: 512 bytes a row cross the bus instead of four a token of the vocabulary, and no
/// processor looks through them. Every block keeps the best of a chunk of a row, then one block a row the best of those. Keys differ, so the list does not
/// depend on the order in which anything runs.
/// </summary>
internal static class ShortlistKernels
{
    private const int Each = 8 /* keys a thread, PER there */, MostKeys = 1024 * Each, MostChunks = MostKeys / Shortlist.Length, Chunk = 256 * Each;

    private static readonly string Options = $"-DTYPE=float -DLIST={Shortlist.Length}";
    private static readonly CudaProgram Program = new("Shortlist", CudaProgram.Resource("Generation.Shortlist.cu"));

    /// <summary>A vocabulary that two rounds can take.</summary>
    public static bool Suits(int vocabulary) => vocabulary is > 0 and <= MostChunks * MostKeys;

    /// <param name="logits">F32 [T, V] on a card.</param>
    /// <param name="used">Tokens that may be drawn, from the first on.</param>
    /// <param name="list">Keys [T, <see cref="Shortlist.Length"/>] of 64 bits for <see cref="Shortlist"/>: on the card, or in pinned memory.</param>
    public static void Find(Tensor logits, int used, nint list)
    {
        var (card, rows) = (logits.Gpu(), logits.Rows);
        var size = Math.Max(Chunk, (int)BitOperations.RoundUpToPowerOf2((uint)((used + MostChunks - 1) / MostChunks)));
        var (chunks, bits) = ((used + size - 1) / size, BitOperations.Log2((uint)Math.Max(1, used - 1)) + 1);
        var count = chunks * Shortlist.Length;
        using var best = Tensor.Empty(DType.I32, logits.Device, rows, count, 2);
        Program.Kernel(card, "shortlist_chunks", Options).Launch((chunks, rows), size / Each, logits.Pointer, best.Pointer, logits.Width, used, bits);
        Program.Kernel(card, "shortlist_rows", Options).Launch(rows, (((count + Each - 1) / Each) + 31) / 32 * 32, best.Pointer, list, count, bits);
    }
}
