namespace KtNotebooks.Optim;

/// <summary>`lr_scheduler_type`: linear rise over the warm-up, then the named fall, as Hugging Face's schedules.</summary>
public sealed record LearningRate(string Type, double Base, int WarmupSteps, int TotalSteps)
{
    public static readonly string[] Known = ["cosine", "linear", "constant", "constant_with_warmup"];

    /// <summary>Rate of the update that follows <paramref name="done"/> finished updates.</summary>
    public double At(int done)
    {
        if (Type != "constant" && done < WarmupSteps) return Base * done / Math.Max(1, WarmupSteps);
        var progress = (double)(done - WarmupSteps) / Math.Max(1, TotalSteps - WarmupSteps);
        return Base * Type switch
        {
            "cosine" => Math.Max(0, 0.5 * (1 + Math.Cos(Math.PI * progress))),
            "linear" => Math.Max(0, 1 - progress),
            "constant" or "constant_with_warmup" => 1,
            _ => throw new ArgumentException($"lr_scheduler_type '{Type}' is not known; known are {string.Join(", ", Known)}"),
        };
    }
}
