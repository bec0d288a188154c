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
        if (plan.SentTo(name) is not { } card) return tensor;
        using (tensor) return tensor.To(card);
    }

    public Matrices TakeExperts(ExpertProjection names, DType type, int count, long n, long k)
    {
        var matrices = source.TakeExperts(names, type, count, n, k);
        if (plan.IsTiled(names.Path)) return matrices.Tile();
        return plan.SentTo(names.Path) is not { } card ? matrices : matrices.Map(tensor =>
        {
            using (tensor) return tensor.To(card);
        });
    }
}
