namespace KtNotebooks.Optim;

/// <summary>lr_scheduler_kwargs: settings of single schedules, by transformers' names and defaults.</summary>
/// <param name="MinRate">min_lr, of the schedules that have it in their name.</param>
/// <param name="MinShare">min_lr_rate of these, min_lr_ratio of warmup_stable_decay: the least, as a share of the learning rate.</param>
/// <param name="Cycles">num_cycles; null: the schedule's own.</param>
/// <param name="EndRate">lr_end, of polynomial.</param>
/// <param name="Power">power, of polynomial.</param>
/// <param name="TimeScale">timescale, of inverse_sqrt; null: the warm-up, or 10,000.</param>
/// <param name="DecaySteps">num_decay_steps, of warmup_stable_decay; null: a tenth of the steps, which transformers has no default for.</param>
/// <param name="DecayType">decay_type, of warmup_stable_decay: cosine, linear or 1-sqrt.</param>
/// <param name="WarmupShare">warmup_lr_rate, of cosine_warmup_with_min_lr: the first rate as a share; null: one step's part of the rise.</param>
public sealed record ScheduleSettings(double? MinRate = null, double? MinShare = null, double? Cycles = null, double EndRate = 1e-7, double Power = 1,
    double? TimeScale = null, int? DecaySteps = null, string DecayType = "cosine", double? WarmupShare = null);

/// <summary>`lr_scheduler_type`: linear rise over the warm-up, then the named fall, as Hugging Face's schedules.</summary>
public sealed record LearningRate(string Type, double Base, int WarmupSteps, int TotalSteps)
{
    public static readonly string[] Known = ["cosine", "linear", "constant", "constant_with_warmup", "cosine_with_restarts", "cosine_with_min_lr",
        "cosine_warmup_with_min_lr", "polynomial", "inverse_sqrt", "warmup_stable_decay"];

    /// <summary>What belongs to single schedules.</summary>
    public ScheduleSettings Settings { get; init; } = new();

    /// <summary>Rate of the update that follows <paramref name="done"/> finished updates.</summary>
    public double At(int done)
    {
        if (Type == "warmup_stable_decay") return Base * Stable(done);
        if (Type == "cosine_warmup_with_min_lr") return Base * FromFirst(done);
        if (Type != "constant" && done < WarmupSteps) return Base * done / Math.Max(1, WarmupSteps);
        var progress = (double)(done - WarmupSteps) / Math.Max(1, TotalSteps - WarmupSteps);
        return Type switch
        {
            "cosine" => Base * Math.Max(0, 0.5 * (1 + Math.Cos(Math.PI * (Settings.Cycles ?? 0.5) * 2 * progress))),
            "linear" => Base * Math.Max(0, 1 - progress),
            "constant" or "constant_with_warmup" => Base,
            "cosine_with_restarts" => progress >= 1 ? 0 : Base * Math.Max(0, 0.5 * (1 + Math.Cos(Math.PI * ((Settings.Cycles ?? 1) * progress % 1)))),
            "cosine_with_min_lr" => Base * Math.Max(0, Lifted(0.5 * (1 + Math.Cos(Math.PI * (Settings.Cycles ?? 0.5) * 2 * progress)), Least)),
            "polynomial" => progress > 1 ? Settings.EndRate : ((Base - Settings.EndRate) * Math.Pow(1 - progress, Settings.Power)) + Settings.EndRate,
            "inverse_sqrt" => Base / Math.Sqrt((done + Scale - WarmupSteps) / Scale),
            _ => throw new ArgumentException($"lr_scheduler_type '{Type}' is not known; known are {string.Join(", ", Known)}"),
        };
    }

    private double Least => Settings.MinRate is { } rate ? rate / Base : Settings.MinShare ?? 0;

    private double Scale => Settings.TimeScale ?? (WarmupSteps > 0 ? WarmupSteps : 10_000);

    private static double Lifted(double factor, double least) => (factor * (1 - least)) + least;

    /// <summary>cosine_warmup_with_min_lr: as cosine_with_min_lr, one step ahead of it, so that the first update is not lost on a rate of 0.</summary>
    private double FromFirst(int done)
    {
        if (done < WarmupSteps)
            return Settings.WarmupShare is { } first ? first + ((1 - first) * done / Math.Max(1, WarmupSteps - 1)) : (done + 1.0) / Math.Max(1, WarmupSteps);
        var progress = (done - WarmupSteps + 1.0) / Math.Max(1, TotalSteps - WarmupSteps);
        return Math.Max(0, Lifted(0.5 * (1 + Math.Cos(Math.PI * (Settings.Cycles ?? 0.5) * 2 * progress)), Least));
    }

    private double Stable(int done)
    {
        var (decay, least) = (Settings.DecaySteps ?? Math.Max(1, TotalSteps / 10), Settings.MinShare ?? 0);
        if (done < WarmupSteps) return Lifted((double)done / Math.Max(1, WarmupSteps), least);
        var falls = Math.Max(WarmupSteps, TotalSteps - decay);
        if (done < falls) return 1;
        if (done >= falls + decay) return least;
        var progress = (double)(done - falls) / Math.Max(1, decay);
        var factor = Settings.DecayType switch
        {
            "linear" => 1 - progress,
            "1-sqrt" => 1 - Math.Sqrt(progress),
            _ => 0.5 * (1 + Math.Cos(Math.PI * (Settings.Cycles ?? 0.5) * 2 * progress)),
        };
        return Math.Max(0, Lifted(factor, least));
    }
}
