using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>
/// Puts the experts of a built model to work. Owns what its banks share: the streams, one a card.
/// </summary>
public sealed class ExpertExecutors : IDisposable
{
    /// <summary>Dequantized matrices of low-bit experts on a card at a time.</summary>
    internal const long DequantizedBytes = 512L << 20;

    /// <summary>One computes, one is filled, two wait, so that a stage without experts does not stop the bus.</summary>
    private const int Slots = 4;

    /// <summary>A split goes by whole groups, so it wants smaller ones.</summary>
    private const int SplitSlots = 16;

    private readonly List<ExpertStream> _streams = [];

    /// <summary>Bytes that crossed the bus so far.</summary>
    public long CopiedBytes => _streams.Sum(s => s.CopiedBytes);

    internal IReadOnlyList<ExpertStream> Streams => _streams;

    /// <summary>Streams the experts of these banks through so many slots of a card, each of which takes a group of at most groupBytes.</summary>
    public void Stream(IReadOnlyList<ExpertBank> banks, Device card, long groupBytes, int slots, Action<ExpertBank>? brought = null)
    {
        ArgumentNullException.ThrowIfNull(banks);
        if (banks.Count == 0) return;
        var stream = new ExpertStream(CudaDevice.Get(card.Index), groupBytes, slots);
        _streams.Add(stream);
        foreach (var bank in banks)
        {
            var slab = new ExpertSlab(bank.Set, card);
            bank.Use(new StreamedExperts(slab, stream, card, groupBytes), slab.Set);
            brought?.Invoke(bank);
        }
    }

    /// <summary>
    /// Lets a card compute banks whose own matrices are trained: where they lie on it, or (slots above 0) brought from pinned host memory through so many
    /// slots.
    /// </summary>
    public void Train(IReadOnlyList<ExpertBank> banks, Device card, long groupBytes, int slots, Action<ExpertBank>? brought = null)
    {
        ArgumentNullException.ThrowIfNull(banks);
        var stream = slots == 0 || banks.Count == 0 ? null : new ExpertStream(CudaDevice.Get(card.Index), groupBytes, slots) { IsTrained = true };
        if (stream is not null) _streams.Add(stream);
        foreach (var bank in banks)
        {
            bank.Use(new TrainedExperts(bank.Set, card, stream, groupBytes));
            brought?.Invoke(bank);
        }
    }

    /// <summary>
    /// The same as <see cref="Stream"/>, with the CPU taking as many experts of a visit as let both end together: few or none of a large window, all of a token
    /// that is generated.
    /// Returns what that choice rests on, measured here.
    /// </summary>
    public ExpertCosts Split(IReadOnlyList<ExpertBank> banks, Device card, long groupBytes, int slots, ExpertCosts? costs = null,
        Action<ExpertBank>? brought = null)
    {
        Stream(banks, card, groupBytes, slots, brought);
        costs ??= ExpertCosts.Measure(banks[0].Set, ((StreamedExperts)banks[0].Executor).Slab, CudaDevice.Get(card.Index));
        foreach (var bank in banks)
        {
            bank.Use(new SplitExperts((StreamedExperts)bank.Executor, costs));
            bank.LoraOnHost = true; // where both sides reach them
        }
        return costs;
    }

    /// <summary>Bytes of a slot, which holds the largest group of any bank, and how many slots there are in slotBytes: at least two.</summary>
    public static (long GroupBytes, int Count) SlotsOf(IReadOnlyList<BankLayout> banks, long slotBytes, bool split)
    {
        var group = Math.Max(slotBytes / (split ? SplitSlots : Slots), banks.Max(b => b.ExpertBytes));
        group = banks.Max(b => b.Groups(group).Max(g => g.Count) * b.ExpertBytes);
        return (group, (int)Math.Max(2, slotBytes / group));
    }

    /// <summary>Keeps the experts of these banks on a card.</summary>
    public static void Keep(IReadOnlyList<ExpertBank> banks, Device card, DType rows, Action<ExpertBank>? brought = null)
    {
        ArgumentNullException.ThrowIfNull(banks);
        foreach (var bank in banks)
        {
            bank.Use(new ResidentExperts(bank.Set, card, rows, DequantizedBytes));
            brought?.Invoke(bank);
        }
    }

    public void Dispose()
    {
        foreach (var stream in _streams) stream.Dispose();
        _streams.Clear();
    }
}
