using KtNotebooks.Configuration;
using KtNotebooks.Optim;

namespace KtNotebooks.Training;

/// <summary>lr_scheduler_kwargs: what belongs to single schedules, each refused with another.</summary>
internal static class ScheduleKeys
{
    private const string Block = "lr_scheduler_kwargs.";

    private static readonly Dictionary<string, string[]> Of = new()
    {
        ["min_lr"] = ["cosine_with_min_lr", "cosine_warmup_with_min_lr"],
        ["min_lr_rate"] = ["cosine_with_min_lr", "cosine_warmup_with_min_lr"],
        ["warmup_lr_rate"] = ["cosine_warmup_with_min_lr"],
        ["min_lr_ratio"] = ["warmup_stable_decay"],
        ["num_cycles"] = ["cosine", "cosine_with_restarts", "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay"],
        ["lr_end"] = ["polynomial"],
        ["power"] = ["polynomial"],
        ["timescale"] = ["inverse_sqrt"],
        ["num_decay_steps"] = ["warmup_stable_decay"],
        ["decay_type"] = ["warmup_stable_decay"],
    };

    public static ScheduleSettings Read(Settings c)
    {
        var schedule = c.OneOf("lr_scheduler_type");
        foreach (var (name, schedules) in Of)
            if (c.Has(Block + name) && !schedules.Contains(schedule))
                throw c.Wrong(Block + name, $"left out with lr_scheduler_type: {schedule}; it belongs to {string.Join(", ", schedules)}");
        double? Number(string name) => c.Has(Block + name) ? c.MaybeNumber(Block + name) : null;
        var settings = new ScheduleSettings();
        var details = new ScheduleSettings(Number("min_lr"), Number("min_lr_rate") ?? Number("min_lr_ratio"), Number("num_cycles"),
            Number("lr_end") ?? settings.EndRate, Number("power") ?? settings.Power, Number("timescale"), (int?)Number("num_decay_steps"),
            c.OneOf(Block + "decay_type"), Number("warmup_lr_rate"));
        if (schedule is "cosine_with_min_lr" or "cosine_warmup_with_min_lr" && (details.MinRate is null) == (details.MinShare is null))
            throw new ArgumentException($"{c.Where("lr_scheduler_type")}: lr_scheduler_type: {schedule} needs one of {Block}min_lr and "
                + $"{Block}min_lr_rate");
        return details;
    }
}
