using KtNotebooks.Experts;
using KtNotebooks.Formats;
using KtNotebooks.Interop;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;

namespace KtNotebooks.Placement;

/// <summary>How one bank of routed experts lives, decided: who computes it, where, in what form.</summary>
/// <param name="Path">Of the bank.</param>
/// <param name="Place">Device, home of the weights and executor, which is never auto.</param>
/// <param name="Format">Of the matrices in memory; the checkpoint's are quantized or dequantized on the way where it has another.</param>
/// <param name="Layout">Where each matrix lies in the bank, for experts that a card computes.</param>
/// <param name="IsTiled">Is laid out in the CPU kernels' tiles on the way into host memory, from the mapped file: no second copy.</param>
/// <param name="GroupBytes">Bytes of a slot, which one group of experts crosses the bus into; 0 for experts that do not cross it.</param>
public sealed record BankResidency(string Path, ModulePlace Place, StorageFormat Format, BankLayout Layout, bool IsTiled, long GroupBytes = 0)
{
    /// <summary>Its own matrices are trained: stacked, in memory of ours, where they are computed or in pinned memory that a card reads and writes.</summary>
    public bool IsTrained { get; init; }

    /// <summary>
    /// Comes to its card, or to pinned memory, from the mapped file when the model stands; until then its matrices are views on the file.
    /// </summary>
    public bool IsBroughtLater => Place.Compute.Kind == DeviceKind.Cuda && Place.Executor != ExecutorKind.Cpu;
}

/// <summary>What of a card is whose.</summary>
/// <param name="Bytes">What it can give to this program's tensors: its limit, or what is free on it.</param>
/// <param name="Weights">Of all modules but experts.</param>
/// <param name="Experts">Of resident experts.</param>
/// <param name="Slots">Through which streamed experts pass.</param>
/// <param name="GroupBytes">Of a slot.</param>
/// <param name="Visits">For matrices of layers that come from host memory.</param>
public sealed record GpuResidency(Device Gpu, long Bytes, long Weights, long Experts, int Slots, long GroupBytes, long Visits = 0)
{
    /// <summary>Of all slots together.</summary>
    public long Ring => Slots * GroupBytes;

    /// <summary>What is left for adapters, their moments and activations.</summary>
    public long Left => Bytes - Weights - Experts - Ring - Visits;
}

/// <summary>
/// The one answer to "where does this weight live, in what form, who multiplies it": rules and keys (<see cref="ModelPlacement"/>), the formats that the
/// checkpoint has and the sizes of the cards, resolved before anything is loaded. Loading executes it, `kt plan` prints it, what training adds is decided on
/// what it leaves (TrainingMemory). Immutable.
/// </summary>
public sealed class ResidencyPlan
{
    private readonly Dictionary<string, BankResidency> _banks;
    private readonly Dictionary<Device, GpuResidency> _cards;
    private readonly Func<string, bool>? _trains;
    private readonly IReadOnlySet<string> _tiled;
    private readonly IReadOnlySet<string> _visits;

    private ResidencyPlan(ModelPlacement placement, DType type, IEnumerable<BankResidency> banks, IEnumerable<GpuResidency> cards, IReadOnlyList<string> notes,
        Func<string, bool>? trains, IReadOnlySet<string> visits, IReadOnlySet<string> tiled)
    {
        (Placement, Type, Notes, _trains, _visits, _tiled) = (placement, type, notes, trains, visits, tiled);
        _banks = banks.ToDictionary(b => b.Path);
        _cards = cards.ToDictionary(c => c.Gpu);
    }

    /// <summary>What rules and keys say of every module.</summary>
    public ModelPlacement Placement { get; }

    /// <summary>Of activations, and of weights that are no experts.</summary>
    public DType Type { get; }

    /// <summary>What was chosen and why, for whoever starts a run.</summary>
    public IReadOnlyList<string> Notes { get; }

    /// <summary>Routed experts, in forward order.</summary>
    public IEnumerable<BankResidency> Banks => _banks.Values;

    /// <summary>The cards that something lives or is computed on, by number.</summary>
    public IEnumerable<GpuResidency> Gpus => _cards.Values.OrderBy(c => c.Gpu.Index);

    /// <summary>The bank of this path, or the one that a tensor of this name belongs to; null: none.</summary>
    public BankResidency? Bank(string name)
    {
        ArgumentNullException.ThrowIfNull(name);
        for (var path = name; path.Length > 0; path = path.LastIndexOf('.') is > 0 and var dot ? path[..dot] : "")
            if (_banks.TryGetValue(path, out var bank)) return bank;
        return null;
    }

    public GpuResidency Gpu(Device card) => _cards[card];

    /// <summary>Where a module computes.</summary>
    public Device DeviceOf(string path) => Placement.Of(path).Compute;

    /// <summary>Where a tensor or bank lives.</summary>
    public WeightHome HomeOf(string name) => Visits(name) || _tiled.Contains(name) ? WeightHome.Host : Bank(name)?.Place.Weights
        ?? (Placement.Of(name) is { Compute.Kind: DeviceKind.Cuda } ? WeightHome.Device : Placement.Of(name).Weights);

    /// <summary>Whether a tensor is a matrix of a layer that waits in pinned host memory and comes to its card when the layer is at work.</summary>
    public bool Visits(string name) => _visits.Contains(name);

    /// <summary>
    /// Whether a tensor or the experts below a path are read into host memory when they are taken; the others stay mapped, go to their card, or into tiles.
    /// </summary>
    public bool IsRead(string name) => Bank(name) is { } bank
        ? bank.Place.Weights == WeightHome.Host && !bank.IsBroughtLater && !bank.IsTiled && !bank.IsTrained
        : (HomeOf(name) == WeightHome.Host && !Visits(name) && !_tiled.Contains(name)) || Trains(name);

    /// <summary>Whether a tensor is trained itself, and so lies in memory that can change.</summary>
    public bool Trains(string name) => _trains?.Invoke(name) == true;

    /// <summary>
    /// Whether a matrix, or the experts of a bank by its path, are laid out in the CPU kernels' tiles when they are taken (<see cref="CpuTiles"/>).
    /// A tensor below a bank that is taken alone, as gpt-oss' biases are, is not.
    /// </summary>
    public bool IsTiled(string name) => (Bank(name) is { IsTiled: true } bank && bank.Path == name) || _tiled.Contains(name);

    /// <summary>The card that a tensor goes to when it is taken; null: none.</summary>
    public Device? SentTo(string name) =>
        Bank(name) is { IsBroughtLater: true } || HomeOf(name) != WeightHome.Device ? null : Placement.Of(name).Compute;

    /// <summary>Resolves a model of shapes.</summary>
    /// <param name="root">The model; its modules and their sizes count.</param>
    /// <param name="type">Of activations.</param>
    /// <param name="stored">The format that the checkpoint has a bank in, by its path; null: the type's own.</param>
    /// <param name="cards">What a card can give.</param>
    /// <param name="trains">The weights, by name, that are trained themselves; null: none.</param>
    /// <param name="hostBytes">What host memory can give; null: what is available now.</param>
    /// <exception cref="NotSupportedException">Experts that are trained themselves are to be stored in few bits, or split.</exception>
    public static ResidencyPlan Resolve(Module root, DType type, ModelPlacement placement, Func<string, StorageFormat?> stored, GpuMemory cards,
        Func<string, bool>? trains = null, long? hostBytes = null)
    {
        ArgumentNullException.ThrowIfNull(root);
        ArgumentNullException.ThrowIfNull(placement);
        ArgumentNullException.ThrowIfNull(cards);
        List<string> notes = [.. placement.Notes];
        if (placement.Settings.Device.StartsWith("cuda", StringComparison.Ordinal) && placement.Devices.All(d => d.Kind != DeviceKind.Cuda))
            notes.Add($"{placement.Settings.DeviceWhere}: device: {placement.Settings.Device} has no effect: the rules of kt_optimize_rule place every module "
                + $"on {string.Join(", ", placement.Devices)}");
        var visits = LayerMatrices.Visiting(root, placement, cards, trains, notes);
        var weights = root.All().Where(m => m is not ExpertBank).SelectMany(m => m.Weights)
            .Where(w => !visits.Contains(w.Name)).Select(w => (Card: placement.Of(w.Name).Compute, w.Tensor.ByteLength))
            .Where(w => w.Card.Kind == DeviceKind.Cuda).GroupBy(w => w.Card).ToDictionary(g => g.Key, g => g.Sum(w => w.ByteLength));
        BankResidency[] asked = [.. root.All().OfType<ExpertBank>().Select(bank => Asked(bank, placement.Of(bank.Path), type, stored, trains))];
        (var tiled, asked) = CpuTiles.Choose(root, type, placement, asked, hostBytes ?? HostMemory.Left, trains, notes);
        Dictionary<string, BankResidency> decided = asked.ToDictionary(b => b.Path);
        List<GpuResidency> residencies = [];
        var sharing = placement.Devices.Count(d => d.Kind == DeviceKind.Cuda);
        foreach (var card in placement.Devices.Where(d => d.Kind == DeviceKind.Cuda))
        {
            var residency = new GpuResidency(card, cards.Of(card), weights.GetValueOrDefault(card), 0, 0, 0,
                LayerMatrices.SlotBytes(root, visits, name => placement.Of(name).Compute == card));
            foreach (var banks in asked.Where(b => b.IsBroughtLater && b.Place.Compute == card).GroupBy(b => b.Place.Executor!.Value))
            {
                if (banks.Key != ExecutorKind.Resident && cards.IsAssumed(card)) notes.Add(GpuMemory.Assumption(card));
                residency = Share(residency, [.. banks], banks.Key, decided, notes, sharing);
            }
            residencies.Add(residency);
        }
        return new ResidencyPlan(placement, type, asked.Select(b => decided[b.Path]), residencies, notes, trains, visits, tiled);
    }

    private static BankResidency Asked(ExpertBank bank, ModulePlace place, DType type, Func<string, StorageFormat?> stored, Func<string, bool>? trains)
    {
        var isTrained = trains?.Invoke(bank.Names.Gate.Weight(0)) == true;
        if (isTrained && (place.Format ?? stored(bank.Path)) is { IsLowBit: true } few)
            throw new NotSupportedException($"{bank.Path}: experts in {few.Name} cannot be trained themselves, for a step of training is smaller than one of "
                + $"their values ({place.Because}); keep them in BF16 (FP8 becomes it with kt convert), or leave them out: finetuning_type: lora, or "
                + "freeze with other freeze_trainable_modules");
        if (isTrained && place.Weights == WeightHome.Disk)
            throw new NotSupportedException($"{bank.Path}: experts that are trained themselves cannot stay on the disk ({place.Because}); give weights: host");
        if (isTrained && place.Executor == ExecutorKind.Split)
            throw new NotSupportedException($"{bank.Path}: experts that are trained themselves are not split between the CPU and a card ({place.Because}); "
                + "give experts: streamed, resident or cpu");
        // Plain matrices come in the model's own type, whichever the checkpoint has.
        var format = (place.Format ?? stored(bank.Path)) is { IsLowBit: true } low ? low : StorageFormat.Of(type);
        if (place.Weights == WeightHome.Disk && stored(bank.Path) is { } found && found != format)
            throw new InvalidDataException($"{place.Because}: weights: disk reads experts as they are stored: {bank.Path} is {found.Name}, and {format.Name} "
                + $"is wanted; leave the format out, or write weights: host, or {DiskBank.Conversion}");
        if (place.Weights == WeightHome.Disk && bank.Names.All.FirstOrDefault(n => !n.CanStayMapped(format)) is { } mixed)
            throw new InvalidDataException($"{place.Because}: weights: disk reads matrices that lie in one piece, but {mixed.Stacked!.Name} holds those of all "
                + "experts row by row in turn; write weights: host");
        var tiled = !isTrained && place is { Executor: ExecutorKind.Cpu, Weights: WeightHome.Host } && format == StorageFormat.BF16
            && Interop.Cpu.MultipliesTiles;
        return new BankResidency(bank.Path, place, format, new BankLayout(bank.Count, bank.Width, bank.Inner, format), tiled) { IsTrained = isTrained };
    }

    /// <summary>Gives the experts of a card that are to be computed alike their share of what is left of it.</summary>
    private static GpuResidency Share(GpuResidency card, BankResidency[] banks, ExecutorKind kind, Dictionary<string, BankResidency> decided,
        List<string> notes, int sharing)
    {
        var (stored, room) = (banks.Sum(b => b.Layout.Bytes), card.Left);
        var (isTrained, needed) = (Array.Exists(banks, b => b.IsTrained), banks.Sum(b => b.IsTrained ? b.Layout.Bytes + GradientBytes(b) : b.Layout.Bytes));
        var executor = kind != ExecutorKind.Auto ? kind : needed <= ResidentShare * room ? ExecutorKind.Resident
            : isTrained ? ExecutorKind.Streamed : ExecutorKind.Split;
        if (kind == ExecutorKind.Auto)
            notes.Add($"experts: {Word(executor)}: they take {ByteSize.Text(stored)}, {card.Gpu} has "
                + (room <= 0 ? "no room" : ByteSize.Text(room)) + " for them, adapters and activations "
                + $"(by auto they stay there with at most {100 * ResidentShare:F0} % of it)");
        var home = executor == ExecutorKind.Resident ? WeightHome.Device : WeightHome.Host;
        WeightHome HomeOf(BankResidency bank) => bank.Place.Weights == WeightHome.Disk ? WeightHome.Disk : home;
        var (group, slots) = executor == ExecutorKind.Resident ? (0, 0)
            : ExpertExecutors.SlotsOf([.. banks.Select(b => b.Layout)], (long)Math.Min(SlotShare * room, stored), executor == ExecutorKind.Split,
                sharing);
        foreach (var bank in banks)
            decided[bank.Path] = bank with { Place = bank.Place with { Executor = executor, Weights = HomeOf(bank) }, GroupBytes = group };
        return executor == ExecutorKind.Resident ? card with { Experts = card.Experts + stored }
            : card with { Slots = card.Slots + slots, GroupBytes = Math.Max(card.GroupBytes, group) };
    }

    private static string Word(ExecutorKind executor) => executor switch
    {
        ExecutorKind.Resident => "resident",
        ExecutorKind.Streamed => "streamed",
        _ => "split between the CPU and the card by measured costs",
    };

    private static long GradientBytes(BankResidency bank) => (long)(bank.Layout.Count * bank.Layout.Elements) * sizeof(float);

    /// <summary>
    /// `auto` keeps experts on a card when they take at most this share of what is free: adapters, their moments and activations need the rest. Others it
    /// splits.
    /// </summary>
    private const double ResidentShare = 0.6;

    /// <summary>
    /// Share of what is free that the slots of streamed experts take: more than the few that hide copies save copies at the turn from forward to backward.
    /// </summary>
    private const double SlotShare = 0.25;
}
