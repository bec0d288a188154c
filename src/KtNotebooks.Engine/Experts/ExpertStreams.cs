namespace KtNotebooks.Experts;

/// <summary>Tells the streams of a model in which order a pass will open its experts.</summary>
internal static class ExpertStreams
{
    /// <summary>
    /// banks: in forward order. Forward opens groups upwards, backward the banks and their groups downwards; behind a training step the next one's forward is announced, so that what backward ended with stays.
    /// </summary>
    public static void Plan(IReadOnlyList<ExpertBank> banks, bool backward)
    {
        foreach (var stream in banks.Select(b => b.Stream).OfType<ExpertStream>().Distinct())
        {
            GroupVisit[] up = [.. banks.Where(b => b.Stream == stream).SelectMany(b => b.GroupVisits)];
            stream.Plan(backward ? [.. up, .. up.Reverse(), .. up] : up);
        }
    }
}
