using KtNotebooks.Interop;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;

namespace KtNotebooks.Placement;

/// <summary>
/// The matrices of a model's layers that are no experts (attention, shared experts, dense feed-forward parts, routers): 34 GB of DeepSeek-V3 in BF16, more
/// than a card of 24 GB has. Which of them wait in pinned host memory, and what their card needs for them then.
/// </summary>
internal static class LayerMatrices
{
    /// <summary>At work, on its way, and one more: with parts of a window that follow each other through a layer both of its halves are in use.</summary>
    public const int Slots = 3;

    /// <summary>`auto` keeps all weights but experts on a card that they take at most this share of.</summary>
    private const double StayShare = 0.6;

    /// <summary>Those of a stage, by name.</summary>
    public static IEnumerable<Parameter> Of(Module stage) => stage.All().OfType<Linear>().SelectMany(l => l.Weights).Where(w => w.Tensor.Rank == 2);

    /// <summary>The names of those that come from host memory.</summary>
    /// <exception cref="NotSupportedException">One of them is to be trained itself.</exception>
    public static IReadOnlySet<string> Visiting(Module root, ModelPlacement placement, GpuMemory cards, Func<string, bool>? trains, List<string> notes)
    {
        HashSet<string> names = [];
        var asked = placement.Settings.DenseWeights;
        foreach (var own in root.All().OfType<Stage>().SelectMany(Of).GroupBy(w => placement.Of(w.Name).Compute))
        {
            if (own.Key.Kind != DeviceKind.Cuda) continue;
            var ruled = own.Where(w => placement.Of(w.Name).Weights == WeightHome.Host).Select(w => w.Name).ToHashSet();
            var all = root.All().Where(m => m is not Experts.ExpertBank).SelectMany(m => m.Weights).Where(w => placement.Of(w.Name).Compute == own.Key)
                .Sum(w => w.Tensor.ByteLength);
            var tooMany = asked is null && ruled.Count == 0 && all > StayShare * cards.Of(own.Key) && !own.Any(w => trains?.Invoke(w.Name) == true);
            var come = asked switch
            {
                WeightHome.Host => own,
                WeightHome.Device => [],
                _ => own.Where(w => tooMany || ruled.Contains(w.Name)),
            };
            foreach (var (name, _) in come)
            {
                if (trains?.Invoke(name) == true)
                    throw new NotSupportedException($"{(asked is null ? placement.Of(name).Because : placement.Settings.DenseWeightsWhere)}: {name} is to be "
                        + "trained itself, and cannot wait in host memory then; write dense_weights: card, or train it with LoRA");
                names.Add(name);
            }
            if (tooMany)
                notes.Add($"dense_weights: host: all weights but experts take {ByteSize.Text(all)}, and {own.Key} has {ByteSize.Text(cards.Of(own.Key))}: the "
                    + "matrices of layers come to it when their layer is at work");
        }
        return names;
    }

    /// <summary>Bytes of the slots of a card through which they come.</summary>
    public static long SlotBytes(Module root, IReadOnlySet<string> visits, Func<string, bool> isThere) => Slots * root.All().OfType<Stage>()
        .Select(stage => Of(stage).Where(w => visits.Contains(w.Name) && isThere(w.Name)).Sum(w => VisitingBuffer.Padded(w.Tensor.ByteLength)))
        .DefaultIfEmpty().Max();
}
