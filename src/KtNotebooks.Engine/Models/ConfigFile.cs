using System.Globalization;
using System.Text.Json;

using KtNotebooks.Files;
using KtNotebooks.Formats;
using KtNotebooks.Interop;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Models;

/// <summary>
/// config.json of a model folder, read field by field: a missing or wrong field is named with its file. Both rotary spellings are read: `rope_theta` +
/// `rope_scaling`, and the newer `rope_parameters`. Of a model that also sees, the fields are those of its text model.
/// </summary>
public sealed class ConfigFile
{
    private readonly JsonElement _root; // of a model that also sees, its text model's
    private readonly JsonElement _whole;

    /// <exception cref="FileNotFoundException">It is not there.</exception>
    /// <exception cref="InvalidDataException">Not a JSON object; file and line are named.</exception>
    public ConfigFile(string path)
    {
        Path = path;
        if (FileKinds.Of(path) == FileKind.None && new FileInfo(path).LinkTarget is null)
        {
            var folder = System.IO.Path.GetDirectoryName(System.IO.Path.GetFullPath(path)) ?? path;
            if (File.Exists(System.IO.Path.Combine(folder, "adapter_config.json")))
                throw new FileNotFoundException($"{path}: no such file; the folder holds an adapter: its base is wanted here (adapter_config.json names it), "
                    + "and the folder as adapter_name_or_path");
            throw HubCache.NoModel(path);
        }
        _whole = JsonSource.Read(path, "a model's config.json");
        _root = TextPart.Of(_whole, path);
    }

    private ConfigFile(string path, JsonElement whole) => (Path, _whole, _root) = (path, whole, TextPart.Of(whole, path));

    public string Path { get; }

    /// <summary>A config from its text; the name stands in errors where a path would.</summary>
    public static ConfigFile FromJson(string name, string json)
    {
        var root = JsonSource.Parse(System.Text.Encoding.UTF8.GetBytes(json), name);
        return root.ValueKind == JsonValueKind.Object ? new ConfigFile(name, root) : throw new InvalidDataException($"{name}: must be a JSON object");
    }

    /// <summary>Type of what the checkpoint does not quantise: torch_dtype, in newer files dtype.</summary>
    public DType StoredType => Text("torch_dtype", Text("dtype", "bfloat16")) == "float32" ? DType.F32 : DType.BF16;

    /// <summary>How the checkpoint stores its experts by quantization_config; null: not quantised.</summary>
    public StorageFormat? StoredFormat => Quantization.Of(_whole, Path);

    /// <summary>What the tensors of the model begin with beside their usual names.</summary>
    public string TensorPrefix => TextPart.PrefixOf(_whole);

    public string ModelType => Text("model_type");

    /// <summary>A whole number within its <see cref="ConfigLimits"/>.</summary>
    public int Int(string key)
    {
        var number = Require(key);
        if (number.ValueKind != JsonValueKind.Number || number.GetRawText().AsSpan().IndexOfAny(".eE") >= 0) throw Wrong(key, "a whole number");
        var (least, most) = ConfigLimits.Whole.GetValueOrDefault(key, (int.MinValue, int.MaxValue));
        return number.TryGetInt32(out var value) && value >= least && value <= most ? value
            : throw Wrong(key, string.Create(CultureInfo.InvariantCulture, $"{least:N0} to {most:N0}"));
    }

    public int Int(string key, int missing) => Find(_root, key) is null ? missing : Int(key);

    /// <summary>Null when absent or null.</summary>
    public int? MaybeInt(string key) => Find(_root, key) is null ? null : Int(key);

    /// <summary>A number within its <see cref="ConfigLimits"/>.</summary>
    public double Number(string key) => AsNumber(Require(key), key);

    public double Number(string key, double missing) => Find(_root, key) is null ? missing : Number(key);

    public bool Flag(string key, bool missing = false) => Find(_root, key) switch
    {
        null => missing,
        { ValueKind: JsonValueKind.True } => true,
        { ValueKind: JsonValueKind.False } => false,
        _ => throw Wrong(key, "true or false"),
    };

    public string Text(string key) => Require(key) is { ValueKind: JsonValueKind.String } value ? value.GetString()! : throw Wrong(key, "a text");

    public string Text(string key, string missing) => Find(_root, key) is null ? missing : Text(key);

    /// <summary>Fails when all layers together have more experts than any model has.</summary>
    public int CheckExperts(int experts, int layers) => (long)experts * layers <= ConfigLimits.Experts
        ? experts : throw new InvalidDataException(string.Create(CultureInfo.InvariantCulture,
            $"{Path}: {layers} layers ('num_hidden_layers') of {experts} experts make {(long)experts * layers:N0}, more than {ConfigLimits.Experts:N0}"));

    /// <summary>A list of whole numbers; empty when absent or null.</summary>
    public IReadOnlyList<int> Ints(string key) => Find(_root, key) switch
    {
        null => [],
        { ValueKind: JsonValueKind.Array } list when list.EnumerateArray()
            .All(v => v.ValueKind == JsonValueKind.Number && v.TryGetInt32(out _)) => [.. list.EnumerateArray().Select(v => v.GetInt32())],
        _ => throw Wrong(key, "a list of whole numbers"),
    };

    /// <summary>A list of texts; empty when absent or null.</summary>
    public IReadOnlyList<string> Texts(string key) => Find(_root, key) switch
    {
        null => [],
        { ValueKind: JsonValueKind.Array } list when list.EnumerateArray().All(v => v.ValueKind == JsonValueKind.String) =>
            [.. list.EnumerateArray().Select(v => v.GetString()!)],
        _ => throw Wrong(key, "a list of texts"),
    };

    /// <summary>A router that can choose, or the field that keeps it from choosing.</summary>
    public RouterSettings CheckRouter(RouterSettings router, int experts)
    {
        if (router.TopK < 1 || router.TopK > experts) throw Wrong("num_experts_per_tok", $"1 to {experts}, the number of routed experts");
        var size = router.Groups < 1 || experts % router.Groups != 0 ? throw Wrong("n_group", $"a divisor of {experts}, the number of routed experts")
            : experts / router.Groups;
        var least = (router.TopK + size - 1) / size;
        if (router.KeptGroups < least || router.KeptGroups > router.Groups)
            throw Wrong("topk_group", $"{least} to {router.Groups}: {router.TopK} experts a token of groups of {size}");
        if (router is { Scoring: RouterScoring.Sigmoid, Groups: > 1 } && size < 2)
            throw Wrong("n_group", "smaller: groups are scored by their two best experts");
        return router;
    }

    /// <summary>Head sizes of grouped-query attention for rows of this width.</summary>
    public GqaShape GqaHeads(int width)
    {
        var heads = Int("num_attention_heads");
        var shape = new GqaShape(heads, MaybeInt("num_key_value_heads") ?? heads, MaybeInt("head_dim") ?? (width / heads));
        if (heads % shape.Hk != 0) throw Wrong("num_key_value_heads", $"a divisor of num_attention_heads, {heads}");
        return shape.Head >= 2 && shape.Head % 2 == 0 ? shape : throw Wrong("head_dim", "even and positive");
    }

    /// <summary>The share of a head that turns, from either spelling.</summary>
    public double PartialRotary(double missing) => Find(_root, "rope_parameters") is { ValueKind: JsonValueKind.Object } rope
        && Find(rope, "partial_rotary_factor") is { } inside ? AsNumber(inside, "partial_rotary_factor") : Number("partial_rotary_factor", missing);

    /// <summary>Fails when a feature that is not implemented is on.</summary>
    public void Refuse(string key, bool on, string why)
    {
        if (on) throw new NotSupportedException($"{Path}: '{key}' is {Shown(key)}: {why}");
    }

    /// <summary>theta and YaRN settings from either spelling.</summary>
    public (double Theta, YarnSettings? Yarn) Rotary()
    {
        var name = Find(_root, "rope_parameters") is null ? "rope_scaling" : "rope_parameters";
        var rope = Find(_root, name);
        if (rope is { ValueKind: not JsonValueKind.Object }) throw Wrong(name, "a block of settings");
        var theta = rope is { } r && Find(r, "rope_theta") is { } inside ? AsNumber(inside, "rope_theta") : Number("rope_theta", 10000);
        var kind = rope is { } block ? (Find(block, "rope_type") ?? Find(block, "type"))?.ToString() ?? "default" : "default";
        if (kind == "default") return (theta, null);
        if (kind != "yarn") throw new NotSupportedException($"{Path}: rotary scaling '{kind}' is not supported; known are default and yarn");
        double Of(string key, double? missing) => Find(rope!.Value, key) is { } v ? AsNumber(v, key)
            : missing ?? throw new InvalidDataException($"{Path}: the yarn block has no '{key}'");
        var original = Of("original_max_position_embeddings", null);
        return (theta, new YarnSettings(Of("factor", null), (int)original, Of("beta_fast", 32), Of("beta_slow", 1), Of("mscale", 1), Of("mscale_all_dim", 0),
            Find(rope!.Value, "attention_factor") is null ? null : Of("attention_factor", null),
            Find(rope.Value, "truncate") is not { ValueKind: JsonValueKind.False }));
    }

    /// <summary>An error about a field, with the file, what was wanted and what stands there.</summary>
    public InvalidDataException Wrong(string key, string wanted) => new($"{Path}: '{key}' must be {wanted}, but is {Shown(key)}");

    private static JsonElement? Find(JsonElement element, string key) => element.TryGetProperty(key, out var value) && value.ValueKind != JsonValueKind.Null
        ? value : null;

    private JsonElement Require(string key) => Find(_root, key) ?? throw new InvalidDataException($"{Path}: '{key}' is missing");

    /// <summary>What stands there, cut where it is long.</summary>
    private string Shown(string key) => Find(_root, key)?.ToString() is { } text ? text.Length <= 60 ? text : text[..60] + "…" : "missing";

    private double AsNumber(JsonElement value, string key)
    {
        if (value.ValueKind != JsonValueKind.Number) throw new InvalidDataException($"{Path}: '{key}' must be a number, but is {value}");
        var number = value.GetDouble();
        var (least, most) = ConfigLimits.Real.GetValueOrDefault(key, (double.MinValue, double.MaxValue));
        return number >= least && number <= most ? number : throw new InvalidDataException(string.Create(CultureInfo.InvariantCulture,
            $"{Path}: '{key}' must be {least} to {most}, but is {value.GetRawText()}"));
    }
}
