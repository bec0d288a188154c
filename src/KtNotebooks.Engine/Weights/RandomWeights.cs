using KtNotebooks.Formats;
using KtNotebooks.Tensors;

namespace KtNotebooks.Weights;

/// <summary>
/// Fresh weights for training from scratch and for benchmarks of true shapes: matrices normal with the given deviation, vectors one (norms) or zero
/// (biases). Each tensor's
/// values depend on the seed and its name alone. Experts come stacked, the form that can be trained.
/// </summary>
public sealed class RandomWeights(ulong seed, float deviation = 0.02f) : IWeights
{
    public Tensor Take(string name, DType type, params ReadOnlySpan<long> shape)
    {
        var tensor = Tensor.Empty(type, shape);
        if (shape.Length == 1) tensor.Store(Enumerable.Repeat(name.EndsWith(".bias", StringComparison.Ordinal) ? 0f : 1f, (int)shape[0]).ToArray());
        else Fill(tensor, name);
        return tensor;
    }

    public Matrices TakeExperts(ExpertProjection names, DType type, int count, long n, long k)
    {
        var stacked = Tensor.Empty(type, count, n, k);
        for (var e = 0; e < count; e++)
        {
            using var one = stacked.Slice(e, 1);
            Fill(one, names.Weight(e));
        }
        return Matrices.Stack(stacked);
    }

    private void Fill(Tensor tensor, string name)
    {
        var random = new NormalRandom(seed, name);
        var row = new float[tensor.Width];
        for (long r = 0; r < tensor.Rows; r++)
        {
            random.Fill(row, deviation);
            FloatRows.Store(tensor, r, row);
        }
    }
}
