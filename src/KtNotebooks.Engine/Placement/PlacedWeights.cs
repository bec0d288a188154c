using KtNotebooks.Ops;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Placement;

/// <summary>Puts the tensors of a checkpoint where they belong, on their way into the model: what is to live in host memory is copied off the mapped file here, what is to live on a card is sent there.</summary>
public sealed class PlacedWeights(IWeights source, ModelPlacement placement) : IWeights
{
    public Tensor Take(string name, DType type, params ReadOnlySpan<long> shape)
    {
        var tensor = source.Take(name, type, shape);
        var place = placement.Of(name);
        if (place.Weights == WeightHome.Mmap) return tensor;
        using (tensor) return place.Weights == WeightHome.Host ? tensor.Clone() : tensor.To(place.Compute);
    }

    public Matrices TakeExperts(string path, string suffix, DType type, int count, long n, long k)
    {
        // What a card computes is brought to it, or to pinned memory, from the mapped file when the model stands: see ExpertPlacer.
        if (placement.Of(path) is { Compute.Kind: DeviceKind.Cuda, Executor: not ExecutorKind.Cpu }) return source.TakeExperts(path, suffix, type, count, n, k);
        var each = new Tensor[count];
        for (var e = 0; e < count; e++) each[e] = Take($"{path}.{e}.{suffix}", type, n, k);
        return Matrices.Each(each);
    }
}
