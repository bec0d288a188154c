using KtNotebooks.Interop;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Tests.Ops;

/// <summary>A way to run an op: a device and, on the CPU, one row of the kernel table. The list is what "everywhere" means in the harness.</summary>
/// <param name="Name">As in test names: `cpu/avx2`, `cuda:0`.</param>
/// <param name="Device">Where the tensors are.</param>
/// <param name="Kernels">The CPU kernels to force.</param>
/// <param name="Missing">Why it cannot run here, or null.</param>
public sealed record Variant(string Name, Device Device, string? Kernels, string? Missing)
{
    /// <summary>Every variant that this program knows, present or not.</summary>
    public static IReadOnlyList<Variant> Known { get; } =
    [
        .. ((string[])["amx", "avx512bf16", "avx512", "avx2", Cpu.Plain]).Select(k => new Variant($"cpu/{k}", Device.Cpu, k, MissingCpu(k))),
        new("cuda:0", Device.Cuda(), null, CudaDevice.Missing),
    ];

    /// <summary>
    /// What the questions are asked of: all that is here, and with an emulated card nothing else, because the others are asked in a process without it.
    /// </summary>
    public static IEnumerable<Variant> Present => Known.Where(v => v.Missing is null && (v.IsCuda || !Require.EmulatedCard));

    public bool IsCuda => Device.Kind == DeviceKind.Cuda;

    public static Variant Of(string name) => Known.Single(v => v.Name == name);

    /// <summary>Forces this variant's CPU kernels until the returned object is disposed.</summary>
    public IDisposable Use()
    {
        var before = Cpu.Variant;
        if (Kernels is not null) Cpu.Use(Kernels, Cpu.Threads);
        return new Restore(before);
    }

    private static string? MissingCpu(string kernels) => Cpu.Variants.Contains(kernels) ? null : $"this machine runs {string.Join(", ", Cpu.Variants)}";

    private sealed class Restore(string kernels) : IDisposable
    {
        public void Dispose() => Cpu.Use(kernels, Cpu.Threads);
    }
}
