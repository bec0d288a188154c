using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Files;

namespace KtNotebooks.Training;

/// <summary>The checkpoint with the best value of the held-out rows so far: of their loss, unless metric_for_best_model names another.</summary>
public sealed record BestCheckpoint(double Value, int Step, string Folder);

/// <summary>
/// Where a run is, and how it came there: trainer_state.json with Hugging Face's fields, in every checkpoint and at the end in the output folder.
/// What a resumed run needs beyond them stands in `stateful_callbacks`, as theirs does.
/// </summary>
public sealed class TrainerState
{
    public const string FileName = "trainer_state.json";

    private const string Own = "KtTrainer";
    private static readonly JsonSerializerOptions Indented = new() { WriteIndented = true };

    /// <summary>Steps done.</summary>
    public int Step { get; private set; }

    public double Epoch { get; private set; }

    /// <summary>Tokens that have gone through the model, in all sequences.</summary>
    public long Tokens { get; private set; }

    /// <summary>Of all steps.</summary>
    public double LossSum { get; private set; }

    public BestCheckpoint? Best { get; private set; }

    /// <summary>The best evaluation so far, saved or not, and how many have been made since; for early stopping.</summary>
    public (double? Value, int Since) Evaluated { get; private set; }

    /// <summary>One object an event: epoch, step and loss, or eval_loss.</summary>
    public JsonArray History { get; private init; } = [];

    /// <summary>The mean loss of all steps.</summary>
    public double MeanLoss => Step > 0 ? LossSum / Step : double.NaN;

    /// <summary>A step is done.</summary>
    public void Advance(StepReport report)
    {
        ArgumentNullException.ThrowIfNull(report);
        (Step, Epoch, Tokens, LossSum) = (report.Step, report.Epoch, Tokens + report.Tokens, LossSum + report.Loss);
    }

    /// <summary>A checkpoint has been saved whose value (metric_for_best_model) is known.</summary>
    public void Offer(BestCheckpoint candidate, Best by)
    {
        ArgumentNullException.ThrowIfNull(candidate);
        ArgumentNullException.ThrowIfNull(by);
        if (by.IsBetter(candidate.Value, Best?.Value)) Best = candidate;
    }

    /// <summary>An evaluation has been made.</summary>
    public void Measured(double value, Best by)
    {
        ArgumentNullException.ThrowIfNull(by);
        Evaluated = by.IsBetter(value, Evaluated.Value) ? (value, 0) : (Evaluated.Value, Evaluated.Since + 1);
    }

    /// <summary>The run is finished: its results close the history.</summary>
    public void Close(IEnumerable<(string Name, double Value)> results)
    {
        ArgumentNullException.ThrowIfNull(results);
        var entry = new JsonObject { ["step"] = Step };
        foreach (var (name, value) in results.OrderBy(r => r.Name, StringComparer.Ordinal))
            if (double.IsFinite(value)) entry[ResultsFile.KeyOf("train", name)] = value;
        History.Add(entry);
    }

    /// <summary>The history of such a file was closed: the run that wrote it was finished.</summary>
    internal static bool IsClosed(JsonElement state) => state.TryGetProperty("log_history", out var history) && history.ValueKind == JsonValueKind.Array
        && history.EnumerateArray().Any(entry => entry.ValueKind == JsonValueKind.Object && entry.TryGetProperty(ResultsFile.KeyOf("train", "loss"), out _));

    /// <summary>The held-out rows have been measured after this step.</summary>
    public bool HasMeasured(int step) => History.OfType<JsonObject>().Any(entry => entry.ContainsKey("eval_loss") && (int?)entry["step"] == step);

    /// <summary>Writes the file.</summary>
    /// <param name="folder">Of a checkpoint, or the output folder.</param>
    /// <param name="shape">The constants of the run.</param>
    public void Write(string folder, RunShape shape)
    {
        ArgumentNullException.ThrowIfNull(shape);
        var state = new JsonObject
        {
            ["best_global_step"] = Best?.Step,
            ["best_metric"] = Best?.Value,
            ["best_model_checkpoint"] = Best?.Folder,
            ["epoch"] = Epoch,
            ["eval_steps"] = shape.EvalSteps,
            ["global_step"] = Step,
            ["is_hyper_param_search"] = false,
            ["is_local_process_zero"] = true,
            ["is_world_process_zero"] = true,
            ["log_history"] = History.DeepClone(),
            ["logging_steps"] = shape.LoggingSteps,
            ["max_steps"] = shape.TotalSteps,
            ["num_input_tokens_seen"] = Tokens,
            ["num_train_epochs"] = shape.Epochs,
            ["save_steps"] = shape.SaveSteps,
            ["stateful_callbacks"] = new JsonObject { [Own] = new JsonObject { ["args"] = new JsonObject(), ["attributes"] = Attributes() } },
            ["total_flos"] = shape.FlosOf(Tokens),
            ["train_batch_size"] = shape.BatchSize,
            ["trial_name"] = null,
            ["trial_params"] = null,
        };
        AtomicFile.WriteText(Path.Combine(folder, FileName), state.ToJsonString(Indented) + "\n");
    }

    /// <summary>Takes over a checkpoint's file.</summary>
    /// <exception cref="InvalidDataException">Damaged, or the file of another step than the folder's.</exception>
    public static TrainerState Read(string checkpoint)
    {
        var path = Path.Combine(checkpoint, FileName);
        var otherwise = $"remove {checkpoint} to go on from an earlier checkpoint";
        if (!File.Exists(path)) throw new InvalidDataException($"{path}: is missing; {otherwise}");
        JsonElement root;
        try
        {
            root = JsonSource.Read(path, "a trainer's state");
        }
        catch (InvalidDataException error)
        {
            throw new InvalidDataException($"{error.Message}; {otherwise}");
        }
        JsonElement Field(JsonElement of, string key, JsonValueKind kind) => of.TryGetProperty(key, out var value) && value.ValueKind == kind ? value
            : throw new InvalidDataException($"{path}: has no '{key}' as a trainer writes it; {otherwise}");
        var step = Field(root, "global_step", JsonValueKind.Number).TryGetInt32(out var number) ? number : -1;
        if (step != Checkpoints.StepOf(checkpoint))
            throw new InvalidDataException($"{path}: says that it is of step {root.GetProperty("global_step").GetRawText()}, "
                + $"but stands in {Path.GetFileName(checkpoint)}; {otherwise}");
        var history = JsonArray.Create(Field(root, "log_history", JsonValueKind.Array))!;
        var epoch = Field(root, "epoch", JsonValueKind.Number).GetDouble();
        var state = new TrainerState { Step = step, Epoch = epoch, History = [.. history.Select(entry => entry?.DeepClone())] };
        if (root.TryGetProperty("num_input_tokens_seen", out var tokens) && tokens.ValueKind == JsonValueKind.Number
            && tokens.TryGetInt64(out var seen)) state.Tokens = seen;
        state.LossSum = root.TryGetProperty("stateful_callbacks", out var callbacks)
            && Inner(callbacks, Own, "attributes", "loss_sum") is { ValueKind: JsonValueKind.Number } sum ? sum.GetDouble() : double.NaN;
        if (root.TryGetProperty("stateful_callbacks", out callbacks)
            && Inner(callbacks, Own, "attributes", "best_evaluation") is { ValueKind: JsonValueKind.Number } evaluated
            && Inner(callbacks, Own, "attributes", "evaluations_since") is { ValueKind: JsonValueKind.Number } since)
            state.Evaluated = (evaluated.GetDouble(), since.GetInt32());
        if (root.TryGetProperty("best_metric", out var metric) && metric.ValueKind == JsonValueKind.Number
            && root.TryGetProperty("best_model_checkpoint", out var folder) && folder.GetString() is { } best)
            state.Best = new BestCheckpoint(metric.GetDouble(), Checkpoints.StepOf(best), best);
        return state;
    }

    private JsonObject Attributes()
    {
        var own = new JsonObject { ["loss_sum"] = double.IsFinite(LossSum) ? LossSum : null };
        if (Evaluated.Value is { } value) (own["best_evaluation"], own["evaluations_since"]) = (value, Evaluated.Since);
        return own;
    }

    private static JsonElement? Inner(JsonElement at, params ReadOnlySpan<string> keys)
    {
        foreach (var key in keys)
            if (at.ValueKind != JsonValueKind.Object || !at.TryGetProperty(key, out at)) return null;
        return at;
    }
}
