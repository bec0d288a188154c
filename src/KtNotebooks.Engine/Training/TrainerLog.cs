using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Files;

namespace KtNotebooks.Training;

/// <summary>
/// trainer_log.jsonl, one line a log event, appended and flushed at once so that others can follow; the same events go into the history of
/// trainer_state.json. Field names and order as LLaMA-Factory's. A full disk does not end a run for a line of its log: lines wait until there is room.
/// </summary>
public sealed class TrainerLog : IDisposable
{
    private readonly string _path;
    private readonly JsonArray _history;
    private readonly IReadOnlyList<ITracker> _trackers;
    private readonly Action<string>? _onNote;
    private string _waiting = "";

    /// <param name="folder">The output folder.</param>
    /// <param name="state">Whose history hears everything too. A log that is there is cut to its step: a run that died had written beyond its
    /// checkpoint.</param>
    /// <param name="trackers">Who hears the values too; owned by this log.</param>
    /// <param name="onNote">What a person should know.</param>
    internal TrainerLog(string folder, TrainerState state, IReadOnlyList<ITracker>? trackers = null, Action<string>? onNote = null)
    {
        ArgumentNullException.ThrowIfNull(state);
        (_path, _history, _onNote) = (Path.Combine(folder, "trainer_log.jsonl"), state.History, onNote);
        if (state.Step == 0) File.Delete(_path);
        else TrimTo(state.Step);
        _trackers = trackers ?? [];
    }

    /// <param name="report">The last step.</param>
    /// <param name="meanLoss">Since the last line.</param>
    /// <param name="metrics">The objective's, likewise.</param>
    public void Loss(StepReport report, double meanLoss, IEnumerable<(string Name, double Value)> metrics)
    {
        ArgumentNullException.ThrowIfNull(report);
        (string Name, double Value)[] others = [.. metrics.OrderBy(m => m.Name, StringComparer.Ordinal)];
        Append(report, With(new JsonObject { ["loss"] = Math.Round(meanLoss, 4) }, others), withRate: true);
        Tell(report.Step, others.Select(m => ("train/" + m.Name, m.Value)).Concat([("train/loss", meanLoss), ("train/grad_norm", report.GradientNorm),
            ("train/learning_rate", report.LearningRate), ("train/epoch", report.Epoch), ("train/tokens_per_second", report.TokensPerSecond)]));
        _history.Add(With(new JsonObject
        {
            ["epoch"] = report.Epoch,
            ["grad_norm"] = report.GradientNorm,
            ["learning_rate"] = report.LearningRate,
            ["loss"] = Math.Round(meanLoss, 4),
        }, others, report.Step));
    }

    public void Evaluation(StepReport report, WindowLoss measured)
    {
        ArgumentNullException.ThrowIfNull(report);
        ArgumentNullException.ThrowIfNull(measured);
        (string, double)[] metrics = [.. measured.Metrics.OrderBy(m => m.Key, StringComparer.Ordinal).Select(m => ("eval_" + m.Key, m.Value))];
        Append(report, With(new JsonObject { ["eval_loss"] = measured.Loss }, metrics), withRate: false);
        Tell(report.Step, measured.Metrics.Select(m => ("eval/" + m.Key, m.Value)).Append(("eval/loss", measured.Loss)));
        _history.Add(With(new JsonObject { ["epoch"] = report.Epoch, ["eval_loss"] = measured.Loss }, metrics, report.Step));
    }

    /// <summary>The run has reached its end.</summary>
    public void Finish()
    {
        foreach (var tracker in _trackers) tracker.Finish();
    }

    public void Dispose()
    {
        foreach (var tracker in _trackers) tracker.Dispose();
    }

    private void Tell(int step, IEnumerable<(string, double)> values)
    {
        (string, double)[] all = [.. values];
        foreach (var tracker in _trackers) tracker.Add(step, all);
    }

    /// <summary>The closing line of a run, without a loss.</summary>
    public void End(StepReport report) => Append(report, [], withRate: false);

    /// <summary>Python's timedelta text: `0:01:23`, `1 day, 0:00:00`.</summary>
    public static string Duration(TimeSpan time)
    {
        var clock = $"{time.Hours}:{time.Minutes:D2}:{time.Seconds:D2}";
        return time.Days == 0 ? clock : $"{time.Days} day{(time.Days == 1 ? "" : "s")}, {clock}";
    }

    private static JsonObject With(JsonObject entry, IEnumerable<(string Name, double Value)> values, int? step = null)
    {
        foreach (var (name, value) in values) entry[name] = value;
        if (step is { } number) entry["step"] = number;
        return entry;
    }

    /// <summary>Takes away what of a line there was room for.</summary>
    private void CutTo(long length)
    {
        try
        {
            if (File.Exists(_path))
                using (var file = File.OpenWrite(_path)) file.SetLength(length);
        }
        catch (IOException)
        {
            // What cannot be shortened is cut when a run goes on (TrimTo).
        }
    }

    private void TrimTo(int step)
    {
        if (!File.Exists(_path)) return;
        var lines = File.ReadAllLines(_path);
        var kept = lines.Where(line => StepOf(line) <= step).ToArray();
        if (kept.Length < lines.Length) AtomicFile.WriteText(_path, string.Concat(kept.Select(line => line + "\n")));
    }

    /// <summary>Beyond every step for a line that was cut off, and for what a stranger wrote.</summary>
    private static int StepOf(string line)
    {
        try
        {
            return JsonNode.Parse(line) is JsonObject entry && entry["current_steps"] is JsonValue value && value.TryGetValue<int>(out var step) ? step
                : int.MaxValue;
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
        var text = _waiting + line.ToJsonString() + "\n";
        var length = File.Exists(_path) ? new FileInfo(_path).Length : 0;
        try
        {
            File.AppendAllText(_path, text);
            _waiting = "";
        }
        catch (IOException error)
        {
            if (_waiting.Length == 0) _onNote?.Invoke($"{_path}: {Folders.Cause(error)}; its lines wait until they can be written, training goes on");
            _waiting = text;
            CutTo(length);
        }
    }
}
