using KtNotebooks.Configuration;
using KtNotebooks.Experts;
using KtNotebooks.Interop;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;

namespace KtNotebooks.Training;

/// <summary>Where the keys want what training adds to a model: on the card, in pinned host memory, or (null) where there is room.</summary>
/// <param name="ExpertLoraOnHost">`expert_lora`: the pairs of routed experts, with their gradients and moments; true for `disk` as well.</param>
/// <param name="OptimizerOnHost">`optimizer_state`: the moments of what is on a card.</param>
/// <param name="SavedBytes">`saved_inputs_limit`, a size such as 2GB: inputs of layers that stay on a card between forward and backward; those beyond wait
/// on the host.</param>
/// <param name="KeepsActivations">`kt_cpu_activation: retain`: experts on the CPU keep g and u of every row of a window for its backward pass.</param>
public sealed record TrainingMemoryKeys(bool? ExpertLoraOnHost = null, bool? OptimizerOnHost = null, long? SavedBytes = null, bool KeepsActivations = false)
{
    /// <summary>
    /// `kept_activations`: bytes on each device in which stages keep their forward pass for backward, 0 none; null: a share of what is left.
    /// </summary>
    public long? KeptBytes { get; init; }

    /// <summary>`expert_lora: disk`: `offload_folder`, in which the pairs have their home instead of in host memory; null: no disk.</summary>
    public string? ExpertLoraFolder { get; init; }

    public static TrainingMemoryKeys Read(Settings c)
    {
        ArgumentNullException.ThrowIfNull(c);
        bool? OnHost(string key) => c.OneOf(key) switch { "card" => false, "host" or "disk" => true, _ => null };
        var isOnDisk = c.OneOf("expert_lora") == "disk";
        if (!isOnDisk) c.Ignore("offload_folder", "weights stay in the checkpoint's own files; expert_lora: disk lets adapters of experts wait there");
        return new TrainingMemoryKeys(OnHost("expert_lora"), OnHost("optimizer_state"), PlacementSettings.Bytes(c, "saved_inputs_limit", orNone: true),
            Agreed(c, name => c.OneOf(name), "kt_cpu_activation", "kt_config.kt_cpu_activation", "kt_config.kt_activation_policy.cpu") == "retain")
        {
            ExpertLoraFolder = isOnDisk ? c.TextOrDefault("offload_folder") : null,
            KeptBytes = Kept(c),
        };
    }

    /// <summary>kept_activations, and what other systems call it.</summary>
    private static long? Kept(Settings c)
    {
        string Word(string name) => name switch
        {
            "disable_gradient_checkpointing" => c.Flag(name) ? "all" : "none",
            "kept_activations" => c.Text(name)!.ToLowerInvariant(),
            _ => c.OneOf(name, "", "retain", "recompute") == "retain" ? "all" : "none",
        };
        return Agreed(c, Word, "kept_activations", "disable_gradient_checkpointing", "kt_config.kt_activation_policy.gpu") switch
        {
            null or "auto" => null,
            "none" => 0,
            "all" => long.MaxValue,
            var size when char.IsAsciiDigit(size[0]) => PlacementSettings.Bytes(c, "kept_activations"),
            _ => throw c.Wrong("kept_activations", "auto, none, all or a size such as 20GB"),
        };
    }

    /// <summary>One key under several names, which must agree; null: none is there.</summary>
    private static string? Agreed(Settings c, Func<string, string> word, params ReadOnlySpan<string> names)
    {
        string? said = null;
        foreach (var name in names)
        {
            if (!c.Has(name)) continue;
            if (said is not null && word(name) != said) throw c.Wrong(name, $"{said}, as its other name says");
            said = word(name);
        }
        return said;
    }
}

/// <summary>
/// What of a training run's own memory lies on one card: an adapter's element takes 4 bytes, its gradient 4, its moments 8. The moments leave first, then
/// the pairs of the experts (DeepSeek-V3 at rank 8: 3.3 billion elements, 52 GB; a layer's 0.2 GB cross the bus at a visit, beside 11 GB of experts), and
/// the inputs of layers get a share of what is left. Asked by the run, which knows what is free, and by the plan, which predicts it.
/// </summary>
/// <param name="LoraOnHost">The experts' pairs, gradients and moments are in host memory, or on a disk, and the CPU updates them.</param>
/// <param name="MomentsOnHost">Moments of what is on the card wait in pinned host memory.</param>
/// <param name="SavedBytes">For the inputs of layers.</param>
public readonly record struct TrainingMemory(bool LoraOnHost, bool MomentsOnHost, long SavedBytes)
{
    /// <summary>For whole forward passes of stages, which backward does not compute again then; given up where the device is full.</summary>
    public long KeptBytes { get; init; }

    /// <summary>Of what is on the host: a disk is its home.</summary>
    public bool LoraOnDisk { get; init; }

    private const int OnGpuBytes = 8, MomentBytes = 8, GradientBytes = 4;

    /// <summary>
    /// Shares of what a card still gives: for the adapter, of the rest for inputs of layers, and for passes that are kept. A stage at work needs what is left.
    /// </summary>
    private const double AdapterShare = 0.4, SavedShare = 0.3, KeptShare = 0.35, TrainedShare = 0.6;

    /// <summary>Of the host memory that is available, for passes that are kept.</summary>
    private const double HostShare = 0.25;

    /// <param name="room">Bytes that the card can still give when weights and experts are on it.</param>
    /// <param name="dense">Elements of the pairs of its linears.</param>
    /// <param name="experts">And of its experts.</param>
    /// <param name="wantedOnHost">The CPU computes some of the experts, and must reach their pairs.</param>
    /// <param name="whole">Elements of modules that are trained whole, which are counted as weights.</param>
    public static TrainingMemory Of(double room, double dense, double experts, bool wantedOnHost, TrainingMemoryKeys keys, double whole = 0)
    {
        room -= whole * GradientBytes;
        var allowed = AdapterShare * room;
        var pairs = keys.ExpertLoraOnHost ?? (wantedOnHost || (dense + experts) * OnGpuBytes > allowed);
        var here = dense + (pairs ? 0 : experts);
        var moments = keys.OptimizerOnHost ?? (here * OnGpuBytes) + ((here + whole) * MomentBytes) > allowed;
        var taken = (here * OnGpuBytes) + (moments ? 0 : (here + whole) * MomentBytes);
        return new TrainingMemory(pairs, moments, keys.SavedBytes ?? (long)Math.Max(0, SavedShare * (room - taken)))
        {
            KeptBytes = KeptOf(room - taken, keys),
            LoraOnDisk = keys.ExpertLoraFolder is not null,
        };
    }

    /// <summary>Of the CPU, where layers are computed by it: inputs stay where they are.</summary>
    /// <param name="left">Bytes that host memory can still give; null: what is available now.</param>
    public static TrainingMemory OnHost(TrainingMemoryKeys keys, long? left = null) => new(false, false, long.MaxValue)
    {
        KeptBytes = keys.KeptBytes ?? (long)(HostShare * (left ?? HostMemory.Left)),
    };

    private static long KeptOf(double left, TrainingMemoryKeys keys) => keys.KeptBytes ?? (long)Math.Max(0, KeptShare * left);

    /// <summary>
    /// The same where the model's own weights are trained: an element takes 4 bytes of gradient and 8 of moments beside itself. Of experts that cross the bus
    /// both
    /// are in host memory; of what is on a card the moments leave first.
    /// </summary>
    /// <param name="model">Loaded, or of shapes.</param>
    public static IReadOnlyDictionary<Device, TrainingMemory> Choose(CausalLm model, TrainingMemoryKeys keys, ResidencyPlan plan, List<string> notes)
    {
        Dictionary<Device, TrainingMemory> all = new() { [Device.Cpu] = OnHost(keys) };
        var experts = model.AllWeights.Where(w => plan.Trains(w.Name) && plan.Bank(w.Name)?.Place.Executor == ExecutorKind.Streamed).Sum(w => (double)w.Count);
        foreach (var card in plan.Gpus)
        {
            var here = model.AllWeights.Where(w => plan.Trains(w.Name) && plan.DeviceOf(w.Name) == card.Gpu
                && plan.Bank(w.Name)?.Place.Executor != ExecutorKind.Streamed).Sum(w => (double)w.Count);
            var moments = keys.OptimizerOnHost ?? here * (GradientBytes + MomentBytes) > TrainedShare * card.Left;
            var taken = here * (moments ? GradientBytes : GradientBytes + MomentBytes);
            all.Add(card.Gpu, new TrainingMemory(false, moments, keys.SavedBytes ?? (long)Math.Max(0, SavedShare * (card.Left - taken)))
            {
                KeptBytes = KeptOf(card.Left - taken, keys),
            });
            if (moments && here > 0) notes.Add($"{card.Gpu}: AdamW's moments of {here / 1e6:F1} M elements wait in pinned host memory");
        }
        if (experts > 0)
            notes.Add($"experts that cross the bus are trained in host memory: {experts / 1e6:F1} M elements, "
                + $"{ByteSize.Text((long)experts * (GradientBytes + MomentBytes))} with gradients and moments beside the weights; "
                + "their gradients leave the card bank by bank and the CPU updates them");
        return all;
    }

    /// <summary>Decides for every card, by what the plan leaves of it; asked by the run and by `kt plan`, before an adapter is attached.</summary>
    /// <param name="model">Loaded, or of shapes.</param>
    /// <param name="tokens">Of a window.</param>
    /// <param name="notes">Gets what a person should know.</param>
    public static IReadOnlyDictionary<Device, TrainingMemory> Choose(CausalLm model, LoraSettings lora, TrainingMemoryKeys keys, ResidencyPlan plan,
        long tokens,
        List<string> notes)
    {
        if (keys.ExpertLoraFolder is not null)
            foreach (var bank in LoraAdapter.Adapted(model, lora).OfType<ExpertBank>())
                if (plan.DeviceOf(bank.Path).Kind != DeviceKind.Cuda)
                    throw new ArgumentException($"expert_lora: disk is for experts that a card computes, but {bank.Path} is computed by the CPU, which has its "
                        + "adapter in memory: leave it out, or lower lora_rank");
        Dictionary<Device, TrainingMemory> all = new() { [Device.Cpu] = OnHost(keys) };
        foreach (var card in plan.Gpus)
        {
            var adapted = LoraAdapter.Adapted(model, lora).Where(m => plan.DeviceOf(m.Path) == card.Gpu).ToLookup(m => m.IsExperts);
            double dense = adapted[false].Sum(m => LoraAdapter.Elements(m, lora)), experts = adapted[true].Sum(m => LoraAdapter.Elements(m, lora));
            var banks = adapted[true].OfType<ExpertBank>();
            var whole = model.AllWeights.Where(w => plan.Trains(w.Name) && plan.DeviceOf(w.Name) == card.Gpu).Sum(w => (double)w.Count);
            var memory = Of(card.Left, dense, experts, banks.Any(b => CpuTakesPart(plan.Bank(b.Path)!, b.TopK * tokens)), keys, whole);
            all.Add(card.Gpu, memory);
            if (experts > 0 && memory.LoraOnHost)
                notes.Add($"{card.Gpu}: the LoRA of its experts ({experts / 1e6:F1} M elements, {ByteSize.Text((long)experts * (OnGpuBytes + MomentBytes))} "
                    + $"with gradients and moments) is {(memory.LoraOnDisk ? $"on the disk, in {keys.ExpertLoraFolder}, and updated by the CPU"
                        : "in host memory and updated there")}");
            var here = whole + dense + (memory.LoraOnHost ? 0 : experts);
            if (memory.MomentsOnHost) notes.Add($"{card.Gpu}: AdamW's moments of {here / 1e6:F1} M elements wait in pinned host memory");
        }
        return all;
    }

    /// <summary>
    /// Whether a training step leaves the CPU a share of split experts worth having, a quarter of the groups, by nominal costs: the plan knows no measured
    /// ones. The pairs must be in host memory for it, and fetching them for every visit costs a step of V2-Lite on an H100 a tenth.
    /// </summary>
    private static bool CpuTakesPart(BankResidency bank, long routes)
    {
        if (bank.Place.Executor != ExecutorKind.Split) return false;
        var groups = bank.Layout.Groups(bank.GroupBytes);
        int Host(bool backward) => ExpertCosts.Nominal.HostGroups(groups, bank.Layout.ExpertBytes, bank.Layout.Elements, routes, backward);
        return 4 * Math.Max(Host(false), Host(true)) >= groups.Count;
    }
}
