using System.Collections.Frozen;

using KtNotebooks.Experts;
using KtNotebooks.Formats;
using KtNotebooks.Interop;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;

namespace KtNotebooks.Placement;

/// <summary>
/// Where every module of one model is put: rules and keys of any spelling, resolved against the model's own module tree. Immutable. A module that no rule
/// names stands where the nearest matched module above it stands, else where transfer_map sends its layer, else on the default device.
/// </summary>
public sealed class ModelPlacement
{
    private readonly FrozenDictionary<string, ModulePlace> _places;
    private readonly IReadOnlyList<string> _order;

    internal ModelPlacement(IReadOnlyList<KeyValuePair<string, ModulePlace>> places, PlacementSettings settings)
    {
        _places = places.DistinctBy(p => p.Key).ToFrozenDictionary();
        _order = [.. places.Select(p => p.Key).Distinct()];
        Settings = settings;
    }

    public PlacementSettings Settings { get; }

    /// <summary>Rules that placed nothing, a line each.</summary>
    public IReadOnlyList<string> Notes { get; internal init; } = [];

    /// <summary>All modules in forward order.</summary>
    public IEnumerable<(string Path, ModulePlace Place)> All => _order.Select(path => (path, _places[path]));

    /// <summary>The devices that compute something, the CPU first.</summary>
    public IReadOnlyList<Device> Devices => [.. _places.Values.Select(p => p.Compute).Distinct().OrderBy(d => d.Kind).ThenBy(d => d.Index)];

    /// <summary>The place of a module, or of a tensor by its checkpoint name.</summary>
    /// <exception cref="ArgumentException">No module of the model is called so.</exception>
    public ModulePlace Of(string path)
    {
        ArgumentNullException.ThrowIfNull(path);
        for (var name = path; name.Length > 0; name = name.LastIndexOf('.') is > 0 and var dot ? name[..dot] : "")
            if (_places.TryGetValue(name, out var place)) return place;
        throw new ArgumentException($"[Placement] the model has no module '{path}'");
    }

    /// <param name="root">A model, of real weights or of shapes alone.</param>
    /// <param name="modelType">`model_type` of its config: classes of one model's Python code match that model alone.</param>
    /// <exception cref="InvalidDataException">A rule asks for what cannot be; file and line are named.</exception>
    public static ModelPlacement Resolve(Module root, string modelType, PlacementSettings settings) => new PlacementWalk(modelType, settings).Run(root);

    /// <summary>
    /// The CPU variant that the rules' `kernel` asks for, and the line that says so; null: the best one. One serves the whole process, so two rules may not
    /// ask for two.
    /// </summary>
    /// <exception cref="InvalidDataException">Two rules ask for different ones.</exception>
    public (string Variant, string Because)? Kernel
    {
        get
        {
            var asked = All.Select(a => a.Place).Where(p => p.Compute.Kind == DeviceKind.Cpu && p.Kernel != ModulePlace.AnyKernel).DistinctBy(p => p.Kernel)
                .Take(2).ToArray();
            if (asked.Length == 2)
                throw new InvalidDataException($"{asked[1].Because}: asks for kernel: {asked[1].Kernel}, but {asked[0].Because} asks "
                    + $"for {asked[0].Kernel}; one CPU variant serves the whole process: write the same in both");
            return asked.Length == 0 ? null : (asked[0].Kernel, asked[0].Because);
        }
    }

    /// <summary>Fails when a card that something is put on is not there; makes the CPU's kernels and threads what rules and cpu_infer say.</summary>
    /// <exception cref="NotSupportedException">Says why, and which line to change.</exception>
    public void PrepareDevices()
    {
        foreach (var (path, place) in All)
        {
            if (place.Compute.Kind != DeviceKind.Cuda) continue;
            var why = CudaDevice.Missing ?? (place.Compute.Index >= CudaDevice.Count ? $"there are {CudaDevice.Count} cards, numbered from 0" : null);
            if (why is not null)
                throw new NotSupportedException($"{place.Because}: puts {path} on {place.Compute}, but {why}. Change that line, or write device: cpu to "
                    + "compute everything on the CPU");
        }
        if (KernelMissing is { } missing) throw new NotSupportedException(missing);
        RequireKernelOfUse();
        Cpu.Configure(Kernel?.Variant, Settings.Threads);
    }

    /// <summary>Why the CPU variant that is asked for does not run here; null: it does, or none is asked for.</summary>
    public string? KernelMissing => Kernel is { } kernel && !Cpu.Variants.Contains(kernel.Variant)
        ? $"{kernel.Because}: asks for kernel: {kernel.Variant}, which does not run on this processor; it has {string.Join(", ", Cpu.Variants)}; write one of "
            + "them, or auto" : null;

    /// <exception cref="InvalidDataException">amx_int8 is asked for, and nothing that the CPU computes is stored in int8.</exception>
    public void RequireKernelOfUse()
    {
        if (Kernel is { Variant: ModulePlace.Int8Kernel } bytes
            && !All.Any(a => a.Place.Format == StorageFormat.Int8 && (a.Place.Compute.Kind == DeviceKind.Cpu
                || a.Place.Executor is ExecutorKind.Cpu or ExecutorKind.Split)))
            throw new InvalidDataException($"{bytes.Because}: asks for kernel: {bytes.Variant}, which multiplies weights stored in int8, but nothing that the "
                + "CPU computes is stored so; write format: int8 beside it, or kernel: auto");
    }

    /// <summary>What kind of module this is, for rules that match a class; null: none that rules know.</summary>
    internal static ModuleClass? ClassOf(Module module, Module? parent) => module switch
    {
        Embedding => ModuleClass.Embedding,
        Linear when parent is MoeMlp => ModuleClass.Router,
        Linear => ModuleClass.Linear,
        RmsNorm => ModuleClass.Norm,
        SwiGluMlp => ModuleClass.Mlp,
        MoeMlp => ModuleClass.Moe,
        ExpertBank => ModuleClass.Experts,
        Stage => ModuleClass.Layer,
        _ => parent is Stage ? ModuleClass.Attention : null,
    };
}
