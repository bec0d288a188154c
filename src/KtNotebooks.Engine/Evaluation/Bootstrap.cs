using KtNotebooks.Tensors;

namespace KtNotebooks.Evaluation;

/// <summary>A mean with its 95 % interval.</summary>
public readonly record struct Estimate(double Mean, double Low, double High)
{
    public override string ToString() => $"{Mean:F2} [{Low:F2}, {High:F2}]";
}

/// <summary>
/// Percentile bootstrap (Efron 1979) of a mean: rows are drawn with repeats, as many as there are, 2,000 times; the interval is what the middle 95 % of the
/// means span. It says how much the result hangs on which rows happened to be in the test set, not how much another training seed would change it. The same
/// seed gives the same interval.
/// </summary>
public static class Bootstrap
{
    private const int Resamples = 2000;

    public static Estimate Mean(IReadOnlyList<double> values, ulong seed = 42)
    {
        ArgumentNullException.ThrowIfNull(values);
        if (values.Count == 0) throw new ArgumentException("there are no values to average");
        var random = new NormalRandom(seed, "bootstrap");
        var means = new double[Resamples];
        for (var r = 0; r < Resamples; r++)
        {
            double sum = 0;
            for (var i = 0; i < values.Count; i++) sum += values[(int)(random.Uniform() * values.Count)];
            means[r] = sum / values.Count;
        }
        Array.Sort(means);
        return new Estimate(values.Average(), means[(int)(0.025 * Resamples)], means[(int)(0.975 * Resamples) - 1]);
    }
}
