using KtNotebooks.Formats;
using KtNotebooks.Tensors;

namespace KtNotebooks.Weights;

/// <summary>
/// Shapes without memory: a model built from these has all its modules, names and sizes, so that placement and memory are asked of the model's own code
/// before a weight is there. 671 billion parameters cost a few megabytes of objects.
/// </summary>
public sealed class ShapeWeights : IWeights
{
    public Tensor Take(string name, DType type, params ReadOnlySpan<long> shape) => Tensor.Empty(type, Device.Meta, shape);

    public Matrices TakeExperts(ExpertProjection names, DType type, int count, long n, long k) =>
        Matrices.Stack(Tensor.Empty(type, Device.Meta, count, n, k));
}
