using KtNotebooks.Data;
using KtNotebooks.Nn;
using KtNotebooks.Training.Objectives;

namespace KtNotebooks.Training;

/// <summary>The batches of a run: step s always gives the same window, so that a resumed run goes on where it was.</summary>
public interface IWindowSource
{
    int TotalSteps { get; }

    /// <summary>Epochs, one that is only begun counted whole.</summary>
    int Epochs { get; }

    /// <summary>Rows of a micro-batch.</summary>
    int BatchSize { get; }

    /// <summary>The accumulation window of step s in [0, TotalSteps), and the epoch reached after it.</summary>
    (TokenBatch Batch, double Epoch) At(int step, CancellationToken cancel = default);
}

/// <summary>
/// The rows of data sets: each epoch in its own order, `batch` sequences a micro-batch and `accumulation` micro-batches a window; the short last window counts.
/// Steps an epoch = ⌈⌈N / batch⌉ / accumulation⌉.
/// </summary>
public sealed class ExampleWindows : IWindowSource
{
    private readonly IReadOnlyList<EncodedExample> _examples;
    private readonly int _batch, _window, _stepsPerEpoch;
    private readonly LossReduction _reduction;
    private readonly int? _seed;
    private readonly ITrainingObjective? _objective;
    private (int Epoch, int[] Order) _order = (-1, []);

    /// <param name="epochs">num_train_epochs.</param>
    /// <param name="maxSteps">max_steps; −1: what the epochs come to.</param>
    /// <param name="seed">Of the order of the rows in each epoch; null: they keep their own (disable_shuffling).</param>
    /// <param name="objective">Says what a mean is over; null: target tokens.</param>
    /// <exception cref="ArgumentException">No examples, or a size without a meaning.</exception>
    public ExampleWindows(IReadOnlyList<EncodedExample> examples, int batch, int accumulation, double epochs, int maxSteps, LossReduction reduction, int? seed,
        ITrainingObjective? objective = null)
    {
        ArgumentNullException.ThrowIfNull(examples);
        if (examples.Count == 0) throw new ArgumentException("the training set has no rows");
        if (batch < 1) throw new ArgumentException($"per_device_train_batch_size must be at least 1, but is {batch}");
        if (accumulation < 1) throw new ArgumentException($"gradient_accumulation_steps must be at least 1, but is {accumulation}");
        if (maxSteps is 0 or < -1) throw new ArgumentException($"max_steps must be positive, or -1 for what num_train_epochs comes to, but is {maxSteps}");
        if (maxSteps < 0 && (!double.IsFinite(epochs) || epochs <= 0))
            throw new ArgumentException(FormattableString.Invariant($"num_train_epochs must be positive, but is {epochs}"));
        (_examples, _reduction, _seed, _objective, BatchSize) = (examples, reduction, seed, objective, batch);
        // No micro-batch and no window has more rows than there are.
        _batch = Math.Min(batch, examples.Count);
        var micro = (int)(((long)examples.Count + _batch - 1) / _batch);
        _window = (int)Math.Min((long)_batch * accumulation, examples.Count);
        _stepsPerEpoch = (int)(((long)micro + accumulation - 1) / accumulation);
        var steps = maxSteps > 0 ? maxSteps : Math.Ceiling(epochs * _stepsPerEpoch);
        if (steps > int.MaxValue)
            throw new ArgumentException(FormattableString.Invariant($"num_train_epochs {epochs} would be {steps:0.00e+00} steps, more than {int.MaxValue}"));
        TotalSteps = (int)steps;
    }

    public int TotalSteps { get; }

    public int Epochs => (TotalSteps - 1) / _stepsPerEpoch + 1;

    public int BatchSize { get; }

    public (TokenBatch Batch, double Epoch) At(int step, CancellationToken cancel = default)
    {
        var (epoch, within) = (step / _stepsPerEpoch, step % _stepsPerEpoch);
        if (_order.Epoch != epoch) _order = (epoch, _seed is { } seed ? EpochOrder.Of(seed, epoch, _examples.Count)
            : [.. Enumerable.Range(0, _examples.Count)]);
        var first = (int)((long)within * _window);
        var window = _order.Order[first..(int)Math.Min((long)first + _window, _order.Order.Length)].Select(i => _examples[i]).ToArray();
        if (window.Sum(e => (long)e.Ids.Length) is > int.MaxValue and var tokens)
            throw new ArgumentException($"one step would have {tokens:N0} tokens, at most {int.MaxValue:N0} are possible; lower "
                + $"per_device_train_batch_size or gradient_accumulation_steps");
        return (Batch(window, _batch, _reduction, _objective), epoch + ((within + 1.0) / _stepsPerEpoch));
    }

    /// <summary>All examples as one batch whose weights make the loss a mean over their targets, or over what else the objective counts.</summary>
    public static TokenBatch Batch(IReadOnlyList<EncodedExample> window, ITrainingObjective? objective = null) =>
        Batch(window, window.Count, LossReduction.Token, objective);

    internal static TokenBatch Batch(IReadOnlyList<EncodedExample> window, int microSize, LossReduction reduction, ITrainingObjective? objective)
    {
        float Targets(IEnumerable<EncodedExample> examples) => (float)examples.Sum(e => (double)e.Weight * (objective?.Count(e) ?? TargetsOf(e)));
        var builder = new TokenBatch.Builder();
        var micros = window.Chunk(Math.Max(1, microSize)).ToArray();
        var all = Targets(window);
        foreach (var micro in micros)
        {
            var targets = reduction == LossReduction.Micro ? Targets(micro) * micros.Length : all;
            foreach (var example in micro) Add(builder, example, targets == 0 ? 0 : example.Weight / targets);
        }
        return builder.Build();
    }

    // Packed rows that may not see each other are sequences; all others are one, whose positions begin anew with each row.
    private static void Add(TokenBatch.Builder builder, EncodedExample example, float weight)
    {
        if (!example.Apart)
        {
            builder.Add(example.Ids, example.Labels, weight, 0, example.Starts, example.Tag, example.Reference);
            return;
        }
        for (var i = 0; i < example.Starts.Length; i++)
        {
            var (from, to) = (example.Starts[i], i + 1 < example.Starts.Length ? example.Starts[i + 1] : example.Ids.Length);
            builder.Add(example.Ids.AsSpan(from..to), example.Labels.AsSpan(from..to), weight, tag: example.Tag,
                reference: example.Reference.Length > 0 ? example.Reference.AsSpan(from..to) : []);
        }
    }

    /// <summary>Positions whose next token is learned: all targets but the first token of a sequence.</summary>
    internal static int TargetsOf(EncodedExample e) =>
        e.Labels.Count(l => l >= 0) - (e.Apart ? e.Starts : [0]).Count(start => start < e.Labels.Length && e.Labels[start] >= 0);
}
