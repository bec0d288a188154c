using KtNotebooks.Tensors;

namespace KtNotebooks.Nn;

/// <summary>A tensor of a module under its checkpoint name.</summary>
public readonly record struct Parameter(string Name, Tensor Tensor)
{
    /// <summary>The rows and columns it stands for: the tensor's own, unless that holds packed codes, several values a byte.</summary>
    public IReadOnlyList<long> Shape { get => field ?? [.. Tensor.Shape]; init; }

    /// <summary>Values, however they are packed.</summary>
    public long Count => Shape.Aggregate(1L, (product, dim) => product * dim);
}

/// <summary>
/// A piece of a model. <see cref="Path"/> is its dotted name in the checkpoint, so loading, saving, adapters and placement rules all speak of it with the
/// same word. Owns its tensors.
/// </summary>
public abstract class Module(string path) : IDisposable
{
    public string Path { get; } = path;

    /// <summary>Direct parts, in forward order.</summary>
    public virtual IEnumerable<Module> Children => [];

    /// <summary>This module's own weights, without its children's and without adapters.</summary>
    public virtual IEnumerable<Parameter> Weights => [];

    /// <summary>This module's own tensors that training changes now: weights set to train, or its adapter.</summary>
    public virtual IEnumerable<Parameter> Trainable => Weights.Where(p => p.Tensor.RequiresGrad);

    /// <summary>Its own weights have gradients.</summary>
    public virtual bool CanLearn => true;

    /// <summary>Where this module computes: the device of its first weight.</summary>
    public virtual Device Device => All().SelectMany(m => m.Weights).First().Tensor.Device;

    /// <summary>This module and everything below it.</summary>
    public IEnumerable<Module> All() => Children.SelectMany(c => c.All()).Prepend(this);

    public void Dispose()
    {
        foreach (var child in Children) child.Dispose();
        DisposeOwn();
        GC.SuppressFinalize(this);
    }

    protected virtual void DisposeOwn()
    {
        foreach (var weight in Weights) weight.Tensor.Dispose();
    }
}
