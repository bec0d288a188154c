using System.Diagnostics;

using KtNotebooks.Distributed;
using KtNotebooks.Experts;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;
using KtNotebooks.Training.Objectives;

namespace KtNotebooks.Training;

/// <summary>
/// Loss and gradients of a whole accumulation window, layer-major (DESIGN section 2): every stage sees all T rows once forward and once backward, so a
/// layer's weights are read twice a step whatever the window. Forward keeps each stage's input [T, D]; backward recomputes a stage from it under a tape and
/// walks straight back, unless there was room to keep the whole pass (<see cref="KeptPasses"/>). Where layers lie on several cards the window is cut into
/// parts, which follow each other through the layers, so that the cards work at once (<see cref="StepSchedule"/>).
/// </summary>
/// <param name="chunkRows">Rows that a stage works on at a time.</param>
/// <param name="headRows">Rows of logits at a time.</param>
/// <param name="savedBytes">Bytes of stage inputs that may stay on a card; the others wait in pinned host memory. Null: all stay.</param>
/// <param name="parts">Of the window at most; null: see <see cref="Parts"/>.</param>
public sealed class LayerMajorStep(CausalLm model, int chunkRows = 8192, int headRows = LayerMajorStep.HeadRows, Func<Device, long>? savedBytes = null,
    int? parts = null)
{
    /// <summary>Rows of logits at a time.</summary>
    public const int HeadRows = 1024;

    private readonly StageWork _work = new(model, chunkRows, headRows);
    private readonly ITrainingObjective? _objective;

    /// <summary>Called before each part of the work is queued, from the thread of its device.</summary>
    public Action<StepMark>? OnPart { get; set; }

    /// <summary>What weighs the rows of a window; null: they weigh as the window says.</summary>
    public ITrainingObjective? Objective
    {
        get => _objective;
        init
        {
            _objective = value is { Needs: Scores.None } ? null : value;
            _work.HasDropout = value?.HasDropout ?? true;
        }
    }

    /// <summary>neftune_noise_alpha; 0: none.</summary>
    public double Noise
    {
        get => _work.Noise;
        init => _work.Noise = value;
    }

    /// <summary>moe_aux_loss_coef: of the routers' balance loss, which is no part of the loss that is reported; 0: none.</summary>
    public double Balance { get; init; }

    /// <summary>moe_aux_loss_form: sequence; else pooled.</summary>
    public bool BalancesSequences { get; init; }

    /// <summary>router_z_loss_coef, likewise; 0: none.</summary>
    public double RouterZ { get; init; }

    /// <summary>kt_cpu_activation: retain. Experts on the CPU keep g and u of every row of the window; else they are computed again.</summary>
    public bool KeepsActivations { get; init; }

    /// <summary>
    /// kept_activations: bytes of a device in which stages may leave their whole forward pass for backward; 0: all is computed again. The numbers are the
    /// same.
    /// </summary>
    public Func<Device, long> KeptBytes { get; init; } = _ => 0;

    /// <summary>Of the last step: stages' passes that backward did not compute again.</summary>
    internal int KeptPassesFound { get; private set; }

    /// <summary>What routers choose is reported beside the loss, as <see cref="RoutingStep.Metrics"/>.</summary>
    public bool LogsRouting { get; init; }

    /// <summary>In words, where a window whose loss or gradients are no numbers begins to be so; asked while the gradients are there.</summary>
    internal string FindBroken(TokenBatch batch, IReadOnlyList<Parameter> trained) =>
        batch.Tokens == 0 ? "it begins in the rows of another rank" : BrokenWindow.Find(_work, batch, trained);

    /// <summary>The devices of the stages.</summary>
    public IReadOnlyList<Device> Devices => [.. _work.Devices.Distinct()];

    /// <summary>
    /// Parts of a window: one a card where each has a range of layers, two where layers lie on the cards in turn (23 layers of DeepSeek-V3 on four H200 take
    /// 2,184, 2,263 and 2,366 ms with two, three and four: what a part waits for is soon less than what more parts cost); but one alone where a bank of
    /// experts is then larger than the slots through which it streams: every part would bring the bank anew, while with one part each bus has the time of
    /// all cards' layers for it.
    /// </summary>
    public int Parts
    {
        get
        {
            if (Balance > 0 || RouterZ > 0) return 1; // the loss is of all layers and tokens, and its slopes must be known before the first layer goes back
            if (parts is { } given) return given;
            var cards = Devices.Count(d => d.Kind == DeviceKind.Cuda);
            if (cards < 2) return 1;
            bool IsTooLarge(ExpertBank bank) => bank.Stream is { } stream && bank.StoredBytes > stream.Bytes;
            var runs = new StepSchedule(_work.Devices, [0], 1, 0).Runs.Select(run => _work.BanksOf(run).ToList()).ToList();
            if (runs.Any(banks => banks.Count == 1 && IsTooLarge(banks[0]))) return 1;
            return runs.Any(banks => banks.Count > 1) ? cards : 2;
        }
    }

    /// <summary>
    /// Forward, loss and backward; gradients are added to the parameters' Grad. Stops between chunks when cancelled, leaving the gradients to be dropped.
    /// </summary>
    /// <returns>Σ weight · cross-entropy, or the objective's loss.</returns>
    public double Run(TokenBatch batch, ulong dropoutKey = 0, CancellationToken cancel = default) => Learn(batch, dropoutKey, cancel).Loss;

    /// <inheritdoc cref="Run"/>
    /// <returns>The loss, and what the objective reports beside it.</returns>
    public WindowLoss Learn(TokenBatch batch, ulong dropoutKey = 0, CancellationToken cancel = default) =>
        Learn(ShareOf(SingleRank.Instance, batch), dropoutKey, cancel);

    /// <summary>A window that the objective's sequences are shared out of.</summary>
    public WindowShare ShareOf(ICollective ranks, TokenBatch window) => new(ranks, window, WindowShare.Unit(Objective));

    /// <summary>
    /// The same of a window of all ranks, of which this one computes its share: loss and gradients are the window's when it returns, and the same on all.
    /// </summary>
    public WindowLoss Learn(WindowShare share, ulong dropoutKey = 0, CancellationToken cancel = default)
    {
        ArgumentNullException.ThrowIfNull(share);
        var began = Stopwatch.GetTimestamp();
        var exchange = new GradientExchange(share.Ranks, share.Ranks.World == 1 ? [] : model.AllTrainable);
        _work.Routing = Balance > 0 || RouterZ > 0 || LogsRouting ? new RoutingStep(Balance, share.Window.Tokens, RouterZ)
        {
            SeqStarts = BalancesSequences ? share.Rows.SeqStarts : null,
        } : null;
        using var kept = KeepsActivations ? new KeptStates() : null;
        _work.Kept = kept;
        var passes = Devices.Where(d => KeptBytes(d) > 0).ToDictionary(d => d, d => new KeptPasses(d, KeptBytes(d)));
        WindowLoss own;
        try
        {
            foreach (var (device, waiting) in passes) OnFull(device, waiting.GiveUp);
            _work.Passes = passes;
            own = share.Rows.Sequences == 0 ? LearnNothing(share, exchange) : LearnRows(share, exchange, dropoutKey, cancel);
            KeptPassesFound = passes.Values.Sum(p => p.Found);
        }
        finally
        {
            _work.Kept = null;
            _work.Passes = new Dictionary<Device, KeptPasses>();
            foreach (var (device, waiting) in passes)
            {
                OnFull(device, null);
                waiting.Dispose();
            }
        }
        OwnTime = Stopwatch.GetElapsedTime(began);
        exchange.Finish();
        var learned = Objective is { } objective && share.IsWeighedWhole(objective) ? own : share.Add(own);
        if (_work.Routing is not { } routing) return learned;
        if (share.Ranks.World > 1 && !routing.HasLoss) routing.Replace(share.Ranks.AllGather(routing.Save()));
        _work.Routing = null;
        return learned with { Metrics = learned.Metrics.Concat(routing.Metrics).ToDictionary(), Loads = routing.Loads };
    }

    /// <summary>Of the last step: until this rank's own gradients were there.</summary>
    public TimeSpan OwnTime { get; private set; }

    private static void OnFull(Device device, Func<bool>? giveUp)
    {
        if (device.Kind == DeviceKind.Cuda) CudaDevice.Get(device.Index).Pool.GiveUp = giveUp;
    }

    private WindowLoss LearnRows(WindowShare share, GradientExchange exchange, ulong dropoutKey, CancellationToken cancel)
    {
        var batch = share.Rows;
        var together = Objective?.Together ?? 1;
        var schedule = new StepSchedule(_work.Devices, [.. batch.SeqStarts.Where((_, i) => i % together == 0 || i == batch.Sequences)], Parts,
            _work.Lowest());
        var computesReference = Objective?.Needs == Scores.PolicyAndReference && batch.Reference.Length == 0;
        Announce([.. computesReference ? ReferenceVisits(batch) : [], .. schedule.Visits()], cancel);
        if (computesReference) OnPart?.Invoke(new StepMark(_work.Devices[0], StepWork.Reference));
        var reference = computesReference ? _work.ReferenceLogProbs(batch, cancel) : batch.Reference;
        using var run = new StepRun(_work, schedule, share, exchange, Objective, reference, dropoutKey, savedBytes, OnPart);
        return run.Run(cancel);
    }

    /// <summary>log p of every row's target by the base without its adapter, [T]; 0 where a row has none. Layer-major, as a step's own.</summary>
    public float[] Reference(TokenBatch batch, CancellationToken cancel = default)
    {
        Announce([.. ReferenceVisits(batch)], cancel);
        return _work.ReferenceLogProbs(batch, cancel);
    }

    private IEnumerable<(int Stage, bool Backward, int Rows)> ReferenceVisits(TokenBatch batch) =>
        Enumerable.Range(0, _work.Devices.Count).Select(i => (i, false, batch.Tokens));

    /// <summary>Tells what streams weights which stages come next.</summary>
    private void Announce(IReadOnlyList<(int Stage, bool Backward, int Rows)> visits, CancellationToken cancel)
    {
        model.Visits?.Plan(visits.Select(visit => visit.Stage), repeated: true, cancel);
        ExpertStreams.Plan([.. visits
            .SelectMany(visit => _work.BanksOf(visit.Stage).Select(bank => new BankVisit(bank, visit.Backward, visit.Rows)))], cancel);
    }

    /// <summary>A rank without rows in this window takes part in what ranks do together, in the order of <see cref="StepRun"/>.</summary>
    private WindowLoss LearnNothing(WindowShare share, GradientExchange exchange)
    {
        _work.JoinRouting(share.Ranks);
        var own = new WindowLoss(0);
        if (Objective is { } objective && share.IsWeighedWhole(objective))
            own = WindowLoss.Of([objective.Weigh(share.Window, share.Join(new PartScores([], [], [])))]);
        for (var i = _work.Devices.Count - 1; i >= _work.Lowest(); i--) exchange.Begin(_work, i);
        return own;
    }

    /// <summary>Σ weight · cross-entropy of a batch, without gradients or dropout.</summary>
    public double Loss(TokenBatch batch, CancellationToken cancel = default) => Measure(batch, cancel).Loss;

    /// <summary>Loss and metrics of a batch, without gradients or dropout.</summary>
    public WindowLoss Measure(TokenBatch batch, CancellationToken cancel = default) => Measure(ShareOf(SingleRank.Instance, batch), cancel);

    /// <summary>The same of rows that are shared out.</summary>
    public WindowLoss Measure(WindowShare share, CancellationToken cancel = default)
    {
        ArgumentNullException.ThrowIfNull(share);
        var batch = share.Rows;
        if (Objective is not { } objective) return share.Add(new WindowLoss(_work.Loss(batch, cancel)));
        var policy = _work.Score(batch, objective.Needs, adapter: null, cancel);
        var reference = batch.Reference.Length > 0 || objective.Needs != Scores.PolicyAndReference ? batch.Reference
            : _work.Score(batch, Scores.Policy, Pass.BaseModel, cancel).Policy;
        return WindowLoss.Of([objective.Weigh(share.Window, share.Join(policy with { Reference = reference }))]);
    }
}
