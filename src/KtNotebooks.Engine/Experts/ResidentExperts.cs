using KtNotebooks.Formats;
using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>
/// Experts that live on the card as stored. Many rows: BF16 is computed in place, all experts at once, low-bit formats are dequantized a group at a time.
/// Few: <see cref="FewRows"/>.
/// </summary>
internal sealed class ResidentExperts : GpuExperts
{
    private readonly BankLayout _layout;
    private readonly Device _card;
    private readonly Tensor _bytes;
    private readonly List<Tensor> _scratch = [];

    /// <summary>Copies the matrices of a set (which is left alone) to a card.</summary>
    /// <param name="type">Type of the rows that will come.</param>
    /// <param name="dequantizedBytes">Room for dequantized matrices.</param>
    public ResidentExperts(ExpertSet experts, Device card, DType type, long dequantizedBytes)
    {
        _layout = new BankLayout(experts);
        _card = card;
        _bytes = Tensor.Empty(DType.U8, card, _layout.Bytes);
        Groups = GroupsOf(_layout, type, dequantizedBytes);
        for (var e = 0; e < experts.Count; e++)
        {
            Put(experts.Gate, _layout.Gate, e);
            Put(experts.Up, _layout.Up, e);
            Put(experts.Down, _layout.Down, e);
        }
    }

    public override IReadOnlyList<ExpertGroup> Groups { get; }

    public override Device? Device => _card;

    public static IReadOnlyList<ExpertGroup> GroupsOf(BankLayout layout, DType type, long dequantizedBytes) =>
        layout.Gate.Format == StorageFormat.Of(type) ? [new ExpertGroup(0, layout.Count)]
            : layout.Groups(layout.ExpertBytes * Math.Max(1, dequantizedBytes / layout.DequantizedBytes(type)));

    public long Bytes => _layout.Bytes;

    public override void Dispose() => _bytes.Dispose();

    /// <summary>
    /// A few tokens, one at a time above all, go past the groups: the chosen experts are read where they lie. Some more meet plain matrices on tensor cores,
    /// sorted on the card.
    /// </summary>
    public override void Forward(ExpertCall call, ExpertState state, Tensor y)
    {
        if (Groups.Count == 1 && _layout.Gate.Format == StorageFormat.Of(call.X.Type) && GpuRows.StaysOnCard(call))
            new GpuRows(call, this, (GpuState)state).ForwardOnCard(y);
        else if (FewRows.Suits(call, _layout)) FewRows.Forward(call, _layout, _bytes.Pointer, (GpuState)state, y);
        else base.Forward(call, state, y);
    }

    internal override GroupMatrices Open(int group, DType type, long rows) =>
        _layout.Matrices(_bytes.Pointer + (nint)(Groups[group].First * _layout.ExpertBytes), Groups[group].Count, type, rows, _card, _scratch);

    internal override void Close(int group)
    {
        foreach (var tensor in _scratch) tensor.Dispose();
        _scratch.Clear();
    }

    private void Put(Matrices from, BankLayout.Piece piece, int e)
    {
        using var data = from.Data(e);
        using var place = _bytes.Reinterpret((e * _layout.ExpertBytes) + piece.Data, data.Type, data.Shape);
        Memory.Copy(data, place);
        if (from.Scales(e) is not { } scales) return;
        using (scales)
        using (var scalePlace = _bytes.Reinterpret((e * _layout.ExpertBytes) + piece.Scales, scales.Type, scales.Shape)) Memory.Copy(scales, scalePlace);
    }
}

/// <summary>Experts that nobody placed: the CPU computes rows in host memory; for rows on a GPU they are copied there for one call, right and slow.</summary>
internal sealed class UnplacedExperts : IExpertExecutor
{
    /// <summary>Dequantized matrices at a time.</summary>
    private const long DequantizedBytes = 256L << 20;

    private static readonly UnplacedExperts OnGpu = new();

    private UnplacedExperts()
    {
    }

    /// <summary>For rows on a device.</summary>
    public static IExpertExecutor On(Device rows) => rows.Kind == DeviceKind.Cuda ? OnGpu : CpuExperts.Instance;

    public long ScratchBytes(ExpertCall call, bool backward) => throw new NotSupportedException("[Plan] experts that nobody placed are not planned");

    public ExpertState NewState(ExpertCall call) => GpuExperts.StateOf(call);

    public void Forward(ExpertCall call, ExpertState state, Tensor y)
    {
        using var copy = Copy(call);
        copy.Forward(call, state, y);
    }

    public void Backward(ExpertCall call, ExpertState state, Tensor dy, ExpertGradients to)
    {
        using var copy = Copy(call);
        copy.Backward(call, state, dy, to);
    }

    public void Dispose()
    {
    }

    private static ResidentExperts Copy(ExpertCall call) => new(call.Experts, call.X.Device, call.X.Type, DequantizedBytes);
}
