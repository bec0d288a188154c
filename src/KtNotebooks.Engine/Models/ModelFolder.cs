using System.Reflection;

using KtNotebooks.Experts;
using KtNotebooks.Files;
using KtNotebooks.Formats;
using KtNotebooks.Interop;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Models;

/// <summary>Marks the class that builds models of one or more `model_type`s: a static `CausalLm Build(ConfigFile, IWeights, DType)`.</summary>
[AttributeUsage(AttributeTargets.Class)]
public sealed class ModelTypeAttribute(params string[] names) : Attribute
{
    public IReadOnlyList<string> Names { get; } = names;
}

/// <summary>A model on disk: config.json, safetensors, tokenizer.</summary>
public static class ModelFolder
{
    private const string LayerPrefix = "model.layers.";
    private static readonly Dictionary<string, MethodInfo> Builders = FindBuilders();

    public static IEnumerable<string> KnownTypes => Builders.Keys.Concat(TextPart.Types).Order(StringComparer.Ordinal);

    /// <summary>Loads a checkpoint for a folder's config.</summary>
    /// <param name="folder">The folder, or the name of a model in Hugging Face's or ModelScope's cache.</param>
    /// <param name="type">Type of weights and activations: F32 or BF16.</param>
    /// <exception cref="InvalidDataException">A missing or wrongly shaped tensor, named with what was expected and found.</exception>
    /// <param name="plan">Where weights live and in what form, for this type, see Plan; null: mapped from the files.</param>
    /// <param name="load">How weights come in where the plan does not say; null: mapped, experts as stored.</param>
    public static CausalLm Load(string folder, DType type = DType.BF16, ResidencyPlan? plan = null, LoadSettings? load = null)
    {
        if (plan is not null && plan.Type != type) throw new ArgumentException($"the plan is for {plan.Type}, the model is to be loaded in {type}");
        folder = HubCache.Resolve(folder);
        var config = ConfigOf(folder);
        load ??= new LoadSettings();
        LoadMeter? meter = null;
        HashSet<string> taken = [];
        using var checkpoint = new Checkpoint(folder)
        {
            FormatOf = path => plan?.Bank(path)?.Format ?? load.Experts,
            InMemory = path => load.InMemory || plan?.IsRead(path) == true,
            OnTaken = (name, bytes) =>
            {
                lock (taken) taken.Add(name);
                meter?.Taken(name, bytes);
            },
        };
        meter = new LoadMeter(folder, checkpoint.Bytes, plan, load.Report);
        if (plan?.Placement.Settings.GpuMemoryLimit is { } limit)
            foreach (var card in plan.Gpus) CudaDevice.Get(card.Gpu.Index).Pool.Limit = limit;
        CausalLm? model = null;
        try
        {
            model = Build(config, plan is null ? checkpoint : new PlacedWeights(checkpoint, plan), type);
            var names = checkpoint.Names.ToLookup(checkpoint.IsBeside);
            List<string> notes = [.. Beside(config, names[true]), .. LayersBeyond(model.Info.Layers, config, names[false]),
                .. Unused(model.Info.Layers, config, names[false], taken)];
            if (plan is not null)
            {
                notes.AddRange(plan.Notes);
                model.Executors = ExpertPlacer.Apply(model, plan, notes, meter.Brought);
            }
            model.Visits = StageVisits.Of(model.Stages);
            HostPages.Trim(); // what conversions on the way have freed
            model.Notes = notes;
            model.Files = [.. checkpoint.Files.Values];
            return model;
        }
        catch (InsufficientMemoryException full)
        {
            model?.Dispose();
            throw new InsufficientMemoryException($"{folder}: does not fit, after {meter.Last} had come in: {full.Message}; `kt plan` says what goes where",
                full);
        }
        catch
        {
            model?.Dispose();
            throw;
        }
    }

    /// <summary>The model of a config as shapes without memory: its modules, names and sizes, before a weight is there.</summary>
    public static CausalLm Shape(ConfigFile config, DType type = DType.BF16) => Build(config, new ShapeWeights(), type);

    /// <summary>
    /// Where the settings put the model of a folder; its weights need not be there. Where they are, the headers of its shards say the formats of its experts,
    /// else its config. Fails where the settings cannot be followed here.
    /// </summary>
    /// <param name="type">Of weights and activations.</param>
    /// <exception cref="NotSupportedException">A card or CPU variant that is asked for is not here; the line that asks is named.</exception>
    /// <param name="trains">The weights, by name, that are trained themselves, of a model of shapes; null: none.</param>
    public static ResidencyPlan Plan(string folder, PlacementSettings settings, DType type = DType.BF16, Func<CausalLm, Func<string, bool>>? trains = null)
    {
        folder = HubCache.Resolve(folder, whole: false);
        var config = ConfigOf(folder);
        using var shape = Shape(config, type);
        ModelPlacement.Resolve(shape, shape.Info.ModelType, settings).PrepareDevices();
        return Plan(shape, config, settings, StoredFormats(folder, config, shape), trains?.Invoke(shape));
    }

    /// <summary>The same of a model of shapes, for cards and CPUs that need not be here.</summary>
    /// <param name="stored">The format that the checkpoint has a bank in; see <see cref="ResidencyPlan.Resolve"/>.</param>
    /// <param name="trains">The weights, by name, that are trained themselves; null: none.</param>
    internal static ResidencyPlan Plan(CausalLm shape, ConfigFile config, PlacementSettings settings, Func<string, StorageFormat?>? stored = null,
        Func<string, bool>? trains = null) =>
        ResidencyPlan.Resolve(shape, shape.Type, ModelPlacement.Resolve(shape, shape.Info.ModelType, settings), stored ?? (_ => config.StoredFormat),
            new GpuMemory(settings.GpuMemoryLimit), trains);

    /// <summary>What the headers of a folder's shards say of a model's banks; its config where there are none.</summary>
    internal static Func<string, StorageFormat?> StoredFormats(string folder, ConfigFile config, CausalLm shape)
    {
        if (!Directory.Exists(folder) || !Directory.EnumerateFiles(folder, "*.safetensors").Any()) return _ => config.StoredFormat;
        try
        {
            using var checkpoint = new Checkpoint(folder);
            var banks = shape.All().OfType<ExpertBank>().ToDictionary(b => b.Path, b => checkpoint.StoredFormat(b.Names.Gate));
            return path => banks.GetValueOrDefault(path) ?? config.StoredFormat;
        }
        catch (FileNotFoundException) // a shard has not come yet: a plan needs none, and loading will name it
        {
            return _ => config.StoredFormat;
        }
    }

    /// <summary>The first tensor of a folder that its config wants otherwise, by the headers alone; null: none, or a shard has not come yet.</summary>
    internal static string? HeaderFault(string folder, ConfigFile config, DType type)
    {
        try
        {
            using var checkpoint = new Checkpoint(folder);
            var headers = new HeaderWeights(checkpoint);
            using var model = Build(config, headers, type);
            return headers.Fault;
        }
        catch (FileNotFoundException)
        {
            return null;
        }
    }

    private static ConfigFile ConfigOf(string folder)
    {
        if (FileKinds.Of(folder) is FileKind.File or FileKind.Other) RegularFile.RequireFolder(folder, "a model's folder with config.json");
        return new ConfigFile(Path.Combine(folder, "config.json"));
    }

    /// <summary>Builds a model of a config with weights from anywhere.</summary>
    public static CausalLm Build(ConfigFile config, IWeights weights, DType type)
    {
        ArgumentNullException.ThrowIfNull(config);
        if (!type.IsFloat()) throw new ArgumentException($"a model runs in F32 or BF16, not {type}");
        if (!Builders.TryGetValue(config.ModelType, out var build))
            throw new NotSupportedException($"{config.Path}: model_type '{config.ModelType}' is not known; known are {string.Join(", ", KnownTypes)}");
        var model = (CausalLm)build.Invoke(null, BindingFlags.DoNotWrapExceptions, null, [config, weights, type], null)!;
        model.TensorPrefix = config.TensorPrefix;
        return model;
    }

    /// <summary>What a model that sees has beside its text model.</summary>
    private static string[] Beside(ConfigFile config, IEnumerable<string> names) => !names.Any() ? []
        : [$"{config.Path}: {names.Count()} tensors beside the text model are not loaded ({string.Join(", ", names.Select(n => n.Split('.')[0]).Distinct())})"];

    /// <summary>
    /// Tensors of the model's own layers that its config has no use for: biases, shared experts that it does not count. Said, for the checkpoint may then be of
    /// another model.
    /// </summary>
    private static string[] Unused(int layers, ConfigFile config, IEnumerable<string> names, HashSet<string> taken)
    {
        var tied = config.Flag("tie_word_embeddings"); // some files hold a copy of the token table as the head
        List<string> unused = [.. names.Where(n => !taken.Contains(n) && LayerOf(n) < layers && !IsCarriedAlong(n) && !(tied && n == "lm_head.weight"))];
        return unused.Count == 0 ? []
            : [$"{config.Path}: {unused.Count} tensors of the checkpoint are not used by a model of this config; the first is '{unused[0]}'"];
    }

    /// <summary>Tables that old files store, and the shapes of packed matrices, which are read beside them.</summary>
    private static bool IsCarriedAlong(string name) => name.EndsWith("rotary_emb.inv_freq", StringComparison.Ordinal)
        || name.EndsWith("_shape", StringComparison.Ordinal);

    private static int LayerOf(string name) =>
        name.StartsWith(LayerPrefix, StringComparison.Ordinal) && int.TryParse(name[LayerPrefix.Length..].Split('.')[0], out var layer) ? layer : -1;

    /// <summary>DeepSeek-V3 ships its multi-token prediction layer after the last one (model.layers.61.*): said once, not loaded.</summary>
    private static string[] LayersBeyond(int layers, ConfigFile config, IEnumerable<string> names)
    {
        var beyond = names.Select(LayerOf).Where(layer => layer >= layers).ToList();
        if (beyond.Count == 0) return [];
        var why = config.Int("num_nextn_predict_layers", 0) > 0 ? "they predict further tokens (num_nextn_predict_layers) and are not part of this model"
            : $"num_hidden_layers is {layers}";
        var (first, last) = (beyond.Min(), beyond.Max());
        return [$"{config.Path}: {beyond.Count} tensors of {(first == last ? $"layer {first}" : $"layers {first} to {last}")} are not loaded: {why}"];
    }

    private static Dictionary<string, MethodInfo> FindBuilders()
    {
        var builders = new Dictionary<string, MethodInfo>();
        foreach (var type in typeof(ModelFolder).Assembly.GetTypes())
            foreach (var name in type.GetCustomAttribute<ModelTypeAttribute>()?.Names ?? [])
                builders.Add(name, type.GetMethod("Build", BindingFlags.Public | BindingFlags.Static)!);
        return builders;
    }
}
