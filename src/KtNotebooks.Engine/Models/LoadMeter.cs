using KtNotebooks.Experts;
using KtNotebooks.Placement;
using KtNotebooks.Weights;

namespace KtNotebooks.Models;

/// <summary>
/// Counts a checkpoint's bytes once as a model loads: when a tensor is taken, or, where experts stay mapped until they are brought to a card or to pinned
/// memory (which is what takes the time), when their bank is there.
/// </summary>
internal sealed class LoadMeter(string folder, long total, ResidencyPlan? plan, Action<WorkProgress>? report)
{
    private readonly WorkMeter _meter = new(total, report);
    private readonly Dictionary<string, long> _waiting = [];

    /// <summary>What came in last, for who must say at what it stopped.</summary>
    public string Last { get; private set; } = "the beginning";

    public void Taken(string name, long bytes)
    {
        Last = name;
        if (plan?.Bank(name) is { IsBroughtLater: true } bank)
            lock (_waiting) _waiting[bank.Path] = _waiting.GetValueOrDefault(bank.Path) + bytes;
        else Count(bytes);
    }

    public void Brought(ExpertBank bank)
    {
        Last = bank.Path;
        long bytes;
        lock (_waiting) _ = _waiting.Remove(bank.Path, out bytes);
        Count(bytes);
    }

    private void Count(long bytes) => _meter.Add(Path.GetFileName(Path.TrimEndingDirectorySeparator(folder)), bytes);
}
