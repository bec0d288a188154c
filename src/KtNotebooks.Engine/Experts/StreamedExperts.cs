using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>Experts in pinned host memory that cross the bus, as stored, when their rows are computed; low-bit formats are dequantized on the card.</summary>
internal sealed class StreamedExperts(ExpertSlab slab, ExpertStream stream, Device card, long groupBytes) : GpuExperts
{
    private readonly List<Tensor> _scratch = [];

    public override IReadOnlyList<ExpertGroup> Groups { get; } = slab.Layout.Groups(groupBytes);

    public override Device? Device => card;

    public override ExpertStream Stream => stream;

    /// <summary>The experts in host memory.</summary>
    public ExpertSlab Slab => slab;

    public override IEnumerable<GroupVisit> Schedule(ExpertVisit visit) => Enumerable.Range(0, Groups.Count).Select(g => new GroupVisit(this, g));

    /// <summary>Where a group lies in host memory.</summary>
    public (nint Address, long Bytes) Source(int group) =>
        (slab.Address + (nint)(Groups[group].First * slab.Layout.ExpertBytes), Groups[group].Count * slab.Layout.ExpertBytes);

    internal override GroupMatrices Open(int group, DType type, long rows) =>
        slab.Layout.Matrices(stream.Open(new GroupVisit(this, group)), Groups[group].Count, type, rows, card, _scratch);

    internal override void Close(int group)
    {
        foreach (var tensor in _scratch) tensor.Dispose();
        _scratch.Clear();
        stream.Close(new GroupVisit(this, group));
    }

    public override void Dispose()
    {
        stream.Drain(); // copies may have run ahead
        slab.Dispose();
    }
}
