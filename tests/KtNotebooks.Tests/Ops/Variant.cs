using KtNotebooks.Tensors;

namespace KtNotebooks.Tests.Ops;

/// <summary>A way to run an op: a device and, on the CPU, one row of the kernel table. The list is what "everywhere" means in the harness.</summary>
public sealed record Variant(string Name, Device Device)
{
    /// <summary>Every variant this program knows, present here or not. CPU kernel variants (`cpu/avx2`, `cpu/amx`, …) are added here.</summary>
    public static IReadOnlyList<Variant> All { get; } = [new("cpu", Device.Cpu), new("cuda:0", Device.Cuda())];

    public static Variant Of(string name) => All.Single(v => v.Name == name);

    /// <summary>Skips the running test where this variant's hardware is missing; see <see cref="Tests.Require"/>.</summary>
    public void Require()
    {
        if (Device.Kind == DeviceKind.Cuda) Tests.Require.Hardware("cuda", MissingCuda());
    }

    private static string? MissingCuda()
    {
        try
        {
            Memory.Allocate(Device.Cuda(), 1).Dispose();
            return null;
        }
        catch (NotSupportedException e)
        {
            return e.Message;
        }
    }
}
