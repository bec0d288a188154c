using System.Text.Json.Nodes;

using KtNotebooks.Distributed;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;
using KtNotebooks.Training.Objectives;

namespace KtNotebooks.Training;

/// <summary>
/// One rank's share of a window: consecutive sequences, about the same number of tokens for each rank; none where a window has fewer than there are ranks. The
/// rows keep the weights and the numbers that they have in the window, so that the ranks' losses and gradients add up to those of one rank.
/// </summary>
/// <param name="ranks">All of them take their shares of the same window.</param>
/// <param name="window">Of all ranks.</param>
/// <param name="together">Sequences that stay on one rank (<see cref="ITrainingObjective.Together"/>).</param>
public sealed class WindowShare(ICollective ranks, TokenBatch window, int together)
{
    public ICollective Ranks => ranks;

    public TokenBatch Window => window;

    /// <summary>What this rank computes.</summary>
    public TokenBatch Rows { get; } = Of(window, together, ranks.Rank, ranks.World);

    /// <summary>An objective that weighs a window as a whole shows its pairs to it, which stay together in any case.</summary>
    public static int Unit(ITrainingObjective? objective) => objective is null ? 1
        : objective.Together == ITrainingObjective.WholeWindow ? 2 : objective.Together;

    /// <summary>
    /// The objective must see the rows of all ranks to weigh those of one; its loss and metrics are the window's then, and the same on every rank.
    /// </summary>
    public bool IsWeighedWhole(ITrainingObjective objective) => ranks.World > 1 && objective?.Together == ITrainingObjective.WholeWindow;

    /// <summary>The scores of all rows of the window, from every rank's own.</summary>
    public PartScores Join(PartScores own)
    {
        ArgumentNullException.ThrowIfNull(own);
        return new PartScores(ranks.Join(own.Policy), ranks.Join(own.Reference), ranks.Join(own.Entropies));
    }

    /// <summary>Loss and metrics of the window, from those of every rank's rows: their sums in the order of the ranks.</summary>
    public WindowLoss Add(WindowLoss own)
    {
        ArgumentNullException.ThrowIfNull(own);
        if (ranks.World == 1) return own;
        var text = new JsonObject { ["loss"] = Bits(own.Loss) };
        foreach (var (name, value) in own.Metrics) text["m:" + name] = Bits(value);
        var (loss, metrics) = (0.0, new Dictionary<string, double>());
        foreach (var line in ranks.AllGather(text.ToJsonString()))
            foreach (var (name, value) in JsonNode.Parse(line)!.AsObject())
            {
                var number = BitConverter.Int64BitsToDouble(value!.GetValue<long>());
                if (name == "loss") loss += number;
                else metrics[name[2..]] = metrics.GetValueOrDefault(name[2..]) + number;
            }
        return new WindowLoss(loss) { Metrics = metrics };

        static long Bits(double value) => BitConverter.DoubleToInt64Bits(value); // JSON has no NaN
    }

    /// <summary>The sequences of a rank.</summary>
    internal static TokenBatch Of(TokenBatch window, int together, int rank, int world)
    {
        if (world == 1) return window;
        int[] starts = [.. window.SeqStarts.Where((_, i) => i % together == 0 || i == window.Sequences)];
        int At(int cut) => Math.Min(window.Sequences, cut * together);
        return window.Stretch(At(Cut(starts, rank, world)), At(Cut(starts, rank + 1, world)));
    }

    /// <summary>Where the share of a rank begins: the start nearest to its part of the rows that leaves every rank something, while there is enough.</summary>
    private static int Cut(int[] starts, int rank, int world)
    {
        var (units, cut) = (starts.Length - 1, 0);
        for (var r = 1; r <= rank && cut < units; r++)
        {
            if (r == world) return units;
            var wanted = (long)starts[^1] * r / world;
            var (least, most) = (Math.Min(units, cut + 1), Math.Max(Math.Min(units, cut + 1), units - (world - r)));
            var best = least;
            for (var c = least; c <= most; c++)
                if (Math.Abs(starts[c] - wanted) < Math.Abs(starts[best] - wanted)) best = c;
            cut = best;
        }
        return cut;
    }
}

/// <summary>
/// The sums of a step's gradients over the ranks. What a stage trains is begun when backward has left it, so that most of it travels while the stages below
/// are computed; the rest at the end. Parameters that got no gradient here get zeros: another rank may have one.
/// </summary>
internal sealed class GradientExchange(ICollective ranks, IReadOnlyList<Parameter> all)
{
    private readonly HashSet<Tensor> _begun = [];

    /// <summary>
    /// Backward has left a stage. Where layers lie on several cards, each with its thread, ranks would not begin in the same order; and what a card's layer
    /// keeps in host memory is still on its way there.
    /// </summary>
    public void Begin(StageWork work, int stage)
    {
        var device = work.Devices[stage];
        if (ranks.World > 1 && work.Devices.All(d => d == device)) Begin(work.TrainableOf(stage).Where(p => p.Tensor.Device == device));
    }

    /// <summary>The gradients of these are whole.</summary>
    private void Begin(IEnumerable<Parameter> parameters)
    {
        if (ranks.World == 1) return;
        List<Tensor> gradients = [];
        foreach (var (_, tensor) in parameters)
            if (_begun.Add(tensor)) gradients.Add(tensor.Grad ??= Tensor.Zeros(DType.F32, tensor.Device, tensor.Shape));
        ranks.StartSum(gradients);
    }

    /// <summary>All that is left, and waits for all.</summary>
    public void Finish()
    {
        if (ranks.World == 1) return;
        Begin(all);
        ranks.Finish();
        _begun.Clear();
    }
}

/// <summary>How long ranks wait for the slowest one: shares of the steps since the last look.</summary>
internal sealed class WaitingShares(ICollective ranks)
{
    private readonly double[] _busy = new double[ranks.World];
    private double _all;

    /// <param name="busy">Of every rank: seconds until its own gradients were there.</param>
    /// <param name="step">Seconds of the whole step.</param>
    public void Add(IReadOnlyList<double> busy, double step)
    {
        for (var r = 0; r < _busy.Length; r++) _busy[r] += busy[r];
        _all += step;
    }

    /// <summary>Of every rank, and who is waited for; begins anew.</summary>
    public (double[] Shares, int Slowest) Take()
    {
        double[] shares = [.. _busy.Select(b => _all <= 0 ? 0 : Math.Max(0, _busy.Max() - b) / _all)];
        var slowest = Array.IndexOf(_busy, _busy.Max());
        Array.Clear(_busy);
        _all = 0;
        return (shares, slowest);
    }
}
