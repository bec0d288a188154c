using KtNotebooks.Interop.Cuda;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>
/// Puts the experts of a built model to work. Owns what its banks share: the streams, one a card.
/// </summary>
public sealed class ExpertExecutors : IDisposable
{
    /// <summary>Decoded matrices of low-bit experts on a card at a time.</summary>
    internal const long DecodedBytes = 512L << 20;

    private readonly List<ExpertStream> _streams = [];

    /// <summary>Bytes that crossed the bus so far.</summary>
    public long CopiedBytes => _streams.Sum(s => s.CopiedBytes);

    internal IReadOnlyList<ExpertStream> Streams => _streams;

    /// <summary>Streams the experts of these banks through slots of at most <paramref name="slotBytes"/> in all on a card.</summary>
    public void Stream(IReadOnlyList<ExpertBank> banks, Device card, long slotBytes, Action<ExpertBank>? brought = null)
    {
        ArgumentNullException.ThrowIfNull(banks);
        if (banks.Count == 0) return;
        var (group, slots) = Slots([.. banks.Select(b => b.Layout)], slotBytes);
        var stream = new ExpertStream(CudaDevice.Get(card.Index), group, slots);
        _streams.Add(stream);
        foreach (var bank in banks)
        {
            bank.StreamThrough(stream, card, group);
            brought?.Invoke(bank);
        }
    }

    /// <summary>Bytes of a slot, which holds the largest group of any bank, and how many slots there are.</summary>
    internal static (long GroupBytes, int Count) Slots(IReadOnlyList<BankLayout> banks, long slotBytes)
    {
        // Four slots: one computes, one is filled, two wait, so that a stage without experts does not stop the bus.
        var group = Math.Max(slotBytes / 4, banks.Max(b => b.ExpertBytes));
        group = banks.Max(b => b.Groups(group).Max(g => g.Count) * b.ExpertBytes);
        return (group, (int)Math.Max(2, slotBytes / group));
    }

    /// <summary>Keeps the experts of these banks on a card.</summary>
    public static void Keep(IReadOnlyList<ExpertBank> banks, Device card, DType rows, Action<ExpertBank>? brought = null)
    {
        ArgumentNullException.ThrowIfNull(banks);
        foreach (var bank in banks)
        {
            bank.KeepOn(card, rows, DecodedBytes);
            brought?.Invoke(bank);
        }
    }

    public void Dispose()
    {
        foreach (var stream in _streams) stream.Dispose();
        _streams.Clear();
    }
}
