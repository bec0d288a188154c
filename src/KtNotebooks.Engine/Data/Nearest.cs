namespace KtNotebooks.Data;

/// <summary>Finds the known name that a mistyped one was probably meant to be.</summary>
public static class Nearest
{
    /// <summary>A longer text is no slip of the pen, and comparing it would take its length times each name's.</summary>
    private const int LongestWord = 200;

    /// <summary>
    /// The known name with the smallest edit distance (case is ignored; a known name that contains the unknown one counts as near), or null when none is
    /// near enough to be a likely slip: more than a third of the letters differ.
    /// </summary>
    public static string? Find(string unknown, IEnumerable<string> known)
    {
        if (unknown.Length > LongestWord) return null;
        var near =
            from name in known
            let distance = Distance(unknown, name)
            let contained = unknown.Length >= 3 && name.Contains(unknown, StringComparison.OrdinalIgnoreCase)
            where contained || distance <= Math.Max(1, Math.Max(unknown.Length, name.Length) / 3)
            orderby contained ? Math.Min(distance, 1) : distance, distance
            select name;
        return near.FirstOrDefault();
    }

    /// <summary>" Did you mean 'x'?" or, when nothing is near, " Known: a, b, c." — to be put at the end of an error.</summary>
    public static string Hint(string unknown, IReadOnlyCollection<string> known)
    {
        if (Find(unknown, known) is { } name)
            return $" Did you mean '{name}'?";
        if (known.Count == 0)
            return "";
        var shown = known.Order(StringComparer.Ordinal).Take(12);
        return $" Known: {string.Join(", ", shown)}{(known.Count > 12 ? ", …" : "")}.";
    }

    /// <summary>
    /// Levenshtein's distance without regard to case, two swapped neighbours counting as one slip: the insertions, deletions, replacements and swaps that turn
    /// one text into the other.
    /// </summary>
    public static int Distance(string a, string b)
    {
        var cost = new int[a.Length + 1, b.Length + 1];
        for (var i = 0; i <= a.Length; i++)
        {
            for (var j = 0; j <= b.Length; j++)
            {
                if (i == 0 || j == 0)
                {
                    cost[i, j] = i + j;
                    continue;
                }
                var least = Math.Min(cost[i - 1, j], cost[i, j - 1]) + 1;
                least = Math.Min(least, cost[i - 1, j - 1] + (Same(a[i - 1], b[j - 1]) ? 0 : 1));
                if (i > 1 && j > 1 && Same(a[i - 1], b[j - 2]) && Same(a[i - 2], b[j - 1]))
                    least = Math.Min(least, cost[i - 2, j - 2] + 1);
                cost[i, j] = least;
            }
        }
        return cost[a.Length, b.Length];

        static bool Same(char x, char y) => char.ToLowerInvariant(x) == char.ToLowerInvariant(y);
    }
}
