using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Files;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Placement;
using KtNotebooks.Training;
using KtNotebooks.Training.Objectives;

namespace KtNotebooks.Planning;

/// <summary>A group of like modules and where it goes.</summary>
/// <param name="Modules">Path, layers as ranges: `model.layers.3-60.mlp.experts`.</param>
/// <param name="Count">Layers in the group.</param>
/// <param name="Executor">Of routed experts; else empty.</param>
/// <param name="Bytes">Of the weights in that format.</param>
/// <param name="Because">The line or key that says so.</param>
public sealed record PlanRow(string Modules, int Count, long Parameters, string Compute, string Weights, string Format, string Executor, long Bytes,
    string Because);

/// <summary>Memory of one kind on one device.</summary>
public sealed record PlanItem(string Device, string What, long Bytes);

/// <summary>
/// Where everything of a run goes and how much memory it needs, said before a weight is loaded: config.json is enough. Weights, adapter, gradients and
/// optimizer state are exact; workspace and layer inputs are what the model's own code allocates when it runs over shapes, for the longest window that the
/// config allows. Totals are upper bounds: not all of it lives at the same moment.
/// </summary>
public sealed record MemoryPlan
{
    public const string Weights = "weights", Mapped = "mapped weights", Adapter = "adapter", Gradients = "gradients", Optimizer = "AdamW state",
        OnDisk = "weights on the disk", DiskRing = "disk ring", Inputs = "layer inputs", Workspace = "workspace", Ring = "streaming ring",
        AdapterOnDisk = "adapters on the disk", Visits = "matrices on their way", Driver = "driver", Activations = "kept activations";

    public required string Model { get; init; }

    public required string ModelType { get; init; }

    /// <summary>Of the model, without the adapter.</summary>
    public required long Parameters { get; init; }

    public required long Trainable { get; init; }

    /// <summary>Bytes of the checkpoint's weights as its config says that they are stored.</summary>
    public required long Stored { get; init; }

    /// <summary>Bytes of weights that are not in the folder yet: all of them, or none.</summary>
    public long ToFetch { get; init; }

    /// <summary>The model's own weights are trained.</summary>
    public bool TrainsWeights { get; init; }

    /// <summary>
    /// Bytes that a run writes: the adapter in F32, or the whole model, and a checkpoint with the same and AdamW's two moments.
    /// </summary>
    public long Written => Tokens == 0 ? 0 : TrainsWeights ? (2 * Stored) + (8 * Trainable) : 16 * Trainable;

    /// <summary>Tokens a step at most; 0: no training.</summary>
    public required int Tokens { get; init; }

    public required IReadOnlyList<PlanRow> Rows { get; init; }

    public required IReadOnlyList<PlanItem> Items { get; init; }

    public required IReadOnlyList<string> Notes { get; init; }

    /// <summary>What loading would refuse: a kernel that this processor does not have, a tensor that its config wants otherwise; null: nothing.</summary>
    public string? Missing { get; init; }

    /// <summary>Devices with memory in the plan, the CPU first.</summary>
    public IReadOnlyList<string> Devices => [.. Items.Select(i => i.Device).Distinct().Order(StringComparer.Ordinal)];

    /// <summary>Bytes of one kind on a device.</summary>
    public long Bytes(string device, string what) => Items.Where(i => i.Device == device && i.What == what).Sum(i => i.Bytes);

    /// <summary>Bytes on a device that cannot be dropped: all but mapped weights, and what stays on the disk.</summary>
    public long Total(string device) => Items.Where(i => i.Device == device && (IsHeld(i.What) || i.What == Driver)).Sum(i => i.Bytes);

    /// <summary>What the totals of its devices are sums of.</summary>
    public IReadOnlyList<string> Parts => [.. Items.Select(i => i.What).Where(what => IsHeld(what) || what == Driver).Distinct()];

    /// <summary>Whether an item is this program's own memory: no page of a mapped file, nothing on a disk, not the driver's.</summary>
    internal static bool IsHeld(string what) => what is not (Mapped or OnDisk or AdapterOnDisk or Driver);

    /// <summary>
    /// `kt plan`: a training config, a model folder, a config.json or the name of a known shape, then key=value. Without a key of training only the
    /// weights are counted.
    /// </summary>
    /// <exception cref="ArgumentException">A wrong key or value.</exception>
    public static MemoryPlan Open(params string[] arguments)
    {
        ArgumentNullException.ThrowIfNull(arguments);
        if (arguments.Length == 0) throw new ArgumentException("a plan wants a training config, a model folder, a config.json or a shape: "
            + string.Join(", ", ModelShapes.Known));
        var first = arguments[0];
        if (Directory.Exists(first) || HubCache.IsName(first) || first.EndsWith(".json", StringComparison.Ordinal) || ModelShapes.Known.Contains(first))
            arguments = ["model_name_or_path=" + first, .. arguments[1..]];
        else if (!first.Contains('=', StringComparison.Ordinal) && !File.Exists(first) && Path.GetExtension(first) is not (".yaml" or ".yml"))
            throw new ArgumentException($"'{first}' is no training config, model folder, config.json or known shape here, and nothing is "
                + $"downloaded.{Nearest.Hint(Path.GetFileName(Path.TrimEndingDirectorySeparator(first)), ModelShapes.Known)}");
        var c = Settings.Read(arguments);
        var named = c.Required("model_name_or_path");
        var path = ModelShapes.Known.Contains(named) && !Directory.Exists(named) ? named : Source(c, named);
        var config = ModelShapes.Known.Contains(path) && !Directory.Exists(path) ? ModelShapes.File(path)
            : new ConfigFile(File.Exists(path) ? path : Path.Combine(path, "config.json"));
        var settings = PlacementSettings.Read(c);
        var lora = FineTuneKeys.ReadLora(c);
        var type = FineTuneKeys.ReadType(c);
        var (sequence, chunk) = (c.Positive("cutoff_len"), c.Positive("chunk_size"));
        var tokens = c.MaybePositive("tokens_per_step") ?? (IsOfTraining(c) ? Window(c, sequence) : 0);
        using var model = ModelFolder.Shape(config, type);
        var parts = tokens > 0 ? TrainedParts.Read(c) : null;
        var trains = parts?.Of(model) ?? (tokens > 0 && lora.Additional is { } names ? WholeModules.WeightsOf(model, names).ToHashSet().Contains : null);
        var residency = ModelFolder.Plan(model, config, settings, ModelFolder.StoredFormats(path, config, model), trains);
        List<string> notes = [];
        var keys = TrainingMemoryKeys.Read(c);
        if (trains is not null && parts is null) notes.Add(WholeModules.Describe(model, trains));
        var memory = parts is not null ? TrainingMemory.Choose(model, keys, residency, notes)
            : TrainingMemory.Choose(model, lora, keys, residency, tokens, tokens > 0 ? notes : []);
        if (parts is not null) model.Unfreeze(trains);
        else if (tokens > 0) LoraAdapter.Attach(model, lora);
        var window = new Window(tokens, Math.Min(sequence, Math.Max(tokens, 1)), Math.Min(chunk, tokens));
        var isHere = Directory.Exists(path) && Directory.EnumerateFiles(path, "*.safetensors").Any();
        if (isHere && trains is not null) WeightAdaptation.RequirePlain(path, model, trains);
        var plan = new PlanBuilder(model, residency, config, window, memory, keys)
        {
            TrainsWeights = parts is not null,
        }.Build(path, notes);
        plan = plan with { ToFetch = isHere ? 0 : plan.Stored, Missing = plan.Missing ?? (isHere ? ModelFolder.HeaderFault(path, config, type) : null) };
        // A training file has many keys that no memory depends on. One that is refused or misspelt would make the plan one of another run.
        return plan with { Notes = [.. plan.Notes, .. c.Finish("kt plan")] };
    }

    /// <summary>Whether a config trains: it has an output_dir, or a key that means nothing but in training.</summary>
    private static bool IsOfTraining(Settings c)
    {
        string[] keys = ["output_dir", "lora_rank", "lora_target", "lora_experts", "use_dora", "additional_target", "stage", "per_device_train_batch_size",
            "gradient_accumulation_steps"];
        return keys.Any(c.Has) || (c.Has("finetuning_type") && c.Text("finetuning_type") != "lora"); // which stands in files for chat as well
    }

    private static string Source(Settings c, string named)
    {
        try
        {
            return SourceKeys.Model(c);
        }
        catch (FileNotFoundException missing) when (Nearest.Find(Path.GetFileName(named), ModelShapes.Known) is { } shape)
        {
            throw new FileNotFoundException($"{missing.Message}. A plan of its shape alone: `kt plan {shape}`");
        }
    }

    /// <summary>Tokens of the longest window that a training file allows.</summary>
    private static int Window(Settings c, int sequence)
    {
        var sequences = (Int128)c.Positive("per_device_train_batch_size") * c.Positive("gradient_accumulation_steps") * KnownObjectives.Read(c).Together;
        var tokens = sequences * sequence;
        return tokens <= int.MaxValue ? (int)tokens
            : throw c.Wrong("per_device_train_batch_size",
                $"smaller: with gradient_accumulation_steps and cutoff_len a step has {tokens:N0} tokens, at most {int.MaxValue:N0} can be planned");
    }
}

/// <summary>What a step works on.</summary>
/// <param name="Tokens">T; 0: no training.</param>
/// <param name="Sequence">Longest sequence.</param>
/// <param name="Chunk">Rows that a layer works on at a time.</param>
internal sealed record Window(int Tokens, int Sequence, int Chunk);
