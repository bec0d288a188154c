using KtNotebooks.Interop;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

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

    /// <summary>
    /// A whole bank waits in the slots while parts of a window pass it, as they do on several cards; the next comes into what is left, in smaller pieces more
    /// of it. Where a window passes whole they only cost: V2-Lite in BF16, 32,768 tokens, 1,100 MiB: 3 %.
    /// </summary>
    private const int WholeBankSlots = 8;

    /// <summary>A split goes by whole groups, so it wants smaller ones.</summary>
    private const int SplitSlots = 16;

    /// <summary>
    /// Banks that come to pinned memory at the same time: all threads read or make one, then one thread locks its pages, while the others go on with the next.
    /// </summary>
    private const int Lanes = 4;

    private readonly List<ExpertStream> _streams = [];

    /// <summary>Bytes that crossed the bus so far.</summary>
    public long CopiedBytes => _streams.Sum(s => s.CopiedBytes);

    internal IReadOnlyList<ExpertStream> Streams => _streams;

    /// <summary>Bytes that were read from a disk so far.</summary>
    public long ReadBytes => _streams.Sum(s => s.ReadBytes);

    /// <summary>For tests: another reader than the disk's.</summary>
    internal Func<CudaDevice, DiskRing> NewRing { get; init; } = card => new DiskRing(card);

    /// <summary>Streams the experts of these banks through so many slots of a card, each of which takes a group of at most groupBytes.</summary>
    /// <param name="onDisk">Whether a bank stays in the checkpoint's shards; null: none does.</param>
    public void Stream(IReadOnlyList<ExpertBank> banks, Device card, long groupBytes, int slots, Action<ExpertBank>? brought = null,
        Func<ExpertBank, bool>? onDisk = null)
    {
        ArgumentNullException.ThrowIfNull(banks);
        if (banks.Count == 0) return;
        var fromDisk = banks.ToDictionary(b => b, b => onDisk?.Invoke(b) ?? false);
        var gpu = CudaDevice.Get(card.Index);
        var stream = new ExpertStream(gpu, groupBytes, slots, fromDisk.ContainsValue(true) ? NewRing(gpu) : null);
        _streams.Add(stream);
        var told = new Lock();
        var lanes = banks.Min(b => b.StoredBytes / Math.Max(1, b.Set.OrdinaryBytes)); // what lies in ordinary memory is there twice for a while
        ShardWork.Run((int)Math.Clamp(lanes, 1, Lanes), banks.Count, at =>
        {
            var bank = banks[(int)at];
            var ordinary = bank.Set.OrdinaryBytes;
            if (fromDisk[bank])
            {
                bank.Use(new StreamedExperts(new ExpertSlab(new DiskBank(bank.Set, bank.Path)), stream, card, groupBytes));
                lock (told) brought?.Invoke(bank);
                return;
            }
            var slab = new ExpertSlab(bank.Set, card);
            bank.Use(new StreamedExperts(slab, stream, card, groupBytes), slab.Set);
            if (ordinary > 0) HostPages.Trim();
            lock (told) brought?.Invoke(bank);
        }, CancellationToken.None);
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
        if (costs is null) Interop.Cpu.SpareOne();
        costs ??= ExpertCosts.Measure(banks[0].Set, ((StreamedExperts)banks[0].Executor).Slab, CudaDevice.Get(card.Index));
        foreach (var bank in banks)
        {
            bank.Use(new SplitExperts((StreamedExperts)bank.Executor, costs));
            bank.LoraOnHost = true; // where both sides reach them
        }
        return costs;
    }

    /// <summary>Bytes of a slot, which holds the largest group of any bank, and how many slots there are in slotBytes: at least two.</summary>
    /// <param name="banks">That cross one card's slots.</param>
    /// <param name="split">The CPU takes some of the groups.</param>
    /// <param name="cards">That share the layers.</param>
    public static (long GroupBytes, int Count) SlotsOf(IReadOnlyList<BankLayout> banks, long slotBytes, bool split, int cards)
    {
        var slots = split ? SplitSlots : cards > 1 && slotBytes > banks.Max(b => b.Bytes) ? WholeBankSlots : Slots;
        var group = Math.Max(slotBytes / slots, banks.Max(b => b.ExpertBytes));
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

    /// <summary>
    /// Experts of banks that the CPU computes, whose matrices are in ordinary memory and too small for huge pages, come into one stretch of them a bank: a
    /// token reads DeepSeek-V2-Lite's experts in INT4 13 % faster there. Banks that are mapped from files, trained, or in tiles stay, and so do all where
    /// memory is short.
    /// </summary>
    public static void Gather(IEnumerable<ExpertBank> banks)
    {
        ArgumentNullException.ThrowIfNull(banks);
        var moved = false;
        foreach (var bank in banks)
        {
            var set = bank.Set;
            if (!set.IsEachInRows || set.OrdinaryBytes < bank.StoredBytes / 2 || bank.ExpertBytes / 3 >= HostPages.Large || bank.StoredBytes < HostPages.Large
                || HostMemory.Left < 2 * bank.StoredBytes) continue;
            using var slab = new ExpertSlab(set);
            bank.Use(bank.Executor, slab.Set);
            moved = true;
        }
        if (moved) HostPages.Trim();
    }

    public void Dispose()
    {
        foreach (var stream in _streams) stream.Dispose();
        _streams.Clear();
    }
}
