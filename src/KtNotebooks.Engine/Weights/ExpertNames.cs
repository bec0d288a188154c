using KtNotebooks.Formats;

namespace KtNotebooks.Weights;

/// <summary>
/// What the checkpoints of a model call the matrices of a layer's routed experts. The model gives it to its bank; whoever needs a name asks here.
/// </summary>
/// <param name="Gate">[E, I, D].</param>
/// <param name="Up">[E, I, D].</param>
/// <param name="Down">[E, D, I].</param>
public sealed record ExpertNames(ExpertProjection Gate, ExpertProjection Up, ExpertProjection Down)
{
    /// <summary>Where there are biases: of gate and up [E, 2I], gate's in the even places.</summary>
    public string? GateUpBias { get; init; }

    /// <summary>Of down, [E, D].</summary>
    public string? DownBias { get; init; }

    /// <summary>In the order in which adapters list them.</summary>
    public IReadOnlyList<ExpertProjection> All => [Gate, Up, Down];

    /// <summary>Hugging Face's usual form, a tensor for every expert and projection: `path.7.up_proj.weight`.</summary>
    public static ExpertNames Each(string path) => new(new(path, "gate_proj"), new(path, "up_proj"), new(path, "down_proj"));

    /// <summary>gpt-oss's form: one tensor for gate and up of all experts, row by row in turn, and one for down, with biases.</summary>
    public static ExpertNames Interleaved(string path) => new(new(path, "gate_proj") { Stacked = new(path + ".gate_up_proj", 0, 2) },
        new(path, "up_proj") { Stacked = new(path + ".gate_up_proj", 1, 2) }, new(path, "down_proj") { Stacked = new(path + ".down_proj", 0, 1) })
    {
        GateUpBias = path + ".gate_up_proj_bias",
        DownBias = path + ".down_proj_bias",
    };
}

/// <summary>One projection of all experts of a layer.</summary>
/// <param name="Path">Of the bank: placement rules and formats are asked by it.</param>
/// <param name="Name">gate_proj, up_proj or down_proj.</param>
public sealed record ExpertProjection(string Path, string Name)
{
    /// <summary>The tensor that holds it for all experts, in checkpoints that have one; others may hold a tensor each all the same.</summary>
    public StackedTensor? Stacked { get; init; }

    /// <summary>
    /// Matrices that are used as they are stored can stay mapped: each lies in one piece. A stacked tensor has them transposed or row by row in turn, but for
    /// one projection alone in MXFP4.
    /// </summary>
    public bool CanStayMapped(StorageFormat stored) => Stacked is null || (Stacked.Every == 1 && stored == StorageFormat.Mxfp4);

    /// <summary>An expert's linear layer as adapters name it, whatever the checkpoint's form.</summary>
    public string Module(int expert) => $"{Path}.{expert}.{Name}";

    /// <summary>Its weight: the checkpoint's tensor, unless that holds all experts.</summary>
    public string Weight(int expert) => Module(expert) + ".weight";
}

/// <summary>A tensor of all experts. Row i of an expert's matrix is its row First + i · Every.</summary>
/// <param name="Name">In the checkpoint; in MXFP4 with what that format adds.</param>
public sealed record StackedTensor(string Name, int First, int Every);
