using KtNotebooks.Experts;
using KtNotebooks.Formats;
using KtNotebooks.Interop;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;

namespace KtNotebooks.Placement;

/// <summary>
/// Which BF16 matrices of a model that the CPU computes alone are laid out in its kernels' tiles when they are loaded. Those that rules read into host
/// memory always are: they take the same memory there. Those that nobody places are, where host memory is ample; else they stay mapped from the file.
/// </summary>
internal static class CpuTiles
{
    /// <summary>
    /// Ample: what is read into memory takes at most this share of what is available. Adapters, their moments, activations and caches need the rest, of
    /// which a run that keeps forward passes takes a half (TrainingMemory).
    /// </summary>
    private const double Share = 0.5;

    /// <summary>The names of the matrices of linear layers, and the banks as they are then.</summary>
    /// <param name="available">Bytes that host memory can give.</param>
    public static (IReadOnlySet<string> Dense, BankResidency[] Banks) Choose(Module root, DType type, ModelPlacement placement, BankResidency[] banks,
        long available, Func<string, bool>? trains, List<string> notes)
    {
        if (type != DType.BF16 || !Cpu.MultipliesTiles || placement.Devices.Any(d => d.Kind != DeviceKind.Cpu)) return (new HashSet<string>(), banks);
        Parameter[] dense = [.. root.All().OfType<Linear>().Where(l => !l.IsReadInParts).SelectMany(l => l.Weights)
            .Where(w => w.Tensor is { Rank: 2, Type: DType.BF16 } && trains?.Invoke(w.Name) != true)];
        Parameter[] open = [.. dense.Where(w => placement.Of(w.Name).IsOpen)];
        var experts = banks.Where(b => b is { Place.IsOpen: true, IsTrained: false } && b.Format == StorageFormat.BF16).ToHashSet();
        var read = root.All().Where(m => m is not ExpertBank).SelectMany(m => m.Weights)
            .Where(w => placement.Of(w.Name).Weights == WeightHome.Host || trains?.Invoke(w.Name) == true).Sum(w => w.Tensor.ByteLength)
            + banks.Where(b => b.Place.Weights == WeightHome.Host || b.IsTrained).Sum(b => b.Layout.Bytes);
        var room = (long)(Share * available) - read;
        var names = dense.Where(w => placement.Of(w.Name).Weights == WeightHome.Host).Select(w => w.Name).ToHashSet();
        if (Fits("weights of linear layers", open.Sum(w => TiledBuffer.Bytes(w.Tensor.Dim(0), w.Tensor.Width)))) names.UnionWith(open.Select(w => w.Name));
        if (!Fits("experts", experts.Sum(BytesOf))) experts.Clear();
        return (names, [.. banks.Select(b => !experts.Contains(b) ? b
            : b with { IsTiled = true, Place = b.Place with { Weights = WeightHome.Host } })]);

        bool Fits(string what, long bytes)
        {
            var fits = bytes == 0 || bytes <= room;
            if (fits) room -= bytes;
            else
                notes.Add($"{what} stay mapped from the file: in the kernels' tiles, which are faster, they would take {ByteSize.Text(bytes)}, and host memory "
                    + (room > 0 ? $"has {ByteSize.Text(room)} for them" : "has no room for them beside what is read"));
            return fits;
        }
    }

    private static long BytesOf(BankResidency bank) => bank.Layout.Count
        * ((2 * TiledBuffer.Bytes(bank.Layout.Gate.N, bank.Layout.Gate.K)) + TiledBuffer.Bytes(bank.Layout.Down.N, bank.Layout.Down.K));
}
