using System.Diagnostics;

using KtNotebooks.Interop;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Ops;
using KtNotebooks.Optim;

namespace KtNotebooks.Training;

/// <summary>
/// The loop: window → layer-major step → clip → AdamW → log, with checkpoints and evaluation. What is trained is whatever the model says is trainable. Cancelling stops between two chunks of rows:
/// the unfinished window is dropped, the last finished step is saved, and the same run started again goes on from there with the same bits.
/// </summary>
public sealed class Trainer
{
    private readonly CausalLm _model;
    private readonly IWindowSource _windows;
    private readonly TrainSettings _settings;
    private readonly Action<string> _saveWeights;
    private readonly TokenBatch? _evaluation;
    private string _step = "the beginning", _part = "AdamW's moments"; // what is going on, for who must say what failed

    /// <param name="saveWeights">Writes what is trained (an adapter, or the whole model) into a folder.</param>
    /// <param name="evaluation">Held-out rows whose weights sum to one, or null.</param>
    public Trainer(CausalLm model, IWindowSource windows, TrainSettings settings, Action<string> saveWeights, TokenBatch? evaluation = null)
    {
        (_model, _windows, _settings, _saveWeights, _evaluation) = (model, windows, settings, saveWeights, evaluation);
    }

    /// <summary>After every step.</summary>
    public event Action<StepReport>? OnStep;

    /// <summary>After every evaluation: step and mean loss of the held-out rows.</summary>
    public event Action<int, double>? OnEvaluation;

    /// <summary>One line for whoever looks: resumed, saved, stopped.</summary>
    public event Action<string>? OnNote;

    /// <summary>Restores weights from a checkpoint folder when a run is resumed; null: runs cannot be resumed.</summary>
    public Action<string>? LoadWeights { get; init; }

    /// <summary>AdamW's moments of what is on a card wait in pinned host memory.</summary>
    public bool MomentsOnHost { get; init; }

    /// <summary>Bytes of stage inputs that may stay on a card.</summary>
    public long SavedBytes { get; init; } = long.MaxValue;

    public TrainResult Run(CancellationToken cancel = default)
    {
        var parameters = _model.AllTrainable;
        if (parameters.Count == 0) throw new InvalidOperationException("nothing to train: the model has no adapter and no weight is set to train");
        var resumeFrom = _settings.Overwrite || LoadWeights is null ? null : Checkpoints.Newest(_settings.OutputDir);
        Checkpoints.Clear(_settings.OutputDir, all: _settings.Overwrite);
        var log = new TrainerLog(_settings.OutputDir, startOver: resumeFrom is null);
        if (resumeFrom is not null)
        {
            LoadWeights!(resumeFrom);
            parameters = _model.AllTrainable;
        }
        try
        {
            return RunFrom(resumeFrom, log, parameters, cancel);
        }
        catch (KtNativeException failed) when (CudaDevice.FindLost() is { } card) // asked before anything is disposed on the way here
        {
            throw CardLostException.During(card, $"in {_step}, {_part}", failed, $"{Saved()}. ");
        }
        catch (InsufficientMemoryException full)
        {
            throw new InsufficientMemoryException($"{_step}, {_part}: {full.Message}. {Saved()}", full);
        }
    }

    /// <summary>What a run that breaks off leaves.</summary>
    private string Saved() => Checkpoints.Newest(_settings.OutputDir) is { } folder && LoadWeights is not null
        ? $"The same command{(_settings.Overwrite ? " with overwrite_output_dir=false" : "")} goes on from {folder}"
        : "Nothing is saved yet: the same command starts over (save_steps says how often a run saves)";

    private TrainResult RunFrom(string? resumeFrom, TrainerLog log, IReadOnlyList<Parameter> parameters, CancellationToken cancel)
    {
        var first = 0;
        using var optimizer = new AdamW(parameters, _settings.Adam, MomentsOnHost);
        if (resumeFrom is not null)
        {
            first = log.Restore(resumeFrom);
            Checkpoints.RestoreOptimizer(resumeFrom, optimizer, first);
            log.TrimTo(first);
            OnNote?.Invoke($"resumed from {resumeFrom} at step {first} of {_windows.TotalSteps}");
        }
        return Loop(log, optimizer, parameters, first, cancel);
    }

    private TrainResult Loop(TrainerLog log, AdamW optimizer, IReadOnlyList<Parameter> parameters, int first, CancellationToken cancel)
    {
        var total = _windows.TotalSteps;
        var schedule = new LearningRate(_settings.Schedule, _settings.LearningRate, _settings.WarmupOf(total), total);
        var step = new LayerMajorStep(_model, _settings.ChunkRows, savedBytes: SavedBytes) { OnPart = Follow };
        if (step.Devices.Count > 1) OnNote?.Invoke($"layers on {string.Join(", ", step.Devices)}; each window in at most {step.Parts} parts");
        var watch = Stopwatch.StartNew();
        StepReport? last = null;
        long tokens = 0;
        double all = 0, sinceLog = 0, evaluation = double.NaN;
        var logged = first;
        var interrupted = false;
        for (var s = first; s < total; s++)
        {
            var (batch, epoch) = _windows.At(s);
            _step = $"step {s + 1} of {total} ({batch.Tokens:N0} tokens)";
            double loss;
            try
            {
                loss = step.Run(batch, DropoutMask.Mix(_settings.Seed ^ (ulong)s), cancel);
            }
            catch (OperationCanceledException)
            {
                DropGradients(parameters);
                interrupted = true;
                break;
            }
            _part = "optimizer";
            var norm = Gradients.Norm(parameters);
            if (!double.IsFinite(loss) || !double.IsFinite(norm))
            {
                DropGradients(parameters);
                throw new InvalidOperationException($"step {s + 1}: the loss is {loss} and the gradient norm {norm}; lower learning_rate or look at the rows of this window. The weights are those of step {s}");
            }
            optimizer.Step(schedule.At(s), Gradients.ClipScale(norm, _settings.MaxGradientNorm));
            tokens += batch.Tokens;
            all += loss;
            sinceLog += loss;
            var elapsed = watch.Elapsed;
            last = new StepReport(s + 1, total, epoch, loss, schedule.At(s + 1), norm, batch.Tokens, tokens / elapsed.TotalSeconds, elapsed, elapsed / (s + 1 - first) * (total - s - 1));
            if ((s + 1) % _settings.LoggingSteps == 0)
            {
                log.Loss(last, sinceLog / (s + 1 - logged));
                (sinceLog, logged) = (0, s + 1);
            }
            OnStep?.Invoke(last);
            if (_evaluation is not null && _settings.EvalSteps > 0 && (s + 1) % _settings.EvalSteps == 0 && s + 1 < total) interrupted = !TryEvaluate(step, log, last, ref evaluation, cancel);
            if (interrupted) break;
            if (_settings.SaveSteps > 0 && (s + 1) % _settings.SaveSteps == 0 && s + 1 < total) Save(log, optimizer, last);
        }
        if (!interrupted && _evaluation is not null && last is not null) interrupted = !TryEvaluate(step, log, last, ref evaluation, cancel);
        if (interrupted && last is not null) Save(log, optimizer, last);
        _saveWeights(_settings.OutputDir);
        if (last is not null) log.End(last);
        log.WriteState(last, _settings);
        var done = last?.Step ?? first;
        return new TrainResult(done, total, done > first ? all / (done - first) : double.NaN, last?.Loss ?? double.NaN, double.IsNaN(evaluation) ? null : evaluation, tokens / watch.Elapsed.TotalSeconds, watch.Elapsed, interrupted);
    }

    /// <summary>Of several cards the one that began something last: a thread that waits for another says nothing.</summary>
    private void Follow(StepMark mark)
    {
        if (mark.Name is "" or StepMark.Waiting) return;
        _part = mark.Stage < 0 ? mark.Name : $"{mark.Name} of layer {mark.Stage / 2}";
    }

    /// <summary>False when cancelled.</summary>
    private bool TryEvaluate(LayerMajorStep step, TrainerLog log, StepReport report, ref double loss, CancellationToken cancel)
    {
        _part = "evaluation after it";
        try
        {
            loss = step.Loss(_evaluation!, cancel);
        }
        catch (OperationCanceledException)
        {
            return false;
        }
        log.Evaluation(report, loss);
        OnEvaluation?.Invoke(report.Step, loss);
        return true;
    }

    private void Save(TrainerLog log, AdamW optimizer, StepReport report)
    {
        _part = "saving after it";
        var folder = Checkpoints.Write(_settings.OutputDir, report.Step, target =>
        {
            _saveWeights(target);
            log.WriteState(report, _settings, target);
            Checkpoints.WriteOptimizer(target, optimizer);
        });
        OnNote?.Invoke($"saved {folder}");
    }

    private static void DropGradients(IReadOnlyList<Parameter> parameters)
    {
        foreach (var parameter in parameters)
        {
            parameter.Tensor.Grad?.Dispose();
            parameter.Tensor.Grad = null;
        }
    }
}
