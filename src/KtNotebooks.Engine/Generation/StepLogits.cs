using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Generation;

/// <summary>
/// Logits [T, V] of a recorded step. They stay on the card until the step runs again; of each row its likeliest tokens come over, and whole rows for those
/// that ask for more.
/// </summary>
internal sealed class StepLogits : IDisposable
{
    private readonly CudaDevice _card;
    private readonly Tensor _logits;
    private readonly int _vocabulary;
    private readonly PinnedMemory? _lists;
    private PinnedMemory? _rows;

    /// <summary>In a recording: the step itself finds the lists, and leaves them in pinned memory.</summary>
    /// <param name="logits">F32 [T, V]; this object's own from now on.</param>
    /// <param name="vocabulary">Tokens that may be drawn; null: all.</param>
    public StepLogits(Tensor logits, int? vocabulary)
    {
        (_card, _logits, _vocabulary) = (logits.Gpu(), logits, Math.Min(logits.Width, vocabulary ?? logits.Width));
        if (!ShortlistKernels.Suits(_vocabulary)) return;
        _lists = new PinnedMemory(_card, (long)logits.Rows * Shortlist.Length * sizeof(ulong));
        ShortlistKernels.Find(logits, _vocabulary, _lists.Pointer);
    }

    /// <summary>Of a row, when the step is over; empty where the vocabulary is too large to be looked through on the card.</summary>
    public unsafe Shortlist Likeliest(int row) =>
        new(_lists is null ? [] : new ReadOnlySpan<ulong>((ulong*)_lists.Pointer + (row * Shortlist.Length), Shortlist.Length), _vocabulary);

    /// <summary>Logits [n, V] of some rows, in pinned memory that the next call overwrites.</summary>
    public unsafe Span<float> Read(IReadOnlyList<int> rows)
    {
        var bytes = (long)_logits.Width * sizeof(float);
        _rows ??= new PinnedMemory(_card, _logits.ByteLength);
        for (var i = 0; i < rows.Count; i++) _card.QueueRead(_rows.Pointer + (nint)(i * bytes), _logits.Pointer + (nint)(rows[i] * bytes), bytes);
        _card.Compute.Synchronize();
        return new Span<float>((void*)_rows.Pointer, rows.Count * _logits.Width);
    }

    public void Dispose()
    {
        _logits.Dispose();
        _lists?.Dispose();
        _rows?.Dispose();
    }
}
