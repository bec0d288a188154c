using KtNotebooks.Configuration;

namespace KtNotebooks.Training.Objectives;

/// <summary>The objectives by the values of `stage`.</summary>
public static class KnownObjectives
{
    private static readonly Dictionary<string, Func<Settings, ITrainingObjective>> All = new()
    {
        ["sft"] = SftObjective.Read,
        ["pt"] = PretrainingObjective.Read,
        ["dpo"] = DpoObjective.Read,
        ["kto"] = KtoObjective.Read,
        ["rm"] = RewardObjective.Read,
    };

    /// <summary>Keys of a stage; with another they set nothing.</summary>
    private static readonly (string Key, string[] Stages)[] OfStages =
    [
        ("pref_loss", ["dpo"]), ("pref_beta", ["dpo", "kto"]), ("pref_ftx", ["dpo", "kto"]), ("dpo_label_smoothing", ["dpo"]), ("simpo_gamma", ["dpo"]),
        ("ld_alpha", ["dpo"]), ("kto_chosen_weight", ["kto"]), ("kto_rejected_weight", ["kto"]), ("use_dft_loss", ["sft"]), ("use_eaft_loss", ["sft"]),
        ("eaft_alpha", ["sft"]),
    ];

    /// <summary>The objective that a config names, with its keys.</summary>
    /// <exception cref="ArgumentException">It is none that is offered, or one of its keys is wrong.</exception>
    public static ITrainingObjective Read(Settings c)
    {
        ArgumentNullException.ThrowIfNull(c);
        var stage = c.OneOf("stage");
        foreach (var (key, stages) in OfStages)
            if (!stages.Contains(stage) && !Keys.Find(key)!.AsksForNothing(c.Text(key))) c.Ignore(key, $"it belongs to stage: {string.Join(" and ", stages)}");
        return All[stage](c);
    }
}
