using System.Globalization;

using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Formats;
using KtNotebooks.Interop.Cuda;

namespace KtNotebooks.Placement;

/// <summary>
/// The keys of a config that say where a model goes, of both KTransformers generations and our own: kt_optimize_rule, cpu_infer; kt_config; device,
/// experts, gpu_memory_limit. They become one <see cref="ModelPlacement"/>.
/// </summary>
public sealed record PlacementSettings
{
    private const string Block = "kt_config.";

    /// <summary>More cards than any one machine has.</summary>
    private const int MostGpus = 64;

    private static readonly Dictionary<string, StorageFormat?> Backends = new()
    {
        ["auto"] = null,
        ["BF16"] = StorageFormat.BF16,
        ["AMXBF16"] = StorageFormat.BF16,
        ["INT8"] = StorageFormat.Int8,
        ["AMXINT8"] = StorageFormat.Int8,
        ["FP8"] = StorageFormat.Fp8,
        ["AMXFP8"] = StorageFormat.Fp8,
        ["AMXINT4"] = StorageFormat.Int4,
        ["RAWINT4"] = StorageFormat.Int4,
    };

    /// <summary>kt_optimize_rule, or null.</summary>
    public PlacementRules? Rules { get; init; }

    /// <summary>device: auto, cpu (wins over every rule) or cuda:N (where rules say plain `cuda`, or nothing).</summary>
    public string Device { get; init; } = "auto";

    /// <summary>cards: the layers lie on the first so many cards in turn, where no rule names one; null: all on the device.</summary>
    public int? Gpus { get; init; }

    /// <summary>experts: who runs them, whatever the rules say; null: the rules decide.</summary>
    public ExecutorKind? Experts { get; init; }

    /// <summary>Format and home of experts by kt_config.</summary>
    public StorageFormat? ExpertFormat { get; init; }

    public WeightHome? ExpertHome { get; init; }

    /// <summary>expert_weights: where experts wait that a card computes as they come, whatever the rules say; null: the rules decide.</summary>
    public WeightHome? ExpertWeights { get; init; }

    /// <summary>dense_weights: host: the matrices of linear layers wait in pinned host memory; device: on their card; null: there where they fit.</summary>
    public WeightHome? DenseWeights { get; init; }

    /// <summary>gpu_memory_limit in bytes a card; null: what the card has.</summary>
    public long? GpuMemoryLimit { get; init; }

    /// <summary>cpu_infer or kt_num_threads; null: all.</summary>
    public int? Threads { get; init; }

    /// <summary>kt_backend ends in _SkipLoRA: routed experts get no adapter.</summary>
    public bool SkipExpertLora { get; init; }

    /// <summary>What was accepted without effect, for whoever starts a run.</summary>
    public IReadOnlyList<string> Notes { get; init; } = [];

    /// <summary>Where each key stands, for errors.</summary>
    internal string DeviceWhere { get; init; } = "device";

    internal string ExpertsWhere { get; init; } = "experts";

    internal string ExpertWeightsWhere { get; init; } = "expert_weights";

    internal string DenseWeightsWhere { get; init; } = "dense_weights";

    internal string GpusWhere { get; init; } = "cards";

    /// <summary>Reads all keys of both generations.</summary>
    /// <exception cref="ArgumentException">A value or an option that cannot be honoured; file and line are named.</exception>
    /// <exception cref="InvalidDataException">A wrong rules file.</exception>
    public static PlacementSettings Read(Settings c)
    {
        ArgumentNullException.ThrowIfNull(c);
        List<string> notes = [];
        SwitchOff(c);
        Agree(c);
        var generation = c.FlagOrNull("use_kt", null) != false && c.HasBlock(Block);
        var rules = c.FlagOrNull("use_kt", null) != false && c.Text("kt_optimize_rule") is { } file ? PlacementRules.Load(RulesFile(c, file, notes)) : null;
        if (rules is not null) notes.AddRange(rules.Notes);
        if (c.OneOf("mode") != "normal") throw c.Wrong("mode", "normal: long sequences need no mode here");
        var device = ReadDevice(c);
        var cards = ReadGpus(c, device, rules);
        var (format, skip) = Format(c);
        if (format is not null && rules is not null)
            throw new ArgumentException($"{c.Where("kt_optimize_rule")}: a rules file and a format in kt_config exclude each other: the rules say the format "
                + "(backend or format)");
        var lifecycle = c.OneOf(Block + "kt_weight_lifecycle");
        ExecutorKind? experts = c.Has("experts")
            ? Enum.Parse<ExecutorKind>(c.OneOf("experts", "auto", "auto", "cpu", "streamed", "resident", "split"), ignoreCase: true) : null;
        if (generation && experts is null && rules is null)
        {
            experts = ExecutorKind.Cpu;
            if (device != "cpu") notes.Add("kt_config: experts are computed by the CPU, as KTransformers does; `experts: auto` lets a card have them streamed");
        }
        return new PlacementSettings
        {
            Rules = rules,
            Device = device,
            Gpus = cards,
            Experts = experts,
            ExpertFormat = format,
            ExpertWeights = c.Has("expert_weights") ? Enum.Parse<WeightHome>(c.OneOf("expert_weights", "host", "host", "disk"), ignoreCase: true) : null,
            ExpertWeightsWhere = c.Has("expert_weights") ? c.Where("expert_weights") : "expert_weights",
            DenseWeights = c.OneOf("dense_weights") switch { "card" => WeightHome.Device, "host" => WeightHome.Host, _ => null },
            DenseWeightsWhere = c.Has("dense_weights") ? c.Where("dense_weights") : "dense_weights",
            ExpertHome = !generation || rules is not null ? null : lifecycle == "ephemeral" ? WeightHome.Mmap : WeightHome.Host,
            GpuMemoryLimit = Bytes(c, "gpu_memory_limit"),
            Threads = ReadThreads(c, notes),
            SkipExpertLora = skip,
            Notes = notes,
            DeviceWhere = c.Has("device") ? c.Where("device") : "device",
            ExpertsWhere = c.Has("experts") ? c.Where("experts") : "experts",
            GpusWhere = c.Has("cards") ? c.Where("cards") : "cards",
        };
    }

    /// <summary>`use_kt: false` leaves KTransformers' placement aside, as LLaMA-Factory does.</summary>
    private static void SwitchOff(Settings c)
    {
        if (c.FlagOrNull("use_kt", null) != false) return;
        c.Ignore("kt_optimize_rule", "use_kt is false");
        c.IgnoreBlock(Block, "use_kt is false");
    }

    /// <summary>
    /// The rules file that a config names: there, or under its name among those that the program brings, for configs of LLaMA-Factory's checkout name them
    /// by its folders.
    /// </summary>
    private static string RulesFile(Settings c, string file, List<string> notes)
    {
        if (File.Exists(file)) return file;
        var name = Path.GetFileName(file);
        if (ShippedRules.Find(name) is not { } shipped)
            throw new FileNotFoundException($"{c.Where("kt_optimize_rule")}: {file}: no such file, and none of the rules in rules/ is "
                + $"called '{name}'.{Nearest.Hint(name, ShippedRules.Names)}", file);
        notes.Add($"{c.Where("kt_optimize_rule")}: {file} is not there; {shipped} is used, the file of that name that comes with this program");
        return shipped;
    }

    private static string ReadDevice(Settings c)
    {
        var device = c.TextOrDefault("device");
        foreach (var key in (string[])["use_cpu", "no_cuda"])
        {
            if (!c.Flag(key)) continue;
            if (device is not ("auto" or "cpu")) throw new ArgumentException($"{c.Where(key)}: {key} and device: {device} exclude each other");
            device = "cpu";
        }
        try
        {
            if (device != "auto") Tensors.Device.Parse(device);
        }
        catch (ArgumentException)
        {
            throw c.Wrong("device", "auto, cpu or cuda:N");
        }
        return device;
    }

    /// <summary>
    /// Not more than there are processors: threads beyond them only wait for each other (LLaMA-Factory's examples say 32 and 96, whatever the machine).
    /// </summary>
    private static int? ReadThreads(Settings c, List<string> notes)
    {
        var key = c.Has("cpu_infer") ? "cpu_infer" : Block + "kt_num_threads";
        if (c.MaybePositive(key) is not { } wanted || c.FlagOrNull("use_kt", null) == false && key != "cpu_infer") return null;
        var most = Environment.ProcessorCount;
        if (wanted > most) notes.Add($"{c.Where(key)}: {key} is {wanted}, but this process may use {most} processors: {most} threads");
        return Math.Min(wanted, most);
    }

    /// <summary>
    /// A number, or all that the driver shows (CUDA_VISIBLE_DEVICES applies), so that one config does for a machine with one card and for one with four.
    /// </summary>
    private static int? ReadGpus(Settings c, string device, PlacementRules? rules)
    {
        if (c.Text("cards") is not { } word) return null;
        var cards = word == "all" ? Math.Max(1, CudaDevice.Count)
            : int.TryParse(word, NumberStyles.None, CultureInfo.InvariantCulture, out var n) && n is > 0 and <= MostGpus ? n
            : throw c.Wrong("cards", $"all or a number from 1 to {MostGpus}");
        if (device == "cpu") return null;
        if (device != "auto")
            throw new ArgumentException($"{c.Where("cards")}: cards and device: {device} exclude each other: with "
                + $"cards: {word} layers lie on the first cards in turn; write one of the two");
        if (rules is { NumbersGpus: true })
            throw new ArgumentException($"{c.Where("cards")}: cards and a rules file that numbers cards exclude each "
                + $"other: {rules.Path} says where layers go; write one of the two, or cuda without a number in the rules");
        return cards;
    }

    /// <summary>Options of kt_config that say again what another key says must say the same.</summary>
    private static void Agree(Settings c)
    {
        if (c.Has(Block + "enabled") && c.Has("use_kt") && c.Flag(Block + "enabled") != c.Flag("use_kt")) throw c.Wrong(Block + "enabled", "what use_kt says");
        if (c.OneOf(Block + "kt_train_mode") != "lora") throw c.Wrong(Block + "kt_train_mode", "lora: other modes are not supported by finetuning_type either");
        Agree(c, "kt_lora_rank", "lora_rank", () => c.Int("lora_rank"));
        Agree(c, "lora_rank", "lora_rank", () => c.Int("lora_rank"));
        Agree(c, "kt_lora_alpha", "lora_alpha", () => 2 * c.Number("lora_rank"));
        Agree(c, "kt_lora_dropout", "lora_dropout", () => c.Number("lora_dropout"));
    }

    /// <summary>Asks for the other key only where the option stands: a config without it must not have that key thereby known.</summary>
    private static void Agree(Settings c, string option, string key, Func<double> missing)
    {
        if (c.MaybeNumber(Block + option) is not { } value) return;
        var other = c.MaybeNumber(key) ?? missing();
        if (value != other) throw c.Wrong(Block + option, $"{key}'s {other.ToString(CultureInfo.InvariantCulture)}");
    }

    private static (StorageFormat? Format, bool SkipLora) Format(Settings c)
    {
        const string skip = "_SkipLoRA";
        var (backend, named) = (Block + "kt_backend", Block + "kt_expert_weight_format");
        var word = c.Text(backend, "auto");
        var skips = word.EndsWith(skip, StringComparison.Ordinal);
        if (skips) word = word[..^skip.Length];
        if (!Backends.TryGetValue(word, out var byBackend))
            throw new ArgumentException($"{c.Where(backend)}: unknown kt_backend '{word}'.{Nearest.Hint(word, Backends.Keys)}");
        StorageFormat? byName = c.Has(named) ? StorageFormat.Parse(c.OneOf(named, StorageFormat.BF16.Name, StorageFormat.BankNames)) : null;
        if (c.FlagOrNull("use_kt", null) == false) return (null, false);
        if (byBackend is { } a && byName is { } b && a != b) throw c.Wrong(named, $"{a.Name}, as kt_backend says");
        return (byBackend ?? byName, skips);
    }

    /// <summary>A number of bytes: `20GB`, `20 GiB`, `512MiB`; `0GB` where nothing is a sensible limit.</summary>
    public static long? Bytes(Settings c, string key, bool orNone = false)
    {
        if (c.Text(key) is not { } text) return null;
        foreach (var (unit, size) in (ReadOnlySpan<(string, double)>)[("GiB", 1L << 30), ("MiB", 1L << 20), ("GB", 1e9), ("MB", 1e6)])
            if (text.EndsWith(unit, StringComparison.OrdinalIgnoreCase)
                && double.TryParse(text[..^unit.Length].Trim(), NumberStyles.Float, CultureInfo.InvariantCulture, out var value)
                && (value > 0 || (orNone && value == 0))) return (long)(value * size);
        throw c.Wrong(key, orNone ? "a size such as 2GB or 2GiB, or 0GB" : "a size such as 20GB or 20GiB");
    }
}
