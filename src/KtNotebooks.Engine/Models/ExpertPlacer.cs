using KtNotebooks.Experts;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;

namespace KtNotebooks.Models;

/// <summary>
/// Puts the experts of a loaded model to work as its placement says: banks that a card computes are streamed to it or kept on it, the others stay with the CPU. All other weights are where they belong already, so what is
/// free on a card now is what experts, adapters and activations share.
/// </summary>
internal static class ExpertPlacer
{
    /// <summary>`auto` keeps experts on a card when they take at most this share of what is free: adapters, their moments and activations need the rest.</summary>
    private const double ResidentShare = 0.6;

    /// <summary>Share of what is free that the slots of streamed experts take: more than the few that hide copies save copies at the turn from forward to backward.</summary>
    private const double SlotShare = 0.25;

    /// <param name="reasons">Gets one line for every choice that was made here.</param>
    /// <param name="brought">Told every bank that has come to its card or to pinned memory.</param>
    public static ExpertExecutors? Apply(CausalLm model, ModelPlacement placement, List<string> reasons, Action<ExpertBank>? brought = null)
    {
        foreach (var device in placement.Devices)
            if (device.Kind == DeviceKind.Cuda && placement.Settings.GpuMemoryLimit is { } limit) CudaDevice.Get(device.Index).Pool.Limit = limit;
        ExpertExecutors? executors = null;
        foreach (var group in model.All().OfType<ExpertBank>().Select(b => (Bank: b, Place: placement.Of(b.Path))).Where(b => b.Place.Compute.Kind == DeviceKind.Cuda && b.Place.Executor is not ExecutorKind.Cpu)
            .GroupBy(b => (b.Place.Compute, Kind: b.Place.Executor ?? ExecutorKind.Auto)))
        {
            ExpertBank[] banks = [.. group.Select(b => b.Bank)];
            var (card, stored) = (group.Key.Compute, banks.Sum(b => b.StoredBytes));
            var room = Room(CudaDevice.Get(card.Index));
            var resident = group.Key.Kind == ExecutorKind.Resident || (group.Key.Kind == ExecutorKind.Auto && stored <= ResidentShare * room);
            var sizes = $"they take {stored / 1e9:F1} GB, {card} has {room / 1e9:F1} GB for them, adapters and activations";
            executors ??= new ExpertExecutors();
            if (resident)
            {
                ExpertExecutors.Keep(banks, card, model.Type, brought);
                if (group.Key.Kind == ExecutorKind.Auto) reasons.Add($"experts: resident: {sizes}");
                continue;
            }
            var slots = (long)Math.Min(SlotShare * room, stored);
            if (group.Key.Kind == ExecutorKind.Streamed)
            {
                executors.Stream(banks, card, slots, brought);
                continue;
            }
            var costs = executors.Split(banks, card, slots, brought: brought)!;
            var shared = banks[0].CpuUpTo(costs);
            reasons.Add($"experts: split: {sizes}; measured: {costs}, so the CPU computes alone up to {shared.Alone} tokens a pass, takes a share up to {shared.Share}, and the card streams everything above");
        }
        return executors;
    }

    /// <summary>What the card can still give: its own limit, and what the driver has.</summary>
    private static long Room(CudaDevice card) => Math.Min(card.FreeBytes, card.Pool.Limit - card.Pool.UsedBytes);
}
