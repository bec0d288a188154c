using KtNotebooks.Experts;
using KtNotebooks.Models;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;

namespace KtNotebooks.Tests.Experts;

/// <summary>What a residency plan decides, given by hand.</summary>
internal static class SlotsInBytes
{
    public static void Stream(this ExpertExecutors executors, IReadOnlyList<ExpertBank> banks, Device card, long slotBytes)
    {
        var (group, slots) = ExpertExecutors.SlotsOf([.. banks.Select(b => b.Layout)], slotBytes, split: false, cards: 1);
        executors.Stream(banks, card, group, slots);
    }

    public static void Split(this ExpertExecutors executors, IReadOnlyList<ExpertBank> banks, Device card, long slotBytes, ExpertCosts costs)
    {
        var (group, slots) = ExpertExecutors.SlotsOf([.. banks.Select(b => b.Layout)], slotBytes, split: true, cards: 1);
        executors.Split(banks, card, group, slots, costs);
    }

    /// <summary>A plan for cards that need not be here.</summary>
    public static ResidencyPlan Plan(string folder, PlacementSettings settings, DType type = DType.BF16)
    {
        var config = new ConfigFile(Path.Combine(folder, "config.json"));
        using var shape = ModelFolder.Shape(config, type);
        return ModelFolder.Plan(shape, config, settings);
    }
}
