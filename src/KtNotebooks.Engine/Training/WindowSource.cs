using KtNotebooks.Data;
using KtNotebooks.Nn;

namespace KtNotebooks.Training;

/// <summary>The batches of a run: step s always gives the same window, so that a resumed run goes on where it was.</summary>
public interface IWindowSource
{
    int TotalSteps { get; }

    /// <summary>The accumulation window of step s in [0, TotalSteps), and the epoch reached after it.</summary>
    (TokenBatch Batch, double Epoch) At(int step);
}

/// <summary>
/// Supervised examples: each epoch in its own order, `batch` sequences a micro-batch and `accumulation` micro-batches a window; the short last window counts.
/// Steps an epoch = ⌈⌈N / batch⌉ / accumulation⌉.
/// </summary>
public sealed class ExampleWindows : IWindowSource
{
    private readonly IReadOnlyList<EncodedExample> _examples;
    private readonly int _batch;
    private readonly int _accumulation;
    private readonly LossReduction _reduction;
    private readonly int? _seed;
    private readonly int _stepsPerEpoch;
    private (int Epoch, int[] Order) _order = (-1, []);

    /// <param name="epochs">num_train_epochs.</param>
    /// <param name="maxSteps">max_steps; wins when positive.</param>
    /// <param name="seed">Of the order of the rows in each epoch; null: they keep their own (disable_shuffling).</param>
    /// <exception cref="ArgumentException">No examples, or a size below one.</exception>
    public ExampleWindows(IReadOnlyList<EncodedExample> examples, int batch, int accumulation, double epochs, int maxSteps, LossReduction reduction, int? seed)
    {
        ArgumentNullException.ThrowIfNull(examples);
        if (examples.Count == 0) throw new ArgumentException("the training set has no rows");
        if (batch < 1) throw new ArgumentException($"per_device_train_batch_size must be at least 1, but is {batch}");
        if (accumulation < 1) throw new ArgumentException($"gradient_accumulation_steps must be at least 1, but is {accumulation}");
        (_examples, _batch, _accumulation, _reduction, _seed) = (examples, batch, accumulation, reduction, seed);
        var micro = (examples.Count + batch - 1) / batch;
        _stepsPerEpoch = (micro + accumulation - 1) / accumulation;
        TotalSteps = maxSteps > 0 ? maxSteps : (int)Math.Ceiling(epochs * _stepsPerEpoch);
        if (TotalSteps < 1) throw new ArgumentException($"num_train_epochs must be positive, but is {epochs}");
    }

    public int TotalSteps { get; }

    public (TokenBatch Batch, double Epoch) At(int step)
    {
        var (epoch, within) = (step / _stepsPerEpoch, step % _stepsPerEpoch);
        if (_order.Epoch != epoch) _order = (epoch, _seed is { } seed ? EpochOrder.Of(seed, epoch, _examples.Count) : [.. Enumerable.Range(0, _examples.Count)]);
        var window = _order.Order.Skip(within * _accumulation * _batch).Take(_accumulation * _batch).Select(i => _examples[i]).ToArray();
        return (Batch(window, _batch, _reduction), epoch + ((within + 1.0) / _stepsPerEpoch));
    }

    /// <summary>All examples as one batch whose weights make the loss a mean over their targets.</summary>
    public static TokenBatch Batch(IReadOnlyList<EncodedExample> window) => Batch(window, window.Count, LossReduction.Token);

    private static TokenBatch Batch(IReadOnlyList<EncodedExample> window, int microSize, LossReduction reduction)
    {
        var builder = new TokenBatch.Builder();
        var micros = window.Chunk(Math.Max(1, microSize)).ToArray();
        var all = Targets(window);
        foreach (var micro in micros)
        {
            var targets = reduction == LossReduction.Micro ? Targets(micro) * micros.Length : all;
            foreach (var example in micro) Add(builder, example, targets == 0 ? 0 : 1f / targets);
        }
        return builder.Build();
    }

    // Packed rows that may not see each other are sequences; all others are one, whose positions begin anew with each row.
    private static void Add(TokenBatch.Builder builder, EncodedExample example, float weight)
    {
        if (!example.Apart)
        {
            builder.Add(example.Ids, example.Labels, weight, 0, example.Starts);
            return;
        }
        for (var i = 0; i < example.Starts.Length; i++)
        {
            var (from, to) = (example.Starts[i], i + 1 < example.Starts.Length ? example.Starts[i + 1] : example.Ids.Length);
            builder.Add(example.Ids.AsSpan(from..to), example.Labels.AsSpan(from..to), weight);
        }
    }

    /// <summary>Positions whose next token is learned: all targets but the first token of a sequence.</summary>
    private static int Targets(IEnumerable<EncodedExample> examples) =>
        examples.Sum(e => e.Labels.Count(l => l >= 0) - (e.Apart ? e.Starts : [0]).Count(start => start < e.Labels.Length && e.Labels[start] >= 0));
}
