using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Placement;

/// <summary>What a card can give to this program's tensors.</summary>
/// <param name="limit">gpu_memory_limit; null: none.</param>
/// <param name="free">Bytes that are free on a card, null where there is no such card; left out: what the driver says.</param>
public sealed class GpuMemory(long? limit, Func<Device, long?>? free = null)
{
    private readonly Func<Device, long?> _free = free ?? Driver;

    /// <summary>What the driver takes of a card for a program: its context and loaded kernels; 0.56 to 0.63 GB on an H200.</summary>
    public const long DriverBytes = 650_000_000;

    /// <summary>Of a card that is not in this machine, when nobody says its size: what most people have.</summary>
    private const long AssumedBytes = 24_000_000_000;

    /// <summary>Its own limit, and what is free on it now where it is in this machine (the driver has taken its part of that already).</summary>
    public long Of(Device card)
    {
        var most = limit ?? long.MaxValue;
        return _free(card) is { } here ? Math.Min(here, most) : limit ?? AssumedBytes - DriverBytes;
    }

    /// <summary>Nobody says its size and it is not here.</summary>
    public bool IsAssumed(Device card) => limit is null && _free(card) is null;

    public static string Assumption(Device card) => $"{card} is not here: what experts get of it is counted for a card of {AssumedBytes / 1e9:F0} GB; "
        + "gpu_memory_limit says another size";

    private static long? Driver(Device card) =>
        CudaDevice.Missing is null && card.Index < CudaDevice.Count ? CudaDevice.Get(card.Index).FreeBytes : null;
}
