using System.Globalization;

using KtNotebooks.Interop;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Planning;

/// <summary>What a machine has of what runs need, in bytes.</summary>
/// <param name="Host">Its memory.</param>
/// <param name="HostFree">Of that what other programs leave now.</param>
/// <param name="Gpus">The memory of each card that can be used, by number.</param>
/// <param name="DiskFree">Free where files are written.</param>
public sealed record Machine(long Host, long HostFree, IReadOnlyList<long> Gpus, long DiskFree)
{
    /// <summary>What the program itself and the system need besides tensors.</summary>
    private const long HostReserve = 500_000_000;

    /// <summary>This machine.</summary>
    /// <param name="folder">Where files will be written; it need not be there yet.</param>
    public static Machine Here(string folder)
    {
        var memory = HostMemory.Read();
        var cards = CudaDevice.Missing is null ? Enumerable.Range(0, CudaDevice.Count).Select(BytesOf) : [];
        return new Machine(memory.GetValueOrDefault("MemTotal"), memory.GetValueOrDefault("MemAvailable"), [.. cards], DiskOf(folder));
    }

    /// <summary>Whether a plan fits, and what decides that: `fits: …` or `does not fit: needs 447 GB of host memory, this machine has 24 GB`.</summary>
    public (bool Fits, string Line) Judge(MemoryPlan plan)
    {
        ArgumentNullException.ThrowIfNull(plan);
        List<string> has = [], lacks = [], remarks = [], beyond = []; // what cards must have that are not there
        foreach (var device in plan.Devices.Where(d => plan.Total(d) > 0))
        {
            var needs = plan.Total(device);
            if (device == "cpu") Weigh(needs, needs + HostReserve, Host, "of host memory", has, lacks);
            else if (IndexOf(device) is var card && card < Gpus.Count) Weigh(needs, needs, Gpus[card], $"of {device}", has, lacks);
            else beyond.Add($"{ByteSize.Text(needs)} on {device}");
        }
        if (beyond.Count > 0)
            lacks.Add($"needs {string.Join(", ", beyond)}, this machine has "
                + $"{(Gpus.Count == 0 ? "no card" : $"{Gpus.Count} card{(Gpus.Count == 1 ? "" : "s")}")}");
        if (plan.ToFetch + plan.Written + plan.Bytes("cpu", MemoryPlan.AdapterOnDisk) is > 0 and var disk)
        {
            string[] what = [.. plan.ToFetch > 0 ? ["the model"] : Array.Empty<string>(), .. plan.Written > 0 ? ["the adapter and a checkpoint"]
                : Array.Empty<string>(), .. plan.Bytes("cpu", MemoryPlan.AdapterOnDisk) > 0 ? ["what offload_folder holds"] : Array.Empty<string>()];
            Weigh(disk, disk, DiskFree, $"of free disk for {string.Join(", ", what)}", has, lacks);
        }
        if (plan.Missing is { } missing) lacks.Add(missing);
        if (plan.Total("cpu") + HostReserve is var host && lacks.Count == 0 && host > HostFree)
            remarks.Add($"only {ByteSize.Text(HostFree)} of host memory are free now: end other programs first");
        // Mapped weights are pages of files that the system drops and reads again as it needs room.
        if (plan.Bytes("cpu", MemoryPlan.Mapped) is > 0 and var mapped && mapped > Host - plan.Total("cpu"))
            remarks.Add($"{ByteSize.Text(mapped)} of weights stay mapped in their files, more than this memory holds: they are read from disk again and again");
        var line = lacks.Count > 0 ? $"does not fit: {string.Join("; ", lacks)}"
            : $"fits: needs {string.Join(", ", has)}{(plan.Devices.All(d => d == "cpu") ? "; no card is needed" : "")}";
        return (lacks.Count == 0, string.Join("; ", remarks.Prepend(line)));
    }

    /// <summary>What would leave host memory less to hold, where a plan wants more of it than there is: keys, and what each saves.</summary>
    public IReadOnlyList<string> Advice(MemoryPlan plan)
    {
        ArgumentNullException.ThrowIfNull(plan);
        if (plan.Total("cpu") + HostReserve <= Host) return [];
        var streamed = plan.Rows.Where(r => r is { Executor: "streamed" or "split", Weights: "host" }).Sum(r => r.Bytes);
        var pairs = plan.Rows.Any(r => r.Executor is "streamed" or "split" or "resident")
            ? plan.Bytes("cpu", MemoryPlan.Adapter) + plan.Bytes("cpu", MemoryPlan.Gradients) + plan.Bytes("cpu", MemoryPlan.Optimizer) : 0;
        List<string> keys = [];
        if (streamed > 0 && !plan.TrainsWeights)
            keys.Add($"expert_weights: disk leaves {ByteSize.Text(streamed)} of experts in the checkpoint's files, at the disk's rate a step");
        if (pairs > 0 && plan.Bytes("cpu", MemoryPlan.Adapter) > 0)
            keys.Add($"expert_lora: disk leaves {ByteSize.Text(pairs)} of their adapters, gradients and moments in offload_folder");
        return keys;
    }

    private static void Weigh(long needs, long withReserve, long there, string what, List<string> has, List<string> lacks)
    {
        if (withReserve <= there) has.Add($"{ByteSize.Text(needs)} of {ByteSize.Text(there)} {what}");
        else lacks.Add($"needs {ByteSize.Text(needs)} {what}, this machine has {ByteSize.Text(there)}");
    }

    private static int IndexOf(string device) => int.Parse(device.AsSpan(device.IndexOf(':') + 1), CultureInfo.InvariantCulture);

    private static long BytesOf(int card)
    {
        try
        {
            return CudaDevice.Get(card).TotalBytes;
        }
        catch (Exception error) when (error is NotSupportedException or FileNotFoundException or KtNativeException) // `kt doctor` says why
        {
            return 0;
        }
    }

    private static long DiskOf(string folder)
    {
        var at = Path.GetFullPath(folder);
        while (!Directory.Exists(at)) at = Path.GetDirectoryName(at)!;
        return new DriveInfo(at).AvailableFreeSpace;
    }
}
