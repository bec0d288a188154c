using KtNotebooks.Formats;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>
/// Experts whose own matrices are trained, stacked as <see cref="ExpertSet.Trained"/>, in the type of the rows. On the card (no stream) all are computed at
/// once where they lie, and so are their gradients; in pinned host memory they come group by group, and the card writes their gradients back there.
/// </summary>
internal sealed class TrainedExperts : GpuExperts, IGroupSource
{
    private readonly Matrices[] _matrices;
    private readonly Device _card;
    private readonly ExpertStream? _stream;

    /// <param name="experts">On the card, or in host memory that a stream reads.</param>
    /// <param name="card">Who computes.</param>
    /// <param name="stream">By which they come; null: they are there.</param>
    /// <param name="groupBytes">Of a slot of the stream.</param>
    public TrainedExperts(ExpertSet experts, Device card, ExpertStream? stream = null, long groupBytes = 0)
    {
        _matrices = [experts.Gate, experts.Up, experts.Down];
        (_card, _stream) = (card, stream);
        Groups = stream is null ? [new ExpertGroup(0, experts.Count)] : new BankLayout(experts).Groups(groupBytes);
    }

    public override IReadOnlyList<ExpertGroup> Groups { get; }

    public override Device? Device => _card;

    public override ExpertStream? Stream => _stream;

    public override IEnumerable<GroupVisit> Schedule(ExpertVisit visit) => _stream is null ? []
        : Enumerable.Range(0, Groups.Count).Select(g => new GroupVisit(this, g));

    /// <summary>Gate, up and down of the group's experts: three runs.</summary>
    public IEnumerable<(nint Address, long Bytes)> Pieces(int group) =>
        _matrices.Select(m => (m.Pointer(Groups[group].First), Groups[group].Count * MatrixBytes(m)));

    internal override GroupMatrices Open(int group, DType type, long rows)
    {
        var at = _stream?.Open(new GroupVisit(this, group));
        ExpertSide Side(Matrices m)
        {
            var here = at ?? m.Pointer(Groups[group].First);
            at += (nint)(Groups[group].Count * MatrixBytes(m)); // null stays null
            return new ExpertSide(here, (long)m.N * m.K, m.K);
        }
        return new GroupMatrices(Side(_matrices[0]), Side(_matrices[1]), Side(_matrices[2]));
    }

    internal override void Close(int group) => _stream?.Close(new GroupVisit(this, group));

    public override void Dispose() => _stream?.Drain(); // copies may have run ahead

    private static long MatrixBytes(Matrices m) => (long)m.N * m.K * m.Type.Size();
}
