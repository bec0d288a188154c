namespace KtNotebooks.Training;

/// <summary>One finished optimizer step.</summary>
/// <param name="Step">Steps done, from 1.</param>
/// <param name="Loss">Of this step's window, before the update; nats a target token.</param>
/// <param name="LearningRate">That the next step will use, as Hugging Face logs it.</param>
/// <param name="GradientNorm">Before clipping.</param>
/// <param name="Tokens">In this window, all sequences.</param>
/// <param name="TokensPerSecond">Mean since the start of this process's run.</param>
public sealed record StepReport(int Step, int TotalSteps, double Epoch, double Loss, double LearningRate, double GradientNorm, int Tokens,
    double TokensPerSecond, TimeSpan Elapsed, TimeSpan Remaining);

/// <summary>What a run left behind.</summary>
/// <param name="Interrupted">Cancelled before its last step; what was reached has been saved.</param>
public sealed record TrainResult(int Steps, int TotalSteps, double MeanLoss, double LastLoss, double? EvalLoss, double TokensPerSecond, TimeSpan Elapsed,
    bool Interrupted);
