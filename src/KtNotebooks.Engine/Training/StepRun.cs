using System.Runtime.ExceptionServices;

using KtNotebooks.Experts;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;
using KtNotebooks.Training.Objectives;

namespace KtNotebooks.Training;

/// <summary>What is queued from now on, for whoever measures or watches.</summary>
/// <param name="Device">Whose thread says so.</param>
/// <param name="Work">What begins.</param>
/// <param name="Stage">−1 outside the stages.</param>
/// <param name="Part">Number of the window's part.</param>
public readonly record struct StepMark(Device Device, StepWork Work, int Stage = -1, int Part = 0)
{
    /// <summary>A layer is two stages: attention and what follows it.</summary>
    public int Layer => Stage / 2;
}

/// <summary>What a device does in a step. Waiting: for another device; Over: no more.</summary>
public enum StepWork
{
    Reference,
    Embedding,
    Attention,
    Experts,
    Dense,
    Head,
    Waiting,
    Over,
}

/// <summary>
/// One step under way: the tasks of its schedule, the saved inputs of every device and part, and what devices hand to each other. With one part everything
/// runs on the caller's thread; else every device has a thread, because the host waits once a sparse layer and pass for the number of rows of each expert,
/// and must not keep the other cards waiting with it. The first error stops all threads and is thrown when they have ended.
/// </summary>
internal sealed class StepRun : IDisposable
{
    private readonly StageWork _work;
    private readonly StepSchedule _schedule;
    private readonly TokenBatch _batch;
    private readonly ITrainingObjective? _objective;
    private readonly float[] _reference;
    private readonly RowWeights?[] _weighed;
    private readonly float[] _weights; // of the cross-entropy's rows: the window's, or what the objective makes of them part by part
    private readonly WindowShare _share;
    private readonly GradientExchange _exchange;
    private readonly ulong _key;
    private readonly Action<StepMark>? _mark;
    private readonly Dictionary<(Device Device, int Part), SavedInputs> _saved = [];
    private readonly TaskCompletionSource<PeerTransfer>[,] _up, _down; // [run, part]: what a run gets from the one below, and from the one above
    private readonly Tensor?[] _losses, _dEmbedded;

    /// <param name="objective">Weighs the rows when their log-probabilities are known; null: they weigh as the batch says.</param>
    /// <param name="reference">log p of every row's target by the reference; empty where the objective needs none.</param>
    /// <param name="share">The rows of this rank, and the window that they are of.</param>
    /// <param name="exchange">Of the gradients with other ranks.</param>
    public StepRun(StageWork work, StepSchedule schedule, WindowShare share, GradientExchange exchange, ITrainingObjective? objective, float[] reference,
        ulong key, Func<Device, long>? savedBytes, Action<StepMark>? mark)
    {
        var batch = share.Rows;
        (_share, _exchange) = (share, exchange);
        (_objective, _reference, _weighed) = (objective, reference, new RowWeights?[schedule.Parts.Count]);
        _weights = objective is null ? batch.Weights : new float[batch.Tokens];
        (_work, _schedule, _batch, _key, _mark) = (work, schedule, batch, key, mark);
        var (runs, parts) = (schedule.Runs.Count, schedule.Parts.Count);
        foreach (var device in schedule.Devices)
            foreach (var part in schedule.Parts) _saved[(device, part.Number)] = new SavedInputs(savedBytes?.Invoke(device) / parts ?? long.MaxValue);
        (_up, _down) = (new TaskCompletionSource<PeerTransfer>[runs, parts], new TaskCompletionSource<PeerTransfer>[runs, parts]);
        for (var r = 0; r < runs; r++)
            for (var p = 0; p < parts; p++) (_up[r, p], _down[r, p]) = (new(), new());
        (_losses, _dEmbedded) = (new Tensor?[parts], new Tensor?[parts]);
    }

    /// <summary>The window's loss and metrics; gradients are added to the parameters' Grad.</summary>
    public WindowLoss Run(CancellationToken cancel)
    {
        if (_schedule.IsConcurrent) RunOnThreads(cancel);
        else Work(_schedule.Tasks, cancel);
        foreach (var part in _schedule.Parts)
            if (_dEmbedded[part.Number] is { } d) _work.EmbedBackward(_batch, part, d);
        foreach (var device in _schedule.Devices) _mark?.Invoke(new StepMark(device, StepWork.Over));
        if (_objective is not null) return WindowLoss.Of(_weighed!);
        return new WindowLoss(_losses.Sum(losses => losses!.ToFloats().Sum(part => (double)part))); // read last: the cards have worked on until here
    }

    /// <summary>When no thread works any more.</summary>
    public void Dispose()
    {
        foreach (var saved in _saved.Values) saved.Dispose();
        foreach (var slot in _up.Cast<TaskCompletionSource<PeerTransfer>>().Concat(_down.Cast<TaskCompletionSource<PeerTransfer>>()))
            if (slot.Task.IsCompletedSuccessfully) slot.Task.Result.Dispose();
        foreach (var tensor in _losses.Concat(_dEmbedded)) tensor?.Dispose();
    }

    private void RunOnThreads(CancellationToken cancel)
    {
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancel);
        Exception? first = null;
        Thread[] threads = [.. _schedule.Devices.Select(device => new Thread(() =>
        {
            try
            {
                Work(_schedule.Of(device), stop.Token);
            }
            catch (Exception e)
            {
                if (Interlocked.CompareExchange(ref first, e, null) is null) stop.Cancel();
            }
        }) { IsBackground = true, Name = $"training on {device}" })];
        foreach (var thread in threads) thread.Start();
        foreach (var thread in threads) thread.Join();
        if (first is OperationCanceledException) cancel.ThrowIfCancellationRequested();
        if (first is not null) ExceptionDispatchInfo.Throw(first);
    }

    private void Work(IEnumerable<StepTask> tasks, CancellationToken stop)
    {
        List<PeerTransfer> sent = [];
        using var turns = new LoraTurns();
        foreach (var (phase, run, part) in tasks)
        {
            Forget(sent);
            var saved = _saved[(run.Device, part.Number)];
            // A run of one sparse layer keeps its pairs here while all parts pass; of a longer one each layer has a turn for each part, or all would be here.
            var whole = _work.BanksOf(run).Count() == 1;
            if (whole && part.Number == 0) turns.Begin(_work.BanksOf(run), After(run, phase) is { } next ? _work.BanksOf(next) : []);
            var each = whole ? null : turns;
            if (phase == StepPhase.Backward) Descend(run, part, saved, Receive(_down[run.Number, part.Number], run.Device, stop), each, sent, stop);
            else
            {
                Ascend(run, part, saved, each, sent, stop);
                if (phase == StepPhase.Turn)
                {
                    _work.JoinRouting(_share.Ranks);
                    Descend(run, part, saved, Head(part, saved, stop), each, sent, stop);
                }
            }
            if (whole && part.Number == _schedule.Parts.Count - 1) turns.End();
        }
        turns.Settle();
    }

    /// <summary>The run that a card comes to after this one; null: the turn, or the end.</summary>
    private StageRun? After(StageRun run, StepPhase phase)
    {
        var number = run.Number + (phase == StepPhase.Forward ? _schedule.Devices.Count : -_schedule.Devices.Count);
        return number >= 0 && number < _schedule.Runs.Count ? _schedule.Runs[number] : null;
    }

    /// <summary>
    /// A part through the stages of a run, each with a turn of its own where turns are given; the output goes to the next run, or stays on top of the saved
    /// inputs for the head.
    /// </summary>
    private void Ascend(StageRun run, WindowPart part, SavedInputs saved, LoraTurns? turns, List<PeerTransfer> sent, CancellationToken stop)
    {
        if (run.Number > 0) saved.Push(Receive(_up[run.Number, part.Number], run.Device, stop));
        else
        {
            _mark?.Invoke(new StepMark(run.Device, StepWork.Embedding, Part: part.Number));
            saved.Push(_work.Embed(_batch, part, noiseKey: _key));
        }
        // A layer is two stages: the next layer's experts are two further on.
        for (var i = run.First; i < run.End; i++)
        {
            _mark?.Invoke(new StepMark(run.Device, _work.KindOf(i), i, part.Number));
            turns?.Begin(_work.BanksOf(i), i + 2 < run.End ? _work.BanksOf(i + 2) : []);
            var y = _work.Forward(i, saved.Top, _batch, part, _key, stop);
            turns?.End();
            if (i + 1 < run.End || run.Number == _schedule.Runs.Count - 1) saved.Push(y);
            else Send(y, _up[run.Number + 1, part.Number], sent);
        }
    }

    /// <summary>The loss of a part, and its gradient at the last stage's output.</summary>
    private Tensor Head(WindowPart part, SavedInputs saved, CancellationToken stop)
    {
        var hidden = saved.Top;
        _mark?.Invoke(new StepMark(hidden.Device, StepWork.Head, Part: part.Number));
        var d = Tensor.Zeros(hidden.Type, hidden.Device, hidden.Shape);
        try
        {
            if (_objective is not null) Weigh(_objective, hidden, part, stop);
            if (_objective?.Needs == Scores.Values) _work.ValuesBackward(hidden, _batch, _weights, part, d);
            else _losses[part.Number] = _work.Head(hidden, _batch, _weights, part, d, _key, stop);
            saved.Pop();
            return d;
        }
        catch
        {
            d.Dispose();
            throw;
        }
    }

    /// <summary>What the objective makes of a part's log-probabilities.</summary>
    private void Weigh(ITrainingObjective objective, Tensor hidden, WindowPart part, CancellationToken stop)
    {
        var policy = _work.Score(hidden, _batch, part, objective.Needs, _work.HeadPass(_key), stop);
        var (first, last) = (Array.IndexOf(_batch.SeqStarts, part.From), Array.IndexOf(_batch.SeqStarts, part.To));
        policy = policy with { Reference = _reference.Length > 0 ? _reference[part.From..part.To] : [] };
        var whole = _share.IsWeighedWhole(objective);
        var weighed = whole ? objective.Weigh(_share.Window, _share.Join(policy)) : objective.Weigh(_batch.Sequence(first, last), policy);
        (whole ? weighed.Weights.AsSpan(_batch.FirstRow, _batch.Tokens) : weighed.Weights).CopyTo(_weights.AsSpan(part.From));
        _weighed[part.Number] = weighed;
    }

    /// <summary>The gradient of a part back through the stages of a run, as far down as anything is trained. Takes d over.</summary>
    private void Descend(StageRun run, WindowPart part, SavedInputs saved, Tensor d, LoraTurns? turns, List<PeerTransfer> sent, CancellationToken stop)
    {
        try
        {
            for (var i = run.End - 1; i >= Math.Max(run.First, _schedule.Lowest); i--)
            {
                _mark?.Invoke(new StepMark(run.Device, _work.KindOf(i), i, part.Number));
                turns?.Begin(_work.BanksOf(i), i - 2 >= run.First ? _work.BanksOf(i - 2) : []);
                var below = _work.Backward(i, saved.Top, d, _batch, part, _key, stop);
                turns?.End();
                d.Dispose();
                d = below;
                saved.Pop();
                // Gradients that leave by turns are whole when all turns are over.
                if (part.Number == _schedule.Parts.Count - 1) _exchange.Begin(_work, i);
            }
        }
        catch
        {
            d.Dispose();
            throw;
        }
        if (run.First > _schedule.Lowest) Send(d, _down[run.Number - 1, part.Number], sent);
        else if (_work.TrainsEmbedding) _dEmbedded[part.Number] = d;
        else d.Dispose();
    }

    private static void Send(Tensor value, TaskCompletionSource<PeerTransfer> slot, List<PeerTransfer> sent)
    {
        var transfer = new PeerTransfer(value);
        sent.Add(transfer);
        slot.SetResult(transfer);
    }

    private Tensor Receive(TaskCompletionSource<PeerTransfer> slot, Device device, CancellationToken stop)
    {
        if (_schedule.IsConcurrent) _mark?.Invoke(new StepMark(device, StepWork.Waiting));
        slot.Task.Wait(stop);
        return slot.Task.Result.Take(device);
    }

    /// <summary>Frees what the other cards have copied.</summary>
    private static void Forget(List<PeerTransfer> sent)
    {
        foreach (var transfer in sent)
            if (transfer.IsOver) transfer.Dispose();
        sent.RemoveAll(p => p.IsGone);
    }
}
