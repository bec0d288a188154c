using KtNotebooks.Ops;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Placement;

/// <summary>Puts the tensors of a checkpoint where the rules say, on their way into the model: a tensor that is to live in host memory is copied off the mapped file here.</summary>
public sealed class PlacedWeights(IWeights source, PlacementRules rules) : IWeights
{
    public Tensor Take(string name, DType type, params ReadOnlySpan<long> shape)
    {
        var tensor = source.Take(name, type, shape);
        if (rules.Of(name).Weights != WeightHome.Host) return tensor;
        using (tensor) return tensor.Clone();
    }

    public Matrices TakeExperts(string path, string suffix, DType type, int count, long n, long k)
    {
        var matrices = source.TakeExperts(path, suffix, type, count, n, k);
        if (matrices.Stacked is not null) return matrices;
        var index = 0; // data of every expert, then its scales
        return matrices.Map(tensor =>
        {
            if (rules.Of($"{path}.{index++ % count}.{suffix}").Weights != WeightHome.Host) return tensor;
            using (tensor) return tensor.Clone();
        });
    }
}
