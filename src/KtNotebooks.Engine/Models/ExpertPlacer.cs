using KtNotebooks.Experts;
using KtNotebooks.Placement;

namespace KtNotebooks.Models;

/// <summary>
/// Puts the experts of a loaded model to work as its plan says: banks that a card computes are streamed to it or kept on it, the others stay with the CPU.
/// </summary>
internal static class ExpertPlacer
{
    /// <param name="notes">Gets what was measured here.</param>
    /// <param name="brought">Told every bank that has come to its card or to pinned memory.</param>
    public static ExpertExecutors Apply(CausalLm model, ResidencyPlan plan, List<string> notes, Action<ExpertBank>? brought = null)
    {
        var executors = new ExpertExecutors();
        var later = model.All().OfType<ExpertBank>().Select(b => (Bank: b, Lives: plan.Bank(b.Path)!)).Where(b => b.Lives.IsBroughtLater);
        foreach (var like in later.GroupBy(b => (b.Lives.Place.Compute, Executor: b.Lives.Place.Executor!.Value, b.Lives.IsTrained)))
        {
            ExpertBank[] banks = [.. like.Select(b => b.Bank)];
            var (card, group) = (like.Key.Compute, like.First().Lives.GroupBytes);
            var slots = group == 0 ? 0 : (int)(plan.Gpu(card).Ring / group);
            if (like.Key.IsTrained)
            {
                executors.Train(banks, card, group, slots, brought);
                continue;
            }
            if (like.Key.Executor == ExecutorKind.Resident) ExpertExecutors.Keep(banks, card, model.Type, brought);
            if (like.Key.Executor == ExecutorKind.Streamed) executors.Stream(banks, card, group, slots, brought,
                bank => plan.HomeOf(bank.Path) == WeightHome.Disk);
            if (like.Key.Executor != ExecutorKind.Split) continue;
            var costs = executors.Split(banks, card, group, slots, brought: brought);
            var (alone, some) = ((SplitExperts)banks[0].Executor).CpuUpTo(banks[0].TopK);
            notes.Add($"experts: measured: {costs}: the CPU computes alone up to {alone} tokens a pass, takes a share up "
                + $"to {some}, and {card} computes everything above");
        }
        ExpertExecutors.Gather(model.All().OfType<ExpertBank>().Where(b => plan.Bank(b.Path) is { IsBroughtLater: false, IsTrained: false }));
        return executors;
    }
}
