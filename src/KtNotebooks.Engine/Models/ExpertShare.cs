using KtNotebooks.Placement;
using KtNotebooks.Tensors;

namespace KtNotebooks.Models;

/// <summary>What the experts of one card get of it. Asked by the run, which knows what is free, and by the plan, which predicts it: one rule.</summary>
/// <param name="Executor">Resident, streamed or split.</param>
/// <param name="SlotBytes">What the slots of experts on their way may take at most.</param>
internal readonly record struct ExpertShare(ExecutorKind Executor, long SlotBytes)
{
    /// <summary>
    /// `auto` keeps experts on a card when they take at most this share of what is free: adapters, their moments and activations need the rest. Others it
    /// splits.
    /// </summary>
    private const double ResidentShare = 0.6;

    /// <summary>
    /// Share of what is free that the slots of streamed experts take: more than the few that hide copies save copies at the turn from forward to backward.
    /// </summary>
    private const double SlotShare = 0.25;

    /// <param name="kind">What the placement asks for.</param>
    /// <param name="stored">Bytes of all its experts.</param>
    /// <param name="room">What the card can still give when all other weights are on it.</param>
    public static ExpertShare Of(ExecutorKind kind, long stored, long room) =>
        new(kind != ExecutorKind.Auto ? kind : stored <= ResidentShare * room ? ExecutorKind.Resident : ExecutorKind.Split,
            (long)Math.Min(SlotShare * room, stored));

    /// <summary>What `auto` chose and why.</summary>
    public string Because(Device card, long stored, long room) =>
        $"experts: {(Executor == ExecutorKind.Resident ? "resident" : "split between the CPU and the card by measured costs")}: they "
            + $"take {stored / 1e9:F1} GB, {card} has {room / 1e9:F1} GB for them, adapters and activations";
}
