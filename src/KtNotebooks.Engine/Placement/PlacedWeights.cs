using KtNotebooks.Formats;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Placement;

/// <summary>
/// Puts the tensors of a checkpoint where they belong, on their way into the model: what is to live on a card is sent there. What is to live in host memory
/// the checkpoint reads there at once (<see cref="ResidencyPlan.IsRead"/>): a copy of mapped pages would count twice.
/// </summary>
public sealed class PlacedWeights(IWeights source, ResidencyPlan plan) : IWeights
{
    public Tensor Take(string name, DType type, params ReadOnlySpan<long> shape)
    {
        var tensor = source.Take(name, type, shape);
        if (plan.Visits(name))
            using (tensor) return VisitingBuffer.Of(tensor, plan.DeviceOf(name));
        if (plan.IsTiled(name)) return Matrices.One(tensor).Tile().Named(0);
        if (plan.SentTo(name) is not { } card) return tensor;
        using (tensor) return tensor.To(card);
    }

    public Matrices TakeExperts(ExpertProjection names, DType type, int count, long n, long k)
    {
        var matrices = source.TakeExperts(names, type, count, n, k);
        if (plan.Bank(names.Path) is { IsTrained: true } bank) return Stacked(matrices, bank);
        if (plan.IsTiled(names.Path)) return matrices.Tile();
        return plan.SentTo(names.Path) is not { } card ? matrices : matrices.Map(tensor =>
        {
            using (tensor) return tensor.To(card);
        });
    }

    /// <summary>Matrices that are trained: one tensor [E, N, K] in memory of ours, where they are computed, or pinned where a card brings them.</summary>
    private static Matrices Stacked(Matrices matrices, BankResidency bank)
    {
        long[] shape = [matrices.Count, matrices.N, matrices.K];
        var (card, bytes) = (bank.Place.Compute, (long)matrices.Count * matrices.N * matrices.K * matrices.Type.Size());
        if (bank.Place.Executor != ExecutorKind.Resident) HostMemory.Require(bytes);
        var all = bank.Place.Executor switch
        {
            ExecutorKind.Resident => Tensor.Empty(matrices.Type, card, shape),
            ExecutorKind.Streamed => new Tensor(PinnedBuffer.Allocate(card, bytes), 0, matrices.Type, shape),
            _ => Tensor.Empty(matrices.Type, shape),
        };
        for (var e = 0; e < matrices.Count; e++)
        {
            using var one = matrices.Data(e);
            using var place = all.Slice(e, 1);
            Memory.Copy(one, place);
        }
        matrices.DisposeEach();
        return Matrices.Stack(all);
    }
}
