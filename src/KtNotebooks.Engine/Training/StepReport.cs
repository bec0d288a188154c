using KtNotebooks.Training.Objectives;

namespace KtNotebooks.Training;

/// <summary>What a window comes to.</summary>
/// <param name="Loss">The mean over what the objective counts.</param>
public sealed record WindowLoss(double Loss)
{
    /// <summary>What the objective reports beside the loss, by its name in the logs.</summary>
    public IReadOnlyDictionary<string, double> Metrics { get; init; } = EmptyMetrics;

    /// <summary>By layer: how many routes of the window each expert got; empty unless routing is watched.</summary>
    public IReadOnlyDictionary<string, long[]> Loads { get; init; } = NoLoads;

    internal static IReadOnlyDictionary<string, long[]> NoLoads { get; } = new Dictionary<string, long[]>();

    internal static IReadOnlyDictionary<string, double> EmptyMetrics { get; } = new Dictionary<string, double>();

    /// <summary>The sum of a window's parts.</summary>
    internal static WindowLoss Of(IReadOnlyList<RowWeights> parts)
    {
        var metrics = new Dictionary<string, double>();
        foreach (var part in parts)
            foreach (var (name, value) in part.Metrics) metrics[name] = metrics.GetValueOrDefault(name) + value;
        return new WindowLoss(parts.Sum(part => part.Loss)) { Metrics = metrics };
    }
}

/// <summary>One finished optimizer step.</summary>
/// <param name="Step">Steps done, from 1.</param>
/// <param name="Loss">Of this step's window, before the update; nats a target token.</param>
/// <param name="LearningRate">That the next step will use, as Hugging Face logs it.</param>
/// <param name="GradientNorm">Before clipping.</param>
/// <param name="Tokens">In this window, all sequences.</param>
/// <param name="TokensPerSecond">Mean since the start of this process's run.</param>
public sealed record StepReport(int Step, int TotalSteps, double Epoch, double Loss, double LearningRate, double GradientNorm, int Tokens,
    double TokensPerSecond, TimeSpan Elapsed, TimeSpan Remaining)
{
    /// <inheritdoc cref="WindowLoss.Metrics"/>
    public IReadOnlyDictionary<string, double> Metrics { get; init; } = WindowLoss.EmptyMetrics;

    /// <inheritdoc cref="WindowLoss.Loads"/>
    public IReadOnlyDictionary<string, long[]> Loads { get; init; } = WindowLoss.NoLoads;
}

/// <summary>What a run left behind.</summary>
/// <param name="MeanLoss">Of all steps, those before a resume too.</param>
/// <param name="Interrupted">Cancelled before its last step; what was reached has been saved.</param>
public sealed record TrainResult(int Steps, int TotalSteps, double MeanLoss, double LastLoss, double? EvalLoss, double TokensPerSecond, TimeSpan Elapsed,
    bool Interrupted);
