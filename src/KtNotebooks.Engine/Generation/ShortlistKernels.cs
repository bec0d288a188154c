using System.Numerics;

using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Generation;

/// <summary>
/// The likeliest tokens of rows of logits, found on the card that has them: 512 bytes a row cross the bus instead of four a token of the vocabulary, and no
/// processor looks through them. Every block sorts a chunk of a row in shared memory and keeps its best, then one block a row sorts those. Keys differ, so the
/// list does not depend on the order in which anything runs.
/// </summary>
internal static class ShortlistKernels
{
    private const int Threads = 1024, MostKeys = 4096 /* 32 KiB of shared memory */, MostChunks = MostKeys / Shortlist.Length;

    private static readonly string Options = $"-DTYPE=float -DLIST={Shortlist.Length}";
    private static readonly CudaProgram Program = new("Shortlist", CudaProgram.Resource("Generation.Shortlist.cu"));

    /// <summary>A vocabulary that two sorts can take.</summary>
    public static bool Suits(int vocabulary) => vocabulary is > 0 and <= MostChunks * MostKeys;

    /// <param name="logits">F32 [T, V] on a card.</param>
    /// <param name="used">Tokens that may be drawn, from the first on.</param>
    /// <param name="list">Keys [T, <see cref="Shortlist.Length"/>] of 64 bits for <see cref="Shortlist"/>: on the card, or in pinned memory.</param>
    public static void Find(Tensor logits, int used, nint list)
    {
        var (card, rows) = (logits.Gpu(), logits.Rows);
        var size = Math.Max(Shortlist.Length, (int)BitOperations.RoundUpToPowerOf2((uint)((used + MostChunks - 1) / MostChunks)));
        var chunks = (used + size - 1) / size;
        var (count, all) = (chunks * Shortlist.Length, (int)BitOperations.RoundUpToPowerOf2((uint)(chunks * Shortlist.Length)));
        using var best = Tensor.Empty(DType.I32, logits.Device, rows, chunks * Shortlist.Length, 2);
        Program.Kernel(card, "shortlist_chunks", Options).Launch((chunks, rows, 1), Math.Min(Threads, size / 2), size * sizeof(ulong), logits.Pointer,
            best.Pointer, logits.Width, used, size);
        Program.Kernel(card, "shortlist_rows", Options).Launch((rows, 1, 1), Math.Min(Threads, all / 2), all * sizeof(ulong), best.Pointer, list, count, all);
    }
}
