using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>Consecutive experts of a bank that are on the card at the same time.</summary>
public readonly record struct ExpertGroup(int First, int Count);

/// <summary>Where the matrices of a group lie, in the type that was asked for: gate, up [I, D], down [D, I] of its first expert, the next one a stride on.</summary>
internal readonly record struct GroupMatrices(ExpertSide Gate, ExpertSide Up, ExpertSide Down);

/// <summary>
/// The experts of one bank as a card sees them: group by group, each opened before the work that reads it is queued and closed after. Whether they are always there, are streamed or are decoded on the way is
/// the matter of the class behind it.
/// </summary>
public abstract class DeviceExperts
{
    /// <summary>In the order of the experts; forward walks them upwards, backward downwards.</summary>
    public abstract IReadOnlyList<ExpertGroup> Groups { get; }

    /// <summary>The matrices of a group in F32 or BF16; work queued on the compute stream from now on may read them.</summary>
    internal abstract GroupMatrices Open(int group, DType type);

    /// <summary>All work that reads the group has been queued.</summary>
    internal abstract void Close(int group);
}

/// <summary>Experts in host memory that nobody streams: the whole bank is copied to the card for one call. Right everywhere and slow.</summary>
internal sealed class UploadedExperts(ExpertSet experts, Device device) : DeviceExperts
{
    private readonly List<Tensor> _here = [];

    public override IReadOnlyList<ExpertGroup> Groups { get; } = [new(0, experts.Count)];

    internal override GroupMatrices Open(int group, DType type) => new(Upload(experts.Gate, type), Upload(experts.Up, type), Upload(experts.Down, type));

    internal override void Close(int group)
    {
        foreach (var tensor in _here) tensor.Dispose();
        _here.Clear();
    }

    private ExpertSide Upload(Matrices matrices, DType type)
    {
        var all = Tensor.Empty(type, device, matrices.Count, matrices.N, matrices.K);
        _here.Add(all);
        for (var e = 0; e < matrices.Count; e++)
        {
            using var one = matrices[e];
            using var there = one.To(device);
            using var right = there.To(type);
            using var place = all.Slice(e, 1);
            Memory.Copy(right, place);
        }
        return new ExpertSide(all.Pointer, (long)matrices.N * matrices.K, matrices.K);
    }
}
