namespace KtNotebooks.Training;

/// <summary>What the best evaluation is by: metric_for_best_model and greater_is_better.</summary>
/// <param name="Metric">`loss`, or a metric of the stage as rewards/accuracies.</param>
/// <param name="IsGreater">Greater is better.</param>
public sealed record Best(string Metric = "loss", bool IsGreater = false)
{
    /// <summary>Its value in an evaluation.</summary>
    /// <exception cref="ArgumentException">The stage does not report it.</exception>
    public double Of(WindowLoss measured)
    {
        ArgumentNullException.ThrowIfNull(measured);
        return Metric == "loss" ? measured.Loss : measured.Metrics.TryGetValue(Metric, out var value) ? value
            : throw new ArgumentException("metric_for_best_model must be "
                + $"{string.Join(", ", measured.Metrics.Keys.Order(StringComparer.Ordinal).Prepend("loss"))} for this stage, but is '{Metric}'");
    }

    /// <summary>Null: nothing yet.</summary>
    public bool IsBetter(double value, double? than) => than is not { } other || (IsGreater ? value > other : value < other);
}
