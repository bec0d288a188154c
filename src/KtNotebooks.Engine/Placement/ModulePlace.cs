using KtNotebooks.Files;
using KtNotebooks.Formats;
using KtNotebooks.Tensors;

namespace KtNotebooks.Placement;

/// <summary>Where a module's weights live.</summary>
public enum WeightHome
{
    /// <summary>Mapped from the checkpoint's file; pages are read when touched and may be dropped again.</summary>
    Mmap,

    /// <summary>Copied into host memory of our own at load (pinned where a card streams from it).</summary>
    Host,

    /// <summary>On the card that computes.</summary>
    Device,

    /// <summary>In the checkpoint's shards, for every visit: routed experts that a card computes, of models that are larger than host memory.</summary>
    Disk,
}

/// <summary>Who runs the routed experts of a layer.</summary>
public enum ExecutorKind
{
    /// <summary>Chosen at run time from measured speeds, among those below that fit.</summary>
    Auto,

    /// <summary>The CPU; rows come from and go back to the card of the layer.</summary>
    Cpu,

    /// <summary>The card; weights live in host memory and cross the bus, the next bank while this one computes.</summary>
    Streamed,

    /// <summary>The card, where the weights live too.</summary>
    Resident,

    /// <summary>The CPU takes a share of the experts while the card streams the others.</summary>
    Split,
}

/// <summary>Where one module is put.</summary>
/// <param name="Compute">The device that its ops run on.</param>
/// <param name="Weights">Where its weights live.</param>
/// <param name="Format">How experts are stored; null: as the checkpoint has them, and all other weights in the model's own type.</param>
/// <param name="Executor">Of routed experts; null for all else.</param>
/// <param name="Kernel">CPU variant: auto, or a name that KT_CPU takes.</param>
/// <param name="Because">File and line, or the key, that says so: errors name it.</param>
public sealed record ModulePlace(Device Compute, WeightHome Weights, StorageFormat? Format = null, ExecutorKind? Executor = null,
    string Kernel = ModulePlace.AnyKernel, string Because = "default")
{
    /// <summary>Nothing says where the weights of a module of the CPU live: mapped, unless memory is ample for a form that is faster.</summary>
    public bool IsOpen { get; init; }

    /// <summary>The word that leaves the kernel open.</summary>
    public const string AnyKernel = "auto";

    /// <summary>The variant that quantizes rows where they meet INT8 weights.</summary>
    internal const string Int8Kernel = "amx_int8";
}

/// <summary>What kind of module a rule speaks of.</summary>
public enum ModuleClass
{
    Embedding,
    Linear,
    Router,
    Norm,
    Attention,
    Mlp,
    Moe,
    Experts,
    Layer,
    Model,

    /// <summary>Rotary angles: a module of its own in Python, a table without weights here. No module of ours matches it.</summary>
    Rotary,
}

/// <summary>What a rule says of the modules that it matches; null: it does not say.</summary>
internal sealed record Assignment(string? Compute = null, WeightHome? Weights = null, StorageFormat? Format = null, ExecutorKind? Executor = null,
    string Kernel = ModulePlace.AnyKernel, string? Output = null)
{
    /// <summary>The kind of module that a KTransformers class stands for; null: any.</summary>
    public ModuleClass? For { get; init; }
}

/// <summary>One entry of a rules file.</summary>
/// <param name="Where">File and line.</param>
/// <param name="Name">Searched in the dotted path; null: any.</param>
/// <param name="Class">Null: any.</param>
/// <param name="Recursive">False: the walk stops here, what lies below belongs to the matched module.</param>
internal sealed record PlacementRule(string Where, UserPattern? Name, ClassMatch? Class, bool Recursive, Assignment Assign)
{
    /// <summary>Of rotary angles, which are no module here: KTransformers' files have such rules, and nothing is left to do for them.</summary>
    public bool IsOfAngles => Class?.Kind == ModuleClass.Rotary || Assign.For == ModuleClass.Rotary;

    public bool Matches(string path, ModuleClass kind, string modelType) => (Name?.IsMatch(path) ?? true) && (Class?.Matches(kind, modelType) ?? true);
}

/// <summary>A class to match: a kind of module, of some model types alone where it is a model's own class.</summary>
internal sealed record ClassMatch(ModuleClass Kind, string[]? ModelTypes = null)
{
    /// <summary>Routers of these are a class of their own in Python; elsewhere a router is a plain torch.nn.Linear.</summary>
    private static readonly string[] OwnGate = ["deepseek_v2", "deepseek_v3", "glm4_moe", "gpt_oss", "kimi_k2"];

    public bool PythonLinear { get; init; }

    public bool Matches(ModuleClass kind, string modelType) => (kind == Kind || (PythonLinear && kind == ModuleClass.Router && !OwnGate.Contains(modelType)))
        && (ModelTypes is null || ModelTypes.Contains(modelType));
}
