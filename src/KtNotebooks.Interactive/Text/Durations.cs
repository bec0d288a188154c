namespace KtNotebooks.Interactive;

internal static class Durations
{
    /// <summary>0:01:23, with days in front when there are any: the form of the trainer's log. Negative and unknown (MaxValue) times are "?".</summary>
    public static string Text(TimeSpan time) =>
        time < TimeSpan.Zero || time == TimeSpan.MaxValue ? "?"
        : (time.Days > 0 ? $"{time.Days} d " : "") + $"{time.Hours}:{time.Minutes:00}:{time.Seconds:00}";
}
