using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Files;

namespace KtNotebooks.Training;

/// <summary>
/// trainer_log.jsonl, one line a log event, appended and flushed at once so that others can follow; and trainer_state.json with the whole history. Field names and order as LLaMA-Factory's.
/// </summary>
public sealed class TrainerLog
{
    private static readonly JsonSerializerOptions Indented = new() { WriteIndented = true };
    private readonly string _path;
    private readonly string _folder;
    private readonly JsonArray _history = [];
    private JsonNode? _restored;

    public TrainerLog(string folder, bool startOver)
    {
        _folder = folder;
        Directory.CreateDirectory(folder);
        _path = Path.Combine(folder, "trainer_log.jsonl");
        if (startOver) File.Delete(_path);
    }

    /// <summary>One object an event: epoch, step and loss, or eval_loss.</summary>
    public JsonArray History => _history;

    public void Loss(StepReport report, double meanLoss)
    {
        ArgumentNullException.ThrowIfNull(report);
        Append(report, new JsonObject { ["loss"] = Math.Round(meanLoss, 4) }, withRate: true);
        _history.Add(new JsonObject { ["epoch"] = report.Epoch, ["grad_norm"] = report.GradientNorm, ["learning_rate"] = report.LearningRate, ["loss"] = Math.Round(meanLoss, 4), ["step"] = report.Step });
    }

    public void Evaluation(StepReport report, double loss)
    {
        ArgumentNullException.ThrowIfNull(report);
        Append(report, new JsonObject { ["eval_loss"] = loss }, withRate: false);
        _history.Add(new JsonObject { ["epoch"] = report.Epoch, ["eval_loss"] = loss, ["step"] = report.Step });
    }

    /// <summary>The closing line of a run, without a loss.</summary>
    public void End(StepReport report) => Append(report, [], withRate: false);

    public void WriteState(StepReport? last, TrainSettings settings, string? folder = null)
    {
        ArgumentNullException.ThrowIfNull(settings);
        // A resumed run that took no step is where its checkpoint was.
        if (last is null && _restored is not null)
        {
            AtomicFile.WriteText(Path.Combine(folder ?? _folder, "trainer_state.json"), _restored.ToJsonString(Indented) + "\n");
            return;
        }
        var state = new JsonObject
        {
            ["epoch"] = last?.Epoch ?? 0,
            ["eval_steps"] = settings.EvalSteps,
            ["global_step"] = last?.Step ?? 0,
            ["is_local_process_zero"] = true,
            ["is_world_process_zero"] = true,
            ["log_history"] = _history.DeepClone(),
            ["logging_steps"] = settings.LoggingSteps,
            ["max_steps"] = last?.TotalSteps ?? 0,
            ["save_steps"] = settings.SaveSteps,
        };
        AtomicFile.WriteText(Path.Combine(folder ?? _folder, "trainer_state.json"), state.ToJsonString(Indented) + "\n");
    }

    /// <summary>Drops log lines of steps beyond a checkpoint's, which a run that died had written after it.</summary>
    public void TrimTo(int step)
    {
        if (!File.Exists(_path)) return;
        var lines = File.ReadAllLines(_path);
        var kept = lines.Where(line => StepOf(line) <= step).ToArray();
        if (kept.Length < lines.Length) AtomicFile.WriteText(_path, string.Concat(kept.Select(line => line + "\n")));
    }

    /// <summary>Takes over the history of a checkpoint's trainer_state.json and returns its step.</summary>
    public int Restore(string folder)
    {
        var path = Path.Combine(folder, "trainer_state.json");
        try
        {
            var state = JsonNode.Parse(File.ReadAllText(path))!;
            _restored = state;
            _history.Clear();
            foreach (var entry in state["log_history"]!.AsArray()) _history.Add(entry!.DeepClone());
            return state["global_step"]!.GetValue<int>();
        }
        catch (Exception error) when (error is JsonException or NullReferenceException or InvalidOperationException or FormatException)
        {
            throw new InvalidDataException($"{path}: damaged: {error.Message}; remove that checkpoint folder to go on from an earlier one");
        }
    }

    /// <summary>Python's timedelta text: `0:01:23`, `1 day, 0:00:00`.</summary>
    public static string Duration(TimeSpan time)
    {
        var clock = $"{time.Hours}:{time.Minutes:D2}:{time.Seconds:D2}";
        return time.Days == 0 ? clock : $"{time.Days} day{(time.Days == 1 ? "" : "s")}, {clock}";
    }

    /// <summary>Beyond every step for a line that was cut off.</summary>
    private static int StepOf(string line)
    {
        try
        {
            return JsonNode.Parse(line)?["current_steps"]?.GetValue<int>() ?? int.MaxValue;
        }
        catch (JsonException)
        {
            return int.MaxValue;
        }
    }

    private void Append(StepReport report, JsonObject values, bool withRate)
    {
        var line = new JsonObject { ["current_steps"] = report.Step, ["total_steps"] = report.TotalSteps };
        foreach (var (key, value) in values) line[key] = value!.DeepClone();
        if (withRate) line["lr"] = report.LearningRate;
        line["epoch"] = report.Epoch;
        line["percentage"] = Math.Round(100.0 * report.Step / report.TotalSteps, 2);
        line["elapsed_time"] = Duration(report.Elapsed);
        line["remaining_time"] = Duration(report.Remaining);
        line["throughput"] = Math.Round(report.TokensPerSecond, 2);
        File.AppendAllText(_path, line.ToJsonString() + "\n");
    }
}
