namespace KtNotebooks.Experts;

/// <summary>A bank's turn in a step with so many tokens: forward opens its groups upwards, backward downwards.</summary>
internal readonly record struct BankVisit(ExpertBank Bank, bool Backward, long Tokens)
{
    /// <summary>Those that cross the bus, upwards.</summary>
    public IEnumerable<GroupVisit> Groups => Bank.GroupVisits(Tokens, Backward);
}

/// <summary>Tells the streams of a model in which order a step will open its experts.</summary>
internal static class ExpertStreams
{
    /// <summary>
    /// visits: those of one training step, in the order in which each card makes its own (how the cards interleave does not matter: every card has a
    /// stream). Behind them the same are announced once more, for the next step, so that what this one ends with stays where the next one begins.
    /// </summary>
    public static void Plan(IReadOnlyList<BankVisit> visits, CancellationToken cancel = default) => Plan(visits, repeated: true, cancel);

    /// <summary>
    /// One forward pass of so many tokens. Where few tokens would leave most groups without a row nothing is announced: groups are brought when they are
    /// opened.
    /// </summary>
    public static void Plan(IEnumerable<ExpertBank> banks, long tokens)
    {
        BankVisit[] visits = [.. banks.Where(b => b.IsStreamed).Select(b => new BankVisit(b, false, tokens))];
        Plan(visits.Length > 0 && tokens * visits[0].Bank.TopK < visits[0].Bank.Count ? [] : visits, repeated: false, CancellationToken.None);
    }

    private static void Plan(IReadOnlyList<BankVisit> visits, bool repeated, CancellationToken cancel)
    {
        foreach (var own in visits.GroupBy(v => v.Bank.Stream))
        {
            if (own.Key is not { } stream) continue;
            GroupVisit[] step = [.. own.SelectMany(v => v.Backward ? v.Groups.Reverse() : v.Groups)];
            stream.Plan(repeated ? [.. step, .. step] : step, cancel);
        }
    }
}
