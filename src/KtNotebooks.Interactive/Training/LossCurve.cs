namespace KtNotebooks.Interactive;

/// <summary>The smoothing of LLaMA-Factory's loss plots.</summary>
public static class LossCurve
{
    /// <summary>
    /// Exponential moving average that starts at the first value: s = w·s + (1 − w)·x. The weight grows with the number of points n,
    /// w = 1.8·(σ(0.05·n) − 0.5), from 0.22 at ten to 0.9. A value that is not finite repeats the average so far instead of poisoning all that follow.
    /// </summary>
    public static double[] Smooth(IReadOnlyList<double> values)
    {
        ArgumentNullException.ThrowIfNull(values);
        var weight = Weight(values.Count);
        var smoothed = new double[values.Count];
        var average = double.NaN;
        for (var i = 0; i < smoothed.Length; i++)
        {
            if (double.IsFinite(values[i])) average = double.IsNaN(average) ? values[i] : weight * average + (1 - weight) * values[i];
            smoothed[i] = average;
        }
        return smoothed;
    }

    /// <summary>w(n): 0.220427 at 10, 0.763455 at 50, 0.887953 at 100.</summary>
    public static double Weight(int points) => 1.8 * (1 / (1 + Math.Exp(-0.05 * points)) - 0.5);
}
