
namespace KtNotebooks.Weights;

/// <summary>
/// What the checkpoints of a model call the matrices of a layer's routed experts. The model gives it to its bank; whoever needs a name asks here.
/// </summary>
/// <param name="Gate">[E, I, D].</param>
/// <param name="Up">[E, I, D].</param>
/// <param name="Down">[E, D, I].</param>
public sealed record ExpertNames(ExpertProjection Gate, ExpertProjection Up, ExpertProjection Down)
{
    /// <summary>In the order in which adapters list them.</summary>
    public IReadOnlyList<ExpertProjection> All => [Gate, Up, Down];

    /// <summary>Hugging Face's usual form, a tensor for every expert and projection: `path.7.up_proj.weight`.</summary>
    public static ExpertNames Each(string path) => new(new(path, "gate_proj"), new(path, "up_proj"), new(path, "down_proj"));
}

/// <summary>One projection of all experts of a layer.</summary>
/// <param name="Path">Of the bank: placement rules and formats are asked by it.</param>
/// <param name="Name">gate_proj, up_proj or down_proj.</param>
public sealed record ExpertProjection(string Path, string Name)
{
    /// <summary>An expert's linear layer as adapters name it, whatever the checkpoint's form.</summary>
    public string Module(int expert) => $"{Path}.{expert}.{Name}";

    /// <summary>Its weight: the checkpoint's tensor, unless that holds all experts.</summary>
    public string Weight(int expert) => Module(expert) + ".weight";
}
