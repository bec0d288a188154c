using KtNotebooks.Formats;
using KtNotebooks.Tensors;

namespace KtNotebooks.Weights;

/// <summary>
/// Shapes without memory, like <see cref="ShapeWeights"/>, each looked up in the headers of a checkpoint: what loading would refuse after minutes is known in
/// a moment.
/// </summary>
/// <param name="checkpoint">Not owned; no byte of its weights is read.</param>
public sealed class HeaderWeights(Checkpoint checkpoint) : IWeights
{
    private readonly ShapeWeights _shapes = new();

    /// <summary>The first tensor that is missing or has another shape, in words; null: none.</summary>
    public string? Fault { get; private set; }

    public Tensor Take(string name, DType type, params ReadOnlySpan<long> shape)
    {
        Look(name, shape);
        return _shapes.Take(name, type, shape);
    }

    public Matrices TakeExperts(ExpertProjection names, DType type, int count, long n, long k)
    {
        // One tensor for all is looked at when it is read.
        if (checkpoint.StoredFormat(names) is null || checkpoint.HasMatrix(names.Weight(0)))
            for (var e = 0; e < count && Fault is null; e++) Look(names.Weight(e), [n, k]);
        return _shapes.TakeExperts(names, type, count, n, k);
    }

    private void Look(string name, ReadOnlySpan<long> shape)
    {
        if (Fault is not null) return;
        if (!checkpoint.HasMatrix(name))
        {
            Fault = $"{checkpoint.Folder}: tensor '{name}' is missing, which config.json wants";
            return;
        }
        var found = shape.Length == 2 && checkpoint.ShapeOf(name) is var (n, k) ? [n, k] : checkpoint.Entry(name).Shape;
        if (!shape.SequenceEqual(found))
            Fault = $"{checkpoint.Folder}: tensor '{name}' must be [{string.Join(", ", shape.ToArray())}] by config.json, but is [{string.Join(", ", found)}]";
    }
}
