using System.Text;

using KtNotebooks.Tensors;

namespace KtNotebooks.Distributed;

/// <summary>
/// The processes of one run, and what they tell each other. Ranks are alike: all of them call the same members in the same order, one thread at a time. What a
/// process does alone is the same with one rank (<see cref="SingleRank"/>), so that nobody asks how many there are.
/// </summary>
public interface ICollective : IDisposable
{
    /// <summary>Of this process, in [0, World).</summary>
    int Rank { get; }

    /// <summary>Processes of the run.</summary>
    int World { get; }

    /// <summary>What carries the sums, for people: `MPI`, `NCCL`, `TCP`; empty for a single rank.</summary>
    string Carrier { get; }

    /// <summary>Of every rank: the host that it runs on.</summary>
    IReadOnlyList<string> Hosts { get; }

    /// <summary>
    /// Before the first sum of what lies on this device, by all ranks: what can carry it best. In words for people; null: there is nothing to say.
    /// </summary>
    string? Prepare(Device device);

    /// <summary>
    /// Begins to replace F32 tensors, alike on all ranks, with their sums over the ranks: element by element g₀ + g₁ + … + g_{N−1}, added in F32 in the
    /// order of the ranks (NCCL: in its own order, which is fixed for the same cards). They belong to the collective until <see cref="Finish"/>; what was
    /// queued on a card's compute stream before is waited for.
    /// </summary>
    void StartSum(IReadOnlyList<Tensor> tensors);

    /// <summary>Waits until all sums that were begun are there; on a card its compute stream waits, and not the caller.</summary>
    void Finish();

    /// <summary>What every rank gives, in the order of the ranks. For small things; waits for all.</summary>
    byte[][] AllGather(ReadOnlySpan<byte> mine);

    /// <summary>
    /// This rank cannot go on: tells rank 0, which says so in one line and ends all. True when it has been told, so that this rank need not say it too.
    /// </summary>
    bool Abort(string line);

    /// <summary>Sums are timed, for <see cref="TakeFigures"/>.</summary>
    bool IsTimed { get; set; }

    /// <summary>What the sums have cost since the last call.</summary>
    SumFigures TakeFigures();
}

/// <summary>What sums have cost.</summary>
/// <param name="Bytes">That were summed.</param>
/// <param name="Busy">Time in which any was under way, waiting for slower ranks included.</param>
/// <param name="Exposed">Of it what came after the rank's own gradients: what a step takes longer.</param>
public readonly record struct SumFigures(long Bytes, TimeSpan Busy, TimeSpan Exposed);

/// <summary>What can be said with <see cref="ICollective.AllGather"/>.</summary>
public static class Collectives
{
    /// <summary>Rank 0 writes files and speaks.</summary>
    public static bool IsFirst(this ICollective ranks) => ranks.Rank == 0;

    /// <summary>What rank 0 gives.</summary>
    public static byte[] Broadcast(this ICollective ranks, ReadOnlySpan<byte> fromFirst) => ranks.AllGather(ranks.Rank == 0 ? fromFirst : [])[0];

    /// <summary>Waits for all.</summary>
    public static void Barrier(this ICollective ranks) => ranks.AllGather([]);

    /// <summary>Numbers of every rank, as many of each as it gives.</summary>
    public static double[][] AllGather(this ICollective ranks, ReadOnlySpan<double> mine) =>
        [.. ranks.AllGather(System.Runtime.InteropServices.MemoryMarshal.AsBytes(mine))
            .Select(bytes => System.Runtime.InteropServices.MemoryMarshal.Cast<byte, double>(bytes).ToArray())];

    /// <summary>Numbers of every rank end to end.</summary>
    public static float[] Join(this ICollective ranks, ReadOnlySpan<float> mine) => ranks.World == 1 ? mine.ToArray()
        : [.. ranks.AllGather(System.Runtime.InteropServices.MemoryMarshal.AsBytes(mine))
            .SelectMany(bytes => System.Runtime.InteropServices.MemoryMarshal.Cast<byte, float>(bytes).ToArray())];

    /// <summary>A text of every rank.</summary>
    public static string[] AllGather(this ICollective ranks, string mine) => [.. ranks.AllGather(Encoding.UTF8.GetBytes(mine)).Select(Encoding.UTF8.GetString)];

    /// <summary>This rank's part of so many rows that are alike: [From, To).</summary>
    public static (int From, int To) PartOf(this ICollective ranks, int rows) =>
        ((int)((long)rows * ranks.Rank / ranks.World), (int)((long)rows * (ranks.Rank + 1) / ranks.World));

    /// <summary>How a rank is named to people.</summary>
    public static string Name(this ICollective ranks, int rank) => $"rank {rank} on {ranks.Hosts[rank]}";
}

/// <summary>One process alone.</summary>
public sealed class SingleRank : ICollective
{
    private SingleRank()
    {
    }

    public static SingleRank Instance { get; } = new();

    public int Rank => 0;

    public int World => 1;

    public string Carrier => "";

    public IReadOnlyList<string> Hosts { get; } = [Environment.MachineName];

    public bool IsTimed { get; set; }

    public string? Prepare(Device device) => null;

    public void StartSum(IReadOnlyList<Tensor> tensors)
    {
    }

    public void Finish()
    {
    }

    public byte[][] AllGather(ReadOnlySpan<byte> mine) => [mine.ToArray()];

    public bool Abort(string line) => false;

    public SumFigures TakeFigures() => default;

    public void Dispose()
    {
    }
}
