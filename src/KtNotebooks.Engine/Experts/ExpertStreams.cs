namespace KtNotebooks.Experts;

/// <summary>Tells the streams of a model in which order a pass will open its experts.</summary>
internal static class ExpertStreams
{
    /// <summary>
    /// banks: in forward order. Forward opens groups upwards, backward the banks and their groups downwards; behind a training step the next one's forward is announced, so that what backward ended with stays.
    /// </summary>
    /// <param name="tokens">Of the pass, by which split banks know their shares.</param>
    public static void Plan(IReadOnlyList<ExpertBank> banks, long tokens, bool backward)
    {
        foreach (var stream in banks.Select(b => b.Stream).OfType<ExpertStream>().Distinct())
        {
            GroupVisit[] Visits(bool back) => [.. banks.Where(b => b.Stream == stream).SelectMany(b => b.GroupVisits(tokens, back))];
            var up = Visits(false);
            stream.Plan(backward ? [.. up, .. Visits(true).Reverse(), .. up] : up);
        }
    }
}
