using KtNotebooks.Ops;
using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>Consecutive experts of a bank that are on the card at the same time.</summary>
public readonly record struct ExpertGroup(int First, int Count);

/// <summary>
/// Where the matrices of a group lie, in the type that was asked for: gate, up [I, D], down [D, I] of its first expert, the next one a stride on.
/// </summary>
internal readonly record struct GroupMatrices(ExpertSide Gate, ExpertSide Up, ExpertSide Down);

/// <summary>
/// The experts of one bank as a card sees them: group by group, each opened before the work that reads it is queued and closed after. Whether they are
/// always there, are streamed or are dequantized on the way is the matter of the class behind it.
/// </summary>
public abstract class DeviceExperts
{
    /// <summary>In the order of the experts; forward walks them upwards, backward downwards.</summary>
    public abstract IReadOnlyList<ExpertGroup> Groups { get; }

    /// <summary>Bytes that opening a group takes: asked when a run is planned.</summary>
    internal virtual long OpenBytes(ExpertGroup group, DType type) => 0;

    /// <summary>The matrices of a group in F32 or BF16; work queued on the compute stream from now on may read them.</summary>
    internal abstract GroupMatrices Open(int group, DType type);

    /// <summary>All work that reads the group has been queued.</summary>
    internal abstract void Close(int group);
}
