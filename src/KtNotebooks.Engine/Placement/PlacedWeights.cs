using KtNotebooks.Formats;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Placement;

/// <summary>Puts the tensors of a checkpoint where they belong, on their way into the model: what is to live on a card is sent there. What is to live in
/// host memory the checkpoint reads there at once (<see cref="InMemory"/>): a copy of mapped pages would count twice.</summary>
public sealed class PlacedWeights(IWeights source, ModelPlacement placement) : IWeights
{
    /// <summary>Whether a tensor or the experts below a path are read into host memory when they are taken.</summary>
    public static bool InMemory(ModelPlacement placement, string path) => placement.Of(path) is { Weights: WeightHome.Host } place && !IsBroughtLater(place);

    public Tensor Take(string name, DType type, params ReadOnlySpan<long> shape)
    {
        var tensor = source.Take(name, type, shape);
        var place = placement.Of(name);
        if (place.Weights != WeightHome.Device) return tensor;
        using (tensor) return tensor.To(place.Compute);
    }

    public Matrices TakeExperts(ExpertProjection names, DType type, int count, long n, long k)
    {
        var matrices = source.TakeExperts(names, type, count, n, k);
        var place = placement.Of(names.Path);
        if (place.Weights != WeightHome.Device || IsBroughtLater(place)) return matrices;
        return matrices.Map(tensor =>
        {
            using (tensor) return tensor.To(place.Compute);
        });
    }

    /// <summary>Experts that a card computes are brought to it, or to pinned memory, from the mapped file when the model stands: see ExpertPlacer.</summary>
    public static bool IsBroughtLater(ModulePlace place) => place is { Compute.Kind: DeviceKind.Cuda, Executor: not (null or ExecutorKind.Cpu) };
}
