using System.Diagnostics;

using KtNotebooks.Distributed;
using KtNotebooks.Files;
using KtNotebooks.Interop;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Ops;
using KtNotebooks.Optim;
using KtNotebooks.Tensors;
using KtNotebooks.Training.Objectives;

namespace KtNotebooks.Training;

/// <summary>
/// The loop: window → layer-major step → clip → optimizer → log, with checkpoints and evaluation. What is trained is whatever the model says is trainable.
/// Cancelling stops between two chunks of rows: the unfinished window is dropped, the last finished step is saved, and the same run started again goes on
/// from there with the same bits.
/// </summary>
public sealed class Trainer
{
    /// <summary>A rank that keeps the others waiting so long is worth a line.</summary>
    private const double SlowShare = 0.2;

    /// <summary>Lines of the log in a row: windows are not shared out evenly to the token.</summary>
    private const int SlowLines = 3;

    private readonly CausalLm _model;
    private readonly IWindowSource _windows;
    private readonly TrainSettings _settings;
    private readonly Action<string> _saveWeights;
    private readonly TokenBatch? _evaluation;
    private readonly Occasions _logs, _saves, _evaluations;
    private readonly RunShape _shape;
    private string _step = "the beginning", _part = "the optimizer's state"; // what is going on, for who must say what failed
    private (int Rank, int Lines) _slow = (-1, 0); // who was waited for, and for how many lines of the log
    private readonly List<StepReport> _steps = [];
    private readonly List<(int Step, double Loss)> _measured = [];
    private bool _hasMoved; // this object has taken a step
    private TrainResult? _end; // and its last one

    /// <param name="saveWeights">Writes what is trained (an adapter, or the whole model) into a folder.</param>
    /// <param name="evaluation">Held-out rows whose weights sum to one, or null.</param>
    public Trainer(CausalLm model, IWindowSource windows, TrainSettings settings, Action<string> saveWeights, TokenBatch? evaluation = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(windows);
        ArgumentNullException.ThrowIfNull(settings);
        (_model, _windows, _settings, _saveWeights, _evaluation) =
            (model, windows, settings.Checked(), saveWeights, settings.EvalStrategy == When.No ? null : evaluation);
        if (settings.LoadBestAtEnd && _evaluation is null)
            throw new ArgumentException("load_best_model_at_end needs held-out rows: give eval_dataset or val_size");
        var total = windows.TotalSteps;
        var (strategy, every) = settings.Evaluations;
        _logs = new Occasions(settings.LoggingStrategy, settings.LoggingSteps, total);
        _saves = new Occasions(settings.SaveStrategy, settings.SaveSteps, total, andLast: true);
        _evaluations = new Occasions(strategy, every, total);
        if (settings.LoadBestAtEnd && _evaluations.Every > 0 && _saves.Every % _evaluations.Every != 0) // shares of all steps are rounded up
            throw new ArgumentException($"load_best_model_at_end needs save_steps to be a multiple of eval_steps; of {total} steps they are {_saves.Every} and "
                + $"{_evaluations.Every}");
        _shape = new RunShape(total, windows.Epochs, windows.BatchSize, _logs.Every, _saves.Every, _evaluations.Every, RunShape.FlosPerTokenOf(model));
    }

    /// <summary>After every step.</summary>
    public event Action<StepReport>? OnStep;

    /// <summary>After every evaluation: step and mean loss of the held-out rows.</summary>
    public event Action<int, double>? OnEvaluation;

    /// <summary>One line for whoever looks: resumed, saved, stopped.</summary>
    public event Action<string>? OnNote;

    /// <summary>What is learned from the windows; null: the mean cross-entropy that their weights say.</summary>
    public ITrainingObjective? Objective { get; init; }

    /// <summary>Restores weights from a checkpoint folder when a run is resumed; null: runs cannot be resumed.</summary>
    public Action<string>? LoadWeights { get; init; }

    /// <summary>Written into every checkpoint, and compared before a run goes on from one; null: nothing is known of the settings.</summary>
    public RunIdentity? Identity { get; init; }

    /// <summary>
    /// The processes that share the windows out. Each has all weights and takes the same steps; the first one writes. They stop together, after the step in
    /// which one of them was told to.
    /// </summary>
    public ICollective Ranks { get; init; } = SingleRank.Instance;

    /// <summary>Writes what belongs beside finished weights: tokenizer, config, model card.</summary>
    public Action<TrainResult, TrainerState>? Complete { get; init; }

    /// <summary>Where the run's own memory lies on each card; none: all of it on its device.</summary>
    public IReadOnlyDictionary<Device, TrainingMemory> Memory { get; init; } = new Dictionary<Device, TrainingMemory>();

    /// <summary>The steps that this object has done, without loads of experts, for a picture that goes on where a run does.</summary>
    public IReadOnlyList<StepReport> Steps => _steps;

    /// <summary>Its evaluations: after which step, and the mean loss of the held-out rows.</summary>
    public IReadOnlyList<(int Step, double Loss)> Evaluations => _measured;

    /// <summary>Runs to the end. Called again after it was stopped, it goes on where it was; after its end, its result is told again.</summary>
    /// <exception cref="ArgumentException">The output folder holds what this run must not touch.</exception>
    /// <exception cref="InvalidDataException">A damaged checkpoint.</exception>
    /// <exception cref="InvalidOperationException">The loss is no number any more, or there is nothing to train.</exception>
    public TrainResult Run(CancellationToken cancel = default)
    {
        if (_model.AllTrainable.Count == 0) throw new InvalidOperationException("nothing to train: the model has no adapter and no weight is set to train");
        if (_end is { } finished)
        {
            OnNote?.Invoke($"this run is finished, its result is in {_settings.OutputDir}; open it anew to train again");
            return finished;
        }
        string? Start() => _hasMoved ? Checkpoints.Newest(_settings.OutputDir) : RunStart.Choose(_settings);
        Start(); // what is refused makes no folder
        using var held = Ranks.IsFirst() ? FolderLock.Inside(_settings.OutputDir, "a training run", "output_dir") : null;
        var from = Start();
        RequireSame(from);
        if (_hasMoved && from is null)
            throw new InvalidOperationException("the run broke off before its first checkpoint, and its weights have changed; open it anew");
        try
        {
            return RunFrom(from, cancel);
        }
        catch (KtNativeException failed) when (CudaDevice.FindLost() is { } card) // asked before anything is disposed on the way here
        {
            throw GpuLostException.During(card, $"in {_step}, {_part}", failed, $"{Saved()}. ");
        }
        catch (InsufficientMemoryException full)
        {
            throw new InsufficientMemoryException($"{_step}, {_part}: {full.Message}. {Saved()}", full);
        }
    }

    /// <summary>Who hears the run's values beside its own log.</summary>
    private IEnumerable<ITracker> Trackers()
    {
        if (_settings.EventFolder is { } folder) yield return new EventFile(folder);
        if (_settings.ReportsToMlflow)
            yield return Mlflow.Open(_settings.OutputDir, [.. from v in Identity?.Config ?? [] where v.Value is not null select (v.Key, v.Value.ToString())],
                note => OnNote?.Invoke(note));
    }

    /// <summary>Settings, rows, weights and checkpoint are those of the other ranks.</summary>
    private void RequireSame(string? from)
    {
        if (Ranks.World == 1) return;
        SameRun.Require(Ranks, [
            ("the build of kt", SameRun.Code), .. Identity?.Facts ?? [], ("the type of weights", _model.Type.ToString()),
            ("the device of layer 0", _model.Stages[0].Device.Kind.ToString()),
            ("the checkpoint to go on from", from is null ? "none" : $"{Path.GetFileName(from)} {Checkpoints.Fingerprint(from)}"),
        ]);
    }

    /// <summary>What a run that breaks off leaves.</summary>
    private string Saved() => Checkpoints.Newest(_settings.OutputDir) is { } folder && LoadWeights is not null
        ? $"The same command{(_settings.Overwrite ? " with overwrite_output_dir=false" : "")} goes on from {folder}"
        : "Nothing is saved yet: the same command starts over (save_steps says how often a run saves)";

    private TrainResult RunFrom(string? from, CancellationToken cancel)
    {
        var state = new TrainerState();
        if (from is not null)
        {
            if (LoadWeights is null) throw new InvalidOperationException($"{from} is there, but this run cannot go on from checkpoints");
            state = TrainerState.Read(from);
            if (state.Step > _windows.TotalSteps)
                throw new ArgumentException($"{from} is beyond the {_windows.TotalSteps} steps of this run; {RunStart.Otherwise}");
            if (Identity?.Compare(from, _settings.ResumeFrom.IsExplicit) is { } note) OnNote?.Invoke(note);
            Checkpoints.RequireOptimizer(from);
            LoadWeights(from);
            if (Broken() is { } broken)
                throw new InvalidDataException($"{from}: tensor '{broken}' holds NaN or infinities; remove {from} to go on from an earlier checkpoint");
        }
        var parameters = _model.AllTrainable;
        using var optimizer = _settings.Optimizing.Make(parameters, device => Memory.GetValueOrDefault(device).MomentsOnHost);
        if (from is not null) Checkpoints.RestoreOptimizer(from, optimizer, state.Step);
        if (parameters.Count > 0 && Ranks.Prepare(parameters[0].Tensor.Device) is { } carrier) OnNote?.Invoke(carrier);
        Ranks.Barrier();
        if (Ranks.IsFirst() && !_settings.Overwrite) RequireRoom(parameters, optimizer);
        // Only now, when all of the checkpoint has been found to be good, anything is touched.
        if (Ranks.IsFirst()) RunStart.Clear(_settings.OutputDir, from);
        using var log = Ranks.IsFirst() ? new TrainerLog(_settings.OutputDir, state, [.. Trackers()], note => OnNote?.Invoke(note)) : null;
        if (from is not null) OnNote?.Invoke($"resumed from {from} at step {state.Step} of {_windows.TotalSteps}");
        return Loop(log, state, optimizer, parameters, cancel);
    }

    /// <summary>For a checkpoint, or for the result where none is saved: a run of hours must not learn at its first save that there is none.</summary>
    private void RequireRoom(IReadOnlyList<Parameter> parameters, IOptimizer optimizer)
    {
        static long Bytes(Tensor tensor) => tensor.Count * tensor.Type.Size();
        var moments = _saves.Never || _settings.SaveOnlyModel ? 0 : optimizer.State.Sum(s => Bytes(s.Tensor));
        AtomicFile.RequireSpace(_settings.OutputDir, parameters.Sum(p => Bytes(p.Tensor)) + moments);
    }

    private TrainResult Loop(TrainerLog? log, TrainerState state, IOptimizer optimizer, IReadOnlyList<Parameter> parameters, CancellationToken cancel)
    {
        var (first, total) = (state.Step, _windows.TotalSteps);
        _steps.RemoveAll(done => done.Step > first); // what is done again since the checkpoint
        _measured.RemoveAll(done => done.Step > first);
        var schedule = new LearningRate(_settings.Schedule, _settings.LearningRate, _settings.WarmupOf(total), total) { Settings = _settings.ScheduleDetails };
        long KeptOn(Device device) => Memory.TryGetValue(device, out var m) ? m.KeptBytes : 0;
        long SavedOn(Device device) => Memory.TryGetValue(device, out var m) ? m.SavedBytes : long.MaxValue;
        var step = new LayerMajorStep(_model, _settings.ChunkRows, savedBytes: SavedOn)
        {
            OnPart = Follow,
            Objective = Objective,
            Noise = _settings.Noise,
            Balance = _settings.Balance,
            BalancesSequences = _settings.BalancesSequences,
            RouterZ = _settings.RouterZ,
            LogsRouting = _settings.LogsRouting,
            KeepsActivations = _settings.Memory.KeepsActivations,
            KeptBytes = KeptOn,
        };
        if (step.Devices.Count > 1) OnNote?.Invoke($"layers on {string.Join(", ", step.Devices)}; each window in at most {step.Parts} parts");
        var watch = Stopwatch.StartNew();
        var last = new StepReport(first, total, state.Epoch, double.NaN, schedule.At(first), 0, 0, 0, TimeSpan.Zero, TimeSpan.Zero);
        long tokens = 0, rows = 0;
        var sinceLog = 0.0;
        Dictionary<string, (double Sum, int Steps)> metrics = []; // since the log's last line, of the steps that had them
        Evaluation? evaluation = null;
        var logged = first;
        var waiting = new WaitingShares(Ranks);
        var interrupted = _evaluation is not null && _settings.EvalOnStart && first == 0 && (evaluation = Evaluate(step, log, last, cancel)) is null;
        // A run that was stopped in an evaluation makes it now, so that it goes on as if it had not been.
        if (first > 0 && first < total && _evaluation is not null && _evaluations.AreAt(first, state.Epoch) && !state.HasMeasured(first))
        {
            interrupted = (evaluation = Evaluate(step, log, last, cancel)) is null;
            if (!interrupted) state.Measured(_settings.Best.Of(evaluation!.Loss), _settings.Best);
            if (!interrupted && _saves.AreAt(first, state.Epoch)) Offer(state, evaluation!.Loss);
        }
        for (var s = first; s < total && !interrupted && !IsPatienceOver(state, total); s++)
        {
            TokenBatch batch;
            double epoch;
            WindowShare share;
            WindowLoss window;
            TimeSpan began;
            try
            {
                (batch, epoch) = _windows.At(s, Stop(cancel));
                _step = $"step {s + 1} of {total} ({batch.Tokens:N0} tokens)";
                (share, began) = (step.ShareOf(Ranks, batch), watch.Elapsed);
                window = step.Learn(share, DropoutMask.Mix(_settings.Seed ^ (ulong)s), Stop(cancel));
            }
            catch (OperationCanceledException)
            {
                DropGradients(parameters);
                interrupted = true;
                break;
            }
            _part = "optimizer";
            var loss = window.Loss;
            var norm = Gradients.Norm(parameters);
            if (!double.IsFinite(loss) || !double.IsFinite(norm))
            {
                var where = step.FindBroken(share.Rows, parameters);
                DropGradients(parameters);
                throw Diverged($"step {s + 1}: the loss is {loss} and the gradient norm {norm}; {where}", untrained: !_hasMoved && s == first);
            }
            _hasMoved = true;
            optimizer.Step(schedule.At(s), Gradients.ClipScale(norm, _settings.MaxGradientNorm));
            (tokens, rows, sinceLog) = (tokens + batch.Tokens, rows + batch.Sequences, sinceLog + loss);
            var elapsed = watch.Elapsed;
            last = new StepReport(s + 1, total, epoch, loss, schedule.At(s + 1), norm, batch.Tokens, tokens / elapsed.TotalSeconds, elapsed,
                elapsed / (s + 1 - first) * (total - s - 1))
            {
                Metrics = window.Metrics,
                Loads = window.Loads,
            };
            foreach (var (name, value) in window.Metrics)
                metrics[name] = (metrics.GetValueOrDefault(name).Sum + value, metrics.GetValueOrDefault(name).Steps + 1);
            state.Advance(last);
            if (Ranks.World > 1) interrupted = ShareNews(step.OwnTime, watch.Elapsed - began, waiting, cancel) && s + 1 < total;
            if (_logs.AreAt(s + 1, epoch) || (s == 0 && _settings.LogFirstStep))
            {
                var steps = s + 1 - logged;
                log?.Loss(last, sinceLog / steps, [.. metrics.Select(m => (m.Key, m.Value.Sum / m.Value.Steps)), .. Waiting(waiting)]);
                (sinceLog, logged) = (0, s + 1);
                metrics.Clear();
            }
            _steps.Add(last with { Loads = WindowLoss.NoLoads });
            OnStep?.Invoke(last);
            // The last step's evaluation and checkpoint are of the run like any other's: it can be the best, and a longer run can go on from it.
            var measure = _evaluation is not null && !interrupted && (s + 1 == total || _evaluations.AreAt(s + 1, epoch));
            if (measure) interrupted = (evaluation = Evaluate(step, log, last, cancel)) is null;
            if (measure && !interrupted) state.Measured(_settings.Best.Of(evaluation!.Loss), _settings.Best);
            try
            {
                if (!interrupted && _saves.AreAt(s + 1, epoch)) Save(state, optimizer, measure ? evaluation!.Loss : null, whole: !_settings.SaveOnlyModel);
            }
            catch (IOException full) when (s + 1 == total) // the result, which follows, needs a third of the room
            {
                OnNote?.Invoke($"{full.Message}. The run ends without its last checkpoint");
            }
        }
        // A run that goes on where nothing but its end is missing has not measured what it ends with.
        if (!interrupted && _evaluation is not null && evaluation?.Step != state.Step)
            interrupted = (evaluation = Evaluate(step, log, last, cancel)) is null;
        if (interrupted && state.Step > first) Save(state, optimizer, null, whole: true);
        if (!interrupted && _settings.LoadBestAtEnd && TakeBest(state, evaluation!.Loss))
            evaluation = evaluation with
            {
                Loss = _settings.Best.Metric == "loss" ? new WindowLoss(state.Best!.Value) : step.Measure(step.ShareOf(Ranks, _evaluation!), Stop(cancel)),
            };
        var result = new TrainResult(state.Step, total, state.MeanLoss, last.Loss, evaluation?.Loss.Loss, tokens / watch.Elapsed.TotalSeconds, watch.Elapsed,
            interrupted);
        if (state.Step == 0) return result; // nothing is learned, nothing is written
        if (Broken() is { } broken) throw Diverged($"after step {state.Step} '{broken}' holds NaN or infinities");
        if (!interrupted) _end = result;
        if (log is null) return result;
        RunStart.Replace(_settings.OutputDir, _saveWeights);
        if (state.Step > first || !interrupted) log.End(last);
        if (!interrupted) log.Finish();
        if (interrupted) state.Write(_settings.OutputDir, _shape);
        else Finish(result, state, state.Step - first, rows, evaluation);
        return result;
    }

    /// <summary>One rank alone stops at once; of several none must stop where another waits for it.</summary>
    private CancellationToken Stop(CancellationToken cancel) => Ranks.World == 1 ? cancel : CancellationToken.None;

    /// <summary>What ranks tell each other after a step; true when one of them was told to stop.</summary>
    private bool ShareNews(TimeSpan own, TimeSpan step, WaitingShares waiting, CancellationToken cancel)
    {
        var all = Ranks.AllGather([own.TotalSeconds, cancel.IsCancellationRequested ? 1 : 0]);
        waiting.Add([.. all.Select(rank => rank[0])], step.TotalSeconds);
        return all.Any(rank => rank[1] != 0);
    }

    /// <summary>The share of the time since the log's last line in which each rank waited for the slowest one; a rank that is much slower is named.</summary>
    private IEnumerable<(string Name, double Value)> Waiting(WaitingShares waiting)
    {
        const int Each = 16; // of more ranks than that the log has the extremes
        if (Ranks.World == 1) return [];
        var (shares, slowest) = waiting.Take();
        var isSlow = shares.Order().ElementAt(shares.Length / 2) > SlowShare;
        _slow = (isSlow ? slowest : -1, isSlow && slowest == _slow.Rank ? _slow.Lines + 1 : 1);
        if (isSlow && _slow.Lines == SlowLines)
            OnNote?.Invoke($"{Ranks.Name(slowest)} is slow: the others wait for it, up to {shares.Max():P0} of the time");
        return shares.Length <= Each ? shares.Select((share, rank) => ($"waiting/rank_{rank}", Math.Round(share, 4)))
            : [("waiting/most", Math.Round(shares.Max(), 4)), ("waiting/mean", Math.Round(shares.Average(), 4)), ("waiting/slowest_rank", slowest)];
    }

    /// <summary>Of several cards the one that began something last: a thread that waits for another says nothing.</summary>
    private void Follow(StepMark mark)
    {
        if (mark.Work is StepWork.Over or StepWork.Waiting) return;
        var work = mark.Work.ToString().ToLowerInvariant();
        _part = mark.Stage < 0 ? work : $"{work} of layer {mark.Layer}";
    }

    /// <summary>The loss of the held-out rows after a step; null when cancelled.</summary>
    private Evaluation? Evaluate(LayerMajorStep step, TrainerLog? log, StepReport report, CancellationToken cancel)
    {
        _part = "evaluation after it";
        var watch = Stopwatch.StartNew();
        WindowLoss loss;
        try
        {
            loss = step.Measure(step.ShareOf(Ranks, _evaluation!), Stop(cancel));
        }
        catch (OperationCanceledException)
        {
            return null;
        }
        if (!double.IsFinite(loss.Loss)) throw Diverged($"after step {report.Step}: the loss of the held-out rows is {loss.Loss}");
        log?.Evaluation(report, loss);
        _measured.Add((report.Step, loss.Loss));
        OnEvaluation?.Invoke(report.Step, loss.Loss);
        return new Evaluation(report.Step, loss, watch.Elapsed);
    }

    /// <summary>The checkpoint of this step may be the best.</summary>
    private void Offer(TrainerState state, WindowLoss evaluation) => state.Offer(
        new BestCheckpoint(_settings.Best.Of(evaluation), state.Step, Path.Combine(_settings.OutputDir, $"checkpoint-{state.Step}")), _settings.Best);

    /// <summary>So many evaluations in a row were no better, and steps are left.</summary>
    private bool IsPatienceOver(TrainerState state, int total)
    {
        if (_settings.Patience is not { } patience || state.Evaluated.Since < patience || state.Step == total) return false;
        OnNote?.Invoke($"stopped after step {state.Step}: {patience} evaluations in a row were no better than {state.Evaluated.Value:G6} "
            + "(early_stopping_steps)");
        return true;
    }

    private void Save(TrainerState state, IOptimizer optimizer, WindowLoss? evaluation, bool whole)
    {
        _part = "saving after it";
        if ((Broken() ?? Finite.FirstBroken(optimizer.State)) is { } broken) throw Diverged($"after step {state.Step} '{broken}' holds NaN or infinities");
        if (evaluation is not null) Offer(state, evaluation);
        if (!Ranks.IsFirst()) return;
        var folder = Checkpoints.Write(_settings.OutputDir, state.Step, target =>
        {
            _saveWeights(target);
            Identity?.Write(target);
            state.Write(target, _shape);
            if (whole) Checkpoints.WriteOptimizer(target, optimizer);
        });
        OnNote?.Invoke($"saved {folder}");
        if (_settings.SaveTotalLimit is > 0 and var limit) Checkpoints.Limit(_settings.OutputDir, limit, _settings.LoadBestAtEnd ? state.Best?.Folder : null);
    }

    /// <summary>Puts the best checkpoint's weights into the model, where they are better than the last ones; true when it did.</summary>
    private bool TakeBest(TrainerState state, WindowLoss measured)
    {
        var atEnd = _settings.Best.Of(measured);
        if (state.Best is not { } best || !_settings.Best.IsBetter(best.Value, atEnd) || best.Step == state.Step) return false;
        if (!Directory.Exists(best.Folder) || LoadWeights is null)
        {
            OnNote?.Invoke($"{best.Folder}, the best of the run, is gone; the weights are those of the last step");
            return false;
        }
        LoadWeights(best.Folder);
        OnNote?.Invoke($"{best.Folder} is the best: eval_{_settings.Best.Metric} {best.Value:F4}, after the last step {atEnd:F4}; its weights are what is "
            + "left");
        return true;
    }

    /// <summary>What a finished run leaves beside its weights.</summary>
    private void Finish(TrainResult result, TrainerState state, int steps, long rows, Evaluation? evaluation)
    {
        var seconds = (result.Elapsed - (evaluation?.Took ?? TimeSpan.Zero)).TotalSeconds;
        double Speed(double count, double time) => Math.Round(count / time, 3);
        (string Name, double Value)[] train =
        [
            ("epoch", state.Epoch), ("total_flos", _shape.FlosOf(state.Tokens)), ("loss", state.MeanLoss), ("runtime", Math.Round(seconds, 4)),
            ("samples_per_second", Speed(rows, seconds)),
            ("steps_per_second", Speed(steps, seconds)), ("num_input_tokens_seen", state.Tokens),
            ("effective_tokens_per_sec", Math.Round(result.TokensPerSecond, 3)),
        ];
        state.Close(train[..6]);
        state.Write(_settings.OutputDir, _shape);
        Complete?.Invoke(result, state);
        if (evaluation is { Loss.Loss: var loss, Took.TotalSeconds: var took })
            ResultsFile.Write(_settings.OutputDir, "eval", [("epoch", state.Epoch), ("loss", loss), ("runtime", Math.Round(took, 4)),
                ("samples_per_second", Speed(_evaluation!.Sequences, took)), ("steps_per_second", Speed(1, took))]);
        ResultsFile.Write(_settings.OutputDir, "train", train); // last of all: this file says that the run is finished
    }

    private string? Broken() => Finite.FirstBroken(_model.AllTrainable.Select(p => (p.Name, p.Tensor)));

    /// <summary>Values that are no numbers end a run: what remains is what was saved before.</summary>
    /// <param name="what">Where, in words.</param>
    /// <param name="untrained">No step of this run has changed a weight: no learning rate can be to blame.</param>
    private InvalidOperationException Diverged(string what, bool untrained = false)
    {
        var newest = Checkpoints.Newest(_settings.OutputDir);
        return new InvalidOperationException($"{what}; " + (untrained ? "nothing was trained before it: look at the weights of the model and the rows of this "
            + "window. " : "lower learning_rate, or look at the rows of this window. ") + (newest is null
            ? "Nothing is saved: start again with the change"
            : $"The last weights that are saved are those of {newest}: start again in another output_dir with the change, from them with "
                + $"{Checkpoints.KeyOf(newest)}={newest}"));
    }

    private static void DropGradients(IReadOnlyList<Parameter> parameters)
    {
        foreach (var parameter in parameters)
        {
            parameter.Tensor.Grad?.Dispose();
            parameter.Tensor.Grad = null;
        }
    }

    /// <summary>Of the held-out rows: after which step, what, and how long it took.</summary>
    private sealed record Evaluation(int Step, WindowLoss Loss, TimeSpan Took);
}
