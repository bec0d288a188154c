using System.Globalization;

using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Ops;

namespace KtNotebooks.Placement;

/// <summary>
/// The keys of a config that say where a model goes, of both KTransformers generations and our own: kt_optimize_rule, cpu_infer; kt_config; device, experts, gpu_memory_limit. They become one
/// <see cref="ModelPlacement"/>.
/// </summary>
public sealed record PlacementSettings
{
    private const string Block = "kt_config.";

    private static readonly Dictionary<string, MatrixFormat?> Backends = new()
    {
        ["auto"] = null,
        ["BF16"] = MatrixFormat.BF16,
        ["AMXBF16"] = MatrixFormat.BF16,
        ["INT8"] = MatrixFormat.Int8,
        ["AMXINT8"] = MatrixFormat.Int8,
        ["FP8"] = MatrixFormat.Fp8,
        ["AMXFP8"] = MatrixFormat.Fp8,
        ["AMXINT4"] = MatrixFormat.Int4,
        ["RAWINT4"] = MatrixFormat.Int4,
    };

    /// <summary>kt_optimize_rule, or null.</summary>
    public PlacementRules? Rules { get; init; }

    /// <summary>device: auto, cpu (wins over every rule) or cuda:N (where rules say plain `cuda`, or nothing).</summary>
    public string Device { get; init; } = "auto";

    /// <summary>cards: the layers lie on the first so many cards in turn, where no rule names one; null: all on the device.</summary>
    public int? Cards { get; init; }

    /// <summary>experts: who runs them, whatever the rules say; null: the rules decide.</summary>
    public ExecutorKind? Experts { get; init; }

    /// <summary>Format and home of experts by kt_config.</summary>
    public MatrixFormat? ExpertFormat { get; init; }

    public WeightHome? ExpertHome { get; init; }

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

    internal string CardsWhere { get; init; } = "cards";

    /// <summary>Reads all keys of both generations.</summary>
    /// <exception cref="ArgumentException">A value or an option that cannot be honoured; file and line are named.</exception>
    /// <exception cref="InvalidDataException">A wrong rules file.</exception>
    public static PlacementSettings Read(Settings c)
    {
        ArgumentNullException.ThrowIfNull(c);
        List<string> notes = [];
        var generation = ReadOptions(c, notes);
        var rules = c.Text("kt_optimize_rule") is { } file ? PlacementRules.Load(file) : null;
        if (rules is not null) notes.AddRange(rules.Notes);
        foreach (var key in c.WithoutEffect("kt_mode", "kt_use_cuda_graph", "kt_force_think", "kt_maxlen")) notes.Add($"{c.Where(key)}: {key} has no effect here");
        if (c.OneOf("mode", "normal", "normal", "long_context") != "normal") throw c.Wrong("mode", "normal: long sequences need no mode here");
        var device = c.Text("device", "auto");
        try
        {
            if (device != "auto") Tensors.Device.Parse(device);
        }
        catch (ArgumentException)
        {
            throw c.Wrong("device", "auto, cpu or cuda:N");
        }
        var cards = ReadCards(c, device, rules);
        var (format, skip) = Format(c);
        if (format is not null && rules is not null) throw new ArgumentException($"{c.Where("kt_optimize_rule")}: a rules file and a format in kt_config exclude each other: the rules say the format (backend or format)");
        var lifecycle = c.OneOf(Block + "kt_weight_lifecycle", "persistent", "persistent", "ephemeral");
        var threads = Positive(c, "cpu_infer") ?? Positive(c, Block + "kt_num_threads");
        ExecutorKind? experts = c.Has("experts") ? Enum.Parse<ExecutorKind>(c.OneOf("experts", "auto", "auto", "cpu", "streamed", "resident", "split"), ignoreCase: true) : null;
        if (generation && experts is null && rules is null)
        {
            experts = ExecutorKind.Cpu;
            if (device != "cpu") notes.Add("kt_config: experts are computed by the CPU, as KTransformers does; `experts: auto` lets a card have them streamed");
        }
        return new PlacementSettings
        {
            Rules = rules,
            Device = device,
            Cards = cards,
            Experts = experts,
            ExpertFormat = format,
            ExpertHome = !generation || rules is not null ? null : lifecycle == "ephemeral" ? WeightHome.Mmap : WeightHome.Host,
            GpuMemoryLimit = Bytes(c, "gpu_memory_limit"),
            Threads = threads,
            SkipExpertLora = skip,
            Notes = notes,
            DeviceWhere = c.Has("device") ? c.Where("device") : "device",
            ExpertsWhere = c.Has("experts") ? c.Where("experts") : "experts",
            CardsWhere = c.Has("cards") ? c.Where("cards") : "cards",
        };
    }

    /// <summary>A number, or all that the driver shows (CUDA_VISIBLE_DEVICES applies), so that one config does for a machine with one card and for one with four.</summary>
    private static int? ReadCards(Settings c, string device, PlacementRules? rules)
    {
        if (c.Text("cards") is not { } word) return null;
        var cards = word == "all" ? Math.Max(1, CudaDevice.Count) : int.TryParse(word, NumberStyles.None, CultureInfo.InvariantCulture, out var n) && n > 0 ? n : throw c.Wrong("cards", "all or a positive number");
        if (device == "cpu") return null;
        if (device != "auto") throw new ArgumentException($"{c.Where("cards")}: cards and device: {device} exclude each other: with cards: {word} layers lie on the first cards in turn; write one of the two");
        if (rules is { NumbersCards: true }) throw new ArgumentException($"{c.Where("cards")}: cards and a rules file that numbers cards exclude each other: {rules.Path} says where layers go; write one of the two, or cuda without a number in the rules");
        return cards;
    }

    /// <summary>Every option of <see cref="KtOption.All"/>: refused, noted, or checked against the keys that it must agree with. True when any stands in kt_config.</summary>
    private static bool ReadOptions(Settings c, List<string> notes)
    {
        var any = false;
        foreach (var option in KtOption.All)
        {
            foreach (var key in KtOption.TopLevel.Contains(option.Name) ? [Block + option.Name, option.Name] : (string[])[Block + option.Name])
            {
                if (!c.Has(key)) continue;
                any |= key.StartsWith(Block, StringComparison.Ordinal);
                if (option.Effect == KtEffect.Refused && !KtOption.AsksForNothing(c.Text(key)!)) throw new ArgumentException($"{c.Where(key)}: '{key}' is not for this engine: {option.Says}");
                if (option.Effect == KtEffect.WithoutEffect) notes.Add($"{c.Where(key)}: {key} has no effect here: {option.Says}");
            }
        }
        if (c.Flag(Block + "enabled", true) != c.Flag("use_kt", c.Flag(Block + "enabled", true))) throw c.Wrong(Block + "enabled", "what use_kt says");
        if (c.OneOf(Block + "kt_train_mode", "lora", "lora", "full", "hybrid") != "lora") throw c.Wrong(Block + "kt_train_mode", "lora: other modes are not supported by finetuning_type either");
        Agree(c, "kt_lora_rank", "lora_rank", () => 8);
        Agree(c, "lora_rank", "lora_rank", () => 8);
        Agree(c, "kt_lora_alpha", "lora_alpha", () => 2 * c.Number("lora_rank", 8));
        Agree(c, "kt_lora_dropout", "lora_dropout", () => 0);
        return any;
    }

    /// <summary>Asks for the other key only where the option stands: a config without it must not have that key thereby known.</summary>
    private static void Agree(Settings c, string option, string key, Func<double> missing)
    {
        if (c.Number(Block + option) is not { } value) return;
        var other = c.Number(key) ?? missing();
        if (value != other) throw c.Wrong(Block + option, $"{key}'s {other.ToString(CultureInfo.InvariantCulture)}");
    }

    private static (MatrixFormat? Format, bool SkipLora) Format(Settings c)
    {
        const string skip = "_SkipLoRA";
        var (backend, named) = (Block + "kt_backend", Block + "kt_expert_weight_format");
        var word = c.Text(backend, "auto");
        var skips = word.EndsWith(skip, StringComparison.Ordinal);
        if (skips) word = word[..^skip.Length];
        if (!Backends.TryGetValue(word, out var byBackend)) throw new ArgumentException($"{c.Where(backend)}: unknown kt_backend '{word}'.{Nearest.Hint(word, Backends.Keys)}");
        MatrixFormat? byName = c.Has(named) ? MatrixFormats.Parse(c.OneOf(named, "bf16", "bf16", "int8", "fp8", "int4")) : null;
        if (byBackend is { } a && byName is { } b && a != b) throw c.Wrong(named, $"{a.Name()}, as kt_backend says");
        return (byBackend ?? byName, skips);
    }

    private static int? Positive(Settings c, string key) => c.Int(key) is not { } value ? null : value > 0 ? value : throw c.Wrong(key, "positive");

    /// <summary>A number of bytes: `20GB`, `20 GiB`, `512MiB`; `0GB` where nothing is a sensible limit.</summary>
    public static long? Bytes(Settings c, string key, bool orNone = false)
    {
        if (c.Text(key) is not { } text) return null;
        foreach (var (unit, size) in (ReadOnlySpan<(string, double)>)[("GiB", 1L << 30), ("MiB", 1L << 20), ("GB", 1e9), ("MB", 1e6)])
            if (text.EndsWith(unit, StringComparison.OrdinalIgnoreCase) && double.TryParse(text[..^unit.Length].Trim(), NumberStyles.Float, CultureInfo.InvariantCulture, out var value) && (value > 0 || (orNone && value == 0))) return (long)(value * size);
        throw c.Wrong(key, orNone ? "a size such as 2GB or 2GiB, or 0GB" : "a size such as 20GB or 20GiB");
    }
}
