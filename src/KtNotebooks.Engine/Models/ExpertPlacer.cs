using KtNotebooks.Experts;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;

namespace KtNotebooks.Models;

/// <summary>
/// Puts the experts of a loaded model to work as its placement says: banks that a card computes are streamed to it or kept on it, the others stay with the
/// CPU. All other weights are where they belong already, so what is free on a card now is what experts, adapters and activations share.
/// </summary>
internal static class ExpertPlacer
{
    /// <param name="reasons">Gets one line for every choice that was made here.</param>
    /// <param name="brought">Told every bank that has come to its card or to pinned memory.</param>
    public static ExpertExecutors? Apply(CausalLm model, ModelPlacement placement, List<string> reasons, Action<ExpertBank>? brought = null)
    {
        ExpertExecutors? executors = null;
        foreach (var group in model.All().OfType<ExpertBank>().Select(b => (Bank: b, Place: placement.Of(b.Path)))
            .Where(b => b.Place.Compute.Kind == DeviceKind.Cuda && b.Place.Executor is not ExecutorKind.Cpu)
            .GroupBy(b => (b.Place.Compute, Kind: b.Place.Executor ?? ExecutorKind.Auto)))
        {
            ExpertBank[] banks = [.. group.Select(b => b.Bank)];
            var (card, stored) = (group.Key.Compute, banks.Sum(b => b.StoredBytes));
            var room = CudaDevice.Get(card.Index).Room;
            var share = ExpertShare.Of(group.Key.Kind, stored, room);
            executors ??= new ExpertExecutors();
            if (share.Executor == ExecutorKind.Resident) ExpertExecutors.Keep(banks, card, model.Type, brought);
            if (share.Executor == ExecutorKind.Streamed) executors.Stream(banks, card, share.SlotBytes, brought);
            if (group.Key.Kind == ExecutorKind.Auto) reasons.Add(share.Because(card, stored, room));
            if (share.Executor == ExecutorKind.Split && executors.Split(banks, card, share.SlotBytes, brought: brought) is { } costs)
            {
                var (alone, some) = banks[0].CpuUpTo(costs);
                reasons.Add($"experts: measured: {costs}: the CPU computes alone up to {alone} tokens a pass, takes a share up "
                    + $"to {some}, and {card} computes everything above");
            }
        }
        return executors;
    }
}
