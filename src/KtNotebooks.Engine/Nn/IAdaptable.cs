using KtNotebooks.Tensors;

namespace KtNotebooks.Nn;

/// <summary>A module that low-rank pairs can be put beside; it says beside which matrices, and makes its own kind of adapter of them.</summary>
public interface IAdaptable
{
    string Path { get; }

    /// <summary>Routed experts, which get pairs only where that is asked for (`lora_experts`).</summary>
    bool IsExperts { get; }

    /// <summary>Where pairs that are attached from now on live.</summary>
    Device AdapterDevice { get; }

    IReadOnlyList<LoraTarget> Targets { get; }

    /// <summary>The pairs that train, or answer by default; owned by the module, which frees what it had before.</summary>
    LoraWeights? Adapter { get; set; }

    /// <summary>Frozen pairs by the name of their adapter, for passes that name one; owned by the module.</summary>
    Dictionary<string, LoraWeights> Named { get; }

    /// <summary>A place for one half, uninitialised: F32 on <see cref="AdapterDevice"/>.</summary>
    Tensor EmptyLora(params ReadOnlySpan<long> shape);

    /// <summary>
    /// What kernels read that give each row its own of these adapters, on the card of the module; null where it cannot take rows so. The caller's.
    /// </summary>
    internal AdapterTable? TableOf(IReadOnlyList<string> names);

    /// <summary>An adapter of a pair for each of <see cref="Targets"/>; takes them over.</summary>
    LoraWeights MakeAdapter(IReadOnlyList<(Tensor A, Tensor B)> pairs, float scale, float dropout);
}

/// <summary>A matrix that gets a pair, or as many of one shape, stacked.</summary>
/// <param name="Name">By which fresh values are drawn.</param>
/// <param name="PathOf">The module path of matrix e.</param>
/// <param name="Stacked">How many are stacked: E; null: one matrix, of two dimensions.</param>
/// <param name="Inputs">Columns.</param>
/// <param name="Outputs">Rows.</param>
public sealed record LoraTarget(string Name, Func<int, string> PathOf, int? Stacked, int Inputs, int Outputs)
{
    public int Count => Stacked ?? 1;

    /// <summary>The shape of all halves of so many rows and columns.</summary>
    internal long[] Shape(int rows, int columns) => Stacked is { } count ? [count, rows, columns] : [rows, columns];

    /// <summary>Matrix e of a stack of halves: a view that the caller disposes.</summary>
    internal Tensor Of(Tensor half, int e)
    {
        if (Stacked is null) return half.Alias();
        using var slice = half.Slice(e, 1);
        return slice.View(half.Dim(1), half.Dim(2));
    }
}

/// <summary>Low-rank pairs A, B of one module; scale = alpha / rank (or rslora's).</summary>
public abstract record LoraWeights(float Scale, float Dropout) : IDisposable
{
    /// <summary>In the order of <see cref="IAdaptable.Targets"/>.</summary>
    public abstract IReadOnlyList<(Tensor A, Tensor B)> Pairs { get; }

    public virtual void Dispose()
    {
        foreach (var (a, b) in Pairs)
        {
            a.Dispose();
            b.Dispose();
        }
        GC.SuppressFinalize(this);
    }
}
