using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>Experts of a GPU that nobody has loaded: their groups and what opening one takes, for ops that run over shapes.</summary>
internal sealed class PlannedExperts(BankLayout layout, IReadOnlyList<ExpertGroup> groups, Device card) : GpuExperts
{
    public override IReadOnlyList<ExpertGroup> Groups => groups;

    public override Device? Device => null;

    /// <summary>Low-bit matrices are dequantized when their group is opened, unless products read them as stored.</summary>
    internal override long OpenBytes(ExpertGroup group, DType type, long rows) =>
        layout.IsDirect(card, type, rows) ? 0 : group.Count * layout.DequantizedBytes(type);

    public override ExpertState NewState(ExpertCall call)
    {
        var state = StateOf(call);
        Tensor Rows(int width) => Tensor.Empty(call.X.Type, call.X.Device, call.Routes, width);
        if (call.IsRemembered)
            state.Keep(0, new GroupActivations(Rows(layout.Gate.N), Rows(layout.Up.N),
                call.Experts.Lora is { } lora ? Rows(DeviceExpertLora.Sizes(lora, call.X.Type).In) : null));
        return state;
    }

    internal override GroupMatrices Open(int group, DType type, long rows) => throw new InvalidOperationException("[Plan] planned experts have no weights");

    internal override void Close(int group)
    {
    }

    public override void Dispose()
    {
    }
}
