namespace KtNotebooks.Data;

/// <summary>
/// How several data sets become one: mix_strategy and interleave_probs, with the order that Hugging Face's interleave_datasets has (but our own random
/// numbers).
/// </summary>
public static class Mixing
{
    public static readonly IReadOnlyList<string> Strategies = ["concat", "interleave_under", "interleave_over", "interleave_once"];

    /// <param name="sets">The sets; none is empty.</param>
    /// <param name="strategy">concat: one after another. interleave_under: in turn, until one is used up; interleave_over: until all are, short ones again
    /// from their start; interleave_once: every row once.</param>
    /// <param name="probabilities">The chance of each set to be next, together 1; null: they take turns.</param>
    /// <param name="seed">Decides whose turn it is.</param>
    /// <exception cref="ArgumentException">An unknown strategy, or probabilities that do not fit the sets.</exception>
    public static List<T> Mix<T>(IReadOnlyList<IReadOnlyList<T>> sets, string strategy = "concat", IReadOnlyList<double>? probabilities = null, int seed = 42)
    {
        if (!Strategies.Contains(strategy))
            throw new ArgumentException($"mix_strategy is '{strategy}'.{Nearest.Hint(strategy, Strategies)}");
        if (probabilities is not null && (probabilities.Count != sets.Count || probabilities.Any(p => !(p >= 0)) || Math.Abs(probabilities.Sum() - 1) > 1e-6))
            throw new ArgumentException($"interleave_probs is {string.Join(", ", probabilities)}; it must hold {sets.Count} numbers, one for each data set, "
                + "that are 0 or more and together 1.");
        if (strategy == "concat" || sets.Count == 1)
            return [.. sets.SelectMany(set => set)];

        if (probabilities is not null && strategy is "interleave_over" or "interleave_once")
            RequireReachable(sets, probabilities!);
        var mixed = new List<T>();
        var next = new int[sets.Count];
        var used = new bool[sets.Count];
        // A set that is never drawn can never be used up.
        bool Wanted(int s) => probabilities is null || probabilities[s] > 0;
        var random = new StableRandom((ulong)(uint)seed);
        for (var turn = 0; ; turn++)
        {
            var s = probabilities is null ? turn % sets.Count : Draw(probabilities, random);
            // In turns, Hugging Face ends after whole rounds; with chances it looks before each draw.
            if (strategy == "interleave_under" && used.Any(u => u) && (probabilities is not null || s == 0))
                return mixed;
            if (strategy != "interleave_under" && Enumerable.Range(0, sets.Count).All(i => used[i] || !Wanted(i))
                && (strategy == "interleave_once" || probabilities is not null || s == 0))
                return mixed;
            if (strategy == "interleave_once" && used[s])
                continue;
            mixed.Add(sets[s][next[s]]);
            if (++next[s] == sets[s].Count)
                (next[s], used[s]) = (0, true);
        }
    }

    // A set that is hardly ever drawn makes the mix, or the drawing, grow without end.
    private static void RequireReachable<T>(IReadOnlyList<IReadOnlyList<T>> sets, IReadOnlyList<double> probabilities)
    {
        const double Most = 1e8;
        for (var s = 0; s < sets.Count; s++)
        {
            if (probabilities[s] > 0 && sets[s].Count / probabilities[s] is > Most and var draws)
                throw new ArgumentException($"interleave_probs gives data set {s + 1}, which has {sets[s].Count:N0} rows, a chance of"
                    + $" {probabilities[s]:G3}: about {draws:G2} draws"
                    + $" until each of its rows has had its turn, and {Most:N0} are the most. Give it a larger chance, or 0.");
        }
    }

    private static int Draw(IReadOnlyList<double> probabilities, StableRandom random)
    {
        var at = (random.NextBits() >> 11) * (1.0 / (1UL << 53));
        for (var s = 0; s < probabilities.Count; s++)
            if ((at -= probabilities[s]) < 0)
                return s;
        return probabilities.ToList().FindLastIndex(p => p > 0); // rounding
    }
}
