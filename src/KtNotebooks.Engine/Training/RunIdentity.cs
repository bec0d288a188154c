using System.Text.Json.Nodes;

using KtNotebooks.Configuration;
using KtNotebooks.Files;

namespace KtNotebooks.Training;

/// <summary>
/// Everything that decides which weights a run leaves, by config key: written into every checkpoint as train_settings.json, and compared before a run
/// goes on from one, so that no run mixes the settings of two. Where things are computed, saved and logged is not in it: it may change.
/// </summary>
public sealed class RunIdentity
{
    public const string FileName = "train_settings.json";

    /// <summary>Not a key: the steps that the keys come to.</summary>
    private const string TotalSteps = "total_steps";

    /// <summary>Keys of a run's length: who goes on may make it longer.</summary>
    private static readonly string[] Length = ["num_train_epochs", "max_steps", TotalSteps];

    /// <summary>
    /// Keys that change nothing in the weights: where results go, what is logged, measured and saved, where and with how much memory things are
    /// computed.
    /// </summary>
    private static readonly HashSet<string> Harmless =
    [
        "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "logging_steps", "logging_strategy", "logging_first_step", "save_steps",
        "save_strategy", "save_total_limit", "save_only_model", "eval_steps",
        "eval_strategy", "eval_on_start", "eval_dataset", "do_train", "do_eval", "do_predict", "load_best_model_at_end", "metric_for_best_model",
        "greater_is_better", "early_stopping_steps", "report_to", "logging_dir", "log_routing", "per_device_eval_batch_size", "plot_loss", "log_level",
        "cards", "experts", "expert_weights", "dense_weights", "use_cpu", "no_cuda", "cache_dir", "model_revision", "stage", "finetuning_type", "use_kt",
        "model_name_or_path", "adapter_name_or_path", "dataset_dir", "overwrite_cache",
        "bf16", "infer_dtype", "chunk_size", "cpu_infer", "device", "gpu_memory_limit", "kt_optimize_rule", "expert_lora",
        "optimizer_state", "saved_inputs_limit", "kept_activations", "disable_gradient_checkpointing", "model_config",
    ];

    private readonly JsonObject _values;

    /// <param name="effective">What the keys mean, defaults filled in, in the order of messages; and hashes of what the keys name.</param>
    /// <param name="given">The acting keys of the config: one that is in neither list counts as it was given, so that a key added later is not
    /// forgotten here.</param>
    /// <param name="totalSteps">Of the run.</param>
    public RunIdentity(IReadOnlyList<(string Key, JsonNode? Value)> effective, IReadOnlyDictionary<string, string?> given, int totalSteps)
    {
        ArgumentNullException.ThrowIfNull(effective);
        ArgumentNullException.ThrowIfNull(given);
        _values = [];
        foreach (var (key, value) in effective) _values[key] = value?.DeepClone();
        foreach (var (key, value) in given)
            if (value is not null && !Harmless.Contains(key) && Keys.Find(key) is not { Effect: KeyEffect.NoEffect }
                && !key.StartsWith("kt_config.", StringComparison.Ordinal)
                && !_values.ContainsKey(key)) _values[key] = value;
        _values[TotalSteps] = totalSteps;
    }

    /// <summary>What the keys mean, without hashes and sums: a config that gives the same run.</summary>
    public IEnumerable<(string Key, JsonNode? Value)> Config => _values.Where(v => v.Key != TotalSteps && !IsHash(v.Key)).Select(v => (v.Key, v.Value));

    /// <summary>A key that is not there has its default.</summary>
    private static string Said(string key, string value) =>
        value != "null" ? value : Keys.Find(key)?.Default is { } standard ? $"not given ({standard})" : "not given";

    /// <summary>No key is made of several words.</summary>
    private static bool IsHash(string key) => key.Contains(' ', StringComparison.Ordinal);

    /// <summary>All of it, for ranks that compare it.</summary>
    public IEnumerable<(string Name, string Value)> Facts => _values.Select(v => (v.Key, v.Value?.ToJsonString() ?? "not set"));

    public void Write(string folder) => NotedSettings.Write(Path.Combine(folder, FileName), _values);

    /// <summary>Compares with what a checkpoint was made with.</summary>
    /// <param name="checkpoint">Its folder.</param>
    /// <param name="isExplicit">Somebody asked to go on from it: it may be with more steps, and it may be a checkpoint that does not say how it was
    /// made.</param>
    /// <param name="partly">The model is not loaded yet: hashes that are not there are not compared.</param>
    /// <returns>What a person should know, or null.</returns>
    /// <exception cref="ArgumentException">A setting differs; it is named with both values.</exception>
    public string? Compare(string checkpoint, bool isExplicit, bool partly = false)
    {
        if (NotedSettings.Read(Path.Combine(checkpoint, FileName)) is not { } noted)
        {
            if (isExplicit) return $"{checkpoint} has no {FileName}: nobody can say whether it was made with these settings";
            throw new ArgumentException($"{checkpoint}: has no {FileName}, so nobody knows with which settings it was made; {RunStart.Otherwise}, or "
                + $"resume_from_checkpoint: true to go on from it all the same");
        }
        var differences = NotedSettings.Differences(noted, _values).Where(d => !partly || _values.ContainsKey(d.Key) || !IsHash(d.Key)).ToList();
        var longer = noted[TotalSteps]?.GetValueKind() != System.Text.Json.JsonValueKind.Number
            || _values[TotalSteps]!.GetValue<int>() >= noted[TotalSteps]!.GetValue<double>();
        foreach (var (key, before, now) in differences.OrderBy(d => d.Key != "stage").ThenBy(d => Length.Contains(d.Key)).ThenBy(d => IsHash(d.Key)))
        {
            var isLength = Length.Contains(key);
            if (isLength && isExplicit && longer) continue;
            var more = !isLength ? "" : isExplicit ? "; a run that goes on may have more steps, not fewer"
                : longer ? ", or resume_from_checkpoint: true to go on with more steps" : "";
            throw new ArgumentException($"{checkpoint}: was made with {key} {Said(key, before)}, now it is {Said(key, now)}; {RunStart.Otherwise}{more}");
        }
        return differences.Exists(d => d.Key == TotalSteps)
            ? $"{_values[TotalSteps]} steps instead of {noted[TotalSteps]}: from here on the learning rate is that of the longer run" : null;
    }
}
