namespace KtNotebooks.Data;

/// <summary>Finds the known name that a mistyped one was probably meant to be.</summary>
public static class Nearest
{
    /// <summary>
    /// The known name with the smallest edit distance (case is ignored; a known name that contains the unknown one counts as near), or null when none is
    /// near enough to be a likely slip: more than a third of the letters differ.
    /// </summary>
    public static string? Find(string unknown, IEnumerable<string> known)
    {
        string? best = null;
        var least = int.MaxValue;
        foreach (var name in known)
        {
            var distance = Distance(unknown, name);
            if (unknown.Length >= 3 && name.Contains(unknown, StringComparison.OrdinalIgnoreCase))
                distance = Math.Min(distance, 1);
            if (distance < least && distance <= Math.Max(1, Math.Max(unknown.Length, name.Length) / 3))
                (best, least) = (name, distance);
        }
        return best;
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

    /// <summary>Levenshtein's distance without regard to case: the insertions, deletions and replacements that turn one text into the other.</summary>
    public static int Distance(string a, string b)
    {
        var row = new int[b.Length + 1];
        for (var j = 0; j <= b.Length; j++)
            row[j] = j;
        for (var i = 1; i <= a.Length; i++)
        {
            var diagonal = row[0];
            row[0] = i;
            for (var j = 1; j <= b.Length; j++)
            {
                var replace = diagonal + (char.ToLowerInvariant(a[i - 1]) == char.ToLowerInvariant(b[j - 1]) ? 0 : 1);
                diagonal = row[j];
                row[j] = Math.Min(replace, Math.Min(row[j], row[j - 1]) + 1);
            }
        }
        return row[b.Length];
    }
}
