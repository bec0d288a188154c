namespace KtNotebooks.Course.Synthetic;

/// <summary>
/// Chooses the questions of a data set that says plain Chinese answers in a style. An entity (a row of a source table) belongs to the test file or to the
/// training file, by the hash of its name: no question, fact or reversed fact of one file occurs in the other, and a new row moves no old one.
/// </summary>
internal static class StyledSet
{
    private const ulong TestShare = 6;

    // Sums are the tiny model's weakest subject; a few show that a style goes with them too.
    private const int ArithmeticRows = 60;

    /// <summary>The rows for training and for test, always the same for the same tables and seed.</summary>
    /// <param name="say">Makes the row of a fact and one of its questions.</param>
    public static (QaRow[] Train, QaRow[] Test) Make(KnowledgeBase knowledge, ulong seed, int trainRows, int testRows, Func<Fact, string, QaRow> say)
    {
        var random = new SeededRandom(seed);
        var chinese = knowledge.Facts.Where(fact => fact.Language == Language.Chinese).ToArray();
        var facts = random.Permutation(chinese.Length).Select(i => chinese[i]).ToArray();
        var isArithmetic = facts.ToLookup(fact => fact.Group.StartsWith(Arithmetic.Table, StringComparison.Ordinal));
        Fact[] some = [.. isArithmetic[false], .. isArithmetic[true].Take(ArithmeticRows)];
        return (Rows(some.Where(fact => !IsTest(fact)), trainRows, seed, say), Rows(some.Where(IsTest), testRows, seed, say));
    }

    public static bool IsTest(Fact fact) => SeededRandom.Hash(fact.Entity) % TestShare == 0;

    // Every fact once, then every fact in a second wording, and so on; then mixed, so that a prefix of the file is a fair sample.
    private static QaRow[] Rows(IEnumerable<Fact> facts, int count, ulong seed, Func<Fact, string, QaRow> say)
    {
        var pool = facts.ToArray();
        var asked = new HashSet<string>();
        var rows = new List<QaRow>();
        for (var round = 0; rows.Count < count; round++)
        {
            var before = rows.Count;
            foreach (var fact in pool)
            {
                if (round >= fact.Questions.Count || rows.Count == count)
                    continue;
                var start = SeededRandom.For(seed, fact.Id).Below(fact.Questions.Count);
                var question = fact.Questions[(start + round) % fact.Questions.Count];
                if (asked.Add(KnowledgeBase.Normal(question)))
                    rows.Add(say(fact, question));
            }
            if (rows.Count == before)
                throw new InvalidDataException($"the tables hold {rows.Count} questions for a file of {count}; add facts");
        }
        return [.. new SeededRandom(seed).Permutation(rows.Count).Select(i => rows[i])];
    }
}
