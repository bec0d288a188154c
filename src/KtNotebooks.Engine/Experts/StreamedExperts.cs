using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>Experts in pinned host memory that cross the bus, as stored, when their rows are computed; low-bit formats are dequantized on the card.</summary>
internal sealed class StreamedExperts(ExpertSlab slab, ExpertStream stream, Device card, long groupBytes) : DeviceExperts
{
    private readonly List<Tensor> _scratch = [];

    public override IReadOnlyList<ExpertGroup> Groups { get; } = slab.Layout.Groups(groupBytes);

    public ExpertStream Stream => stream;

    /// <summary>Of a split between the CPU and the card; null: the card computes everything.</summary>
    public ExpertCosts? Costs { get; set; }

    /// <summary>Where a group lies in host memory.</summary>
    public (nint Address, long Bytes) Source(int group) =>
        (slab.Address + (nint)(Groups[group].First * slab.Layout.ExpertBytes), Groups[group].Count * slab.Layout.ExpertBytes);

    internal override GroupMatrices Open(int group, DType type) =>
        slab.Layout.Matrices(stream.Open(new GroupVisit(this, group)), Groups[group].Count, type, card, _scratch);

    internal override void Close(int group)
    {
        foreach (var tensor in _scratch) tensor.Dispose();
        _scratch.Clear();
        stream.Close(new GroupVisit(this, group));
    }
}
