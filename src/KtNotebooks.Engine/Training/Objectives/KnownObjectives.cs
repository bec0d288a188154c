using KtNotebooks.Configuration;

namespace KtNotebooks.Training.Objectives;

/// <summary>The objectives by the values of `stage`.</summary>
public static class KnownObjectives
{
    private static readonly Dictionary<string, Func<Settings, ITrainingObjective>> All = new()
    {
        ["sft"] = _ => new SftObjective(),
        ["pt"] = PretrainingObjective.Read,
        ["dpo"] = DpoObjective.Read,
    };

    private static readonly string[] Missing = ["rm", "ppo", "kto"];

    /// <summary>The objective that a config names, with its keys.</summary>
    /// <exception cref="ArgumentException">It is none that is offered, or one of its keys is wrong.</exception>
    public static ITrainingObjective Read(Settings c)
    {
        ArgumentNullException.ThrowIfNull(c);
        if (Missing.Contains(c.TextOrDefault("stage"))) throw c.Wrong("stage", $"{string.Join(", ", All.Keys)}: other stages are not offered yet");
        return All[c.OneOf("stage")](c);
    }
}
