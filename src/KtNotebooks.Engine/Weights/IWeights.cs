using KtNotebooks.Formats;
using KtNotebooks.Tensors;

namespace KtNotebooks.Weights;

/// <summary>Where a model under construction takes its tensors from, by checkpoint name. The module that takes a tensor owns it.</summary>
public interface IWeights
{
    /// <summary>A tensor of this shape, converted to <paramref name="type"/> where it is stored otherwise.</summary>
    Tensor Take(string name, DType type, params ReadOnlySpan<long> shape);

    /// <summary>One projection of E experts, matrices [N, K].</summary>
    Matrices TakeExperts(ExpertProjection names, DType type, int count, long n, long k);
}
