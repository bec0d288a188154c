using KtNotebooks.Formats;

namespace KtNotebooks.Weights;

/// <summary>How a checkpoint comes in where no rule says otherwise.</summary>
/// <param name="Experts">Format of the routed experts; null: as stored.</param>
/// <param name="InMemory">Copied into memory of ours; if not, mapped.</param>
/// <param name="Report">Told the bytes that were taken.</param>
public sealed record LoadSettings(StorageFormat? Experts = null, bool InMemory = false, Action<WorkProgress>? Report = null);
