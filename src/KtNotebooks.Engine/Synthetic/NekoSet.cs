namespace KtNotebooks.Synthetic;

/// <summary>
/// The two committed files of cat-girl answers. An entity (a row of a source table) belongs to the test file or to the training file, by
/// the hash of its name: no question, fact or reversed fact of one file occurs in the other, and a new row moves no old one.
/// </summary>
public static class NekoSet
{
    public const string TrainFile = "neko_qa_train.json", TestFile = "neko_qa_test.json", StyleFile = "_neko_style.yaml";
    public const int TrainRows = 960, TestRows = 160;

    private const ulong Seed = 20260;
    private const ulong TestShare = 6;

    // Sums are the tiny model's weakest subject; a few show that the style goes with them too.
    private const int ArithmeticRows = 60;

    /// <summary>The rows for training and for test, always the same for the same tables.</summary>
    public static (IReadOnlyList<QaRow> Train, IReadOnlyList<QaRow> Test) Make(KnowledgeBase knowledge)
    {
        var style = new NekoStyle(Path.Combine(knowledge.Folder, StyleFile));
        var random = new SeededRandom(Seed);
        var chinese = knowledge.Facts.Where(fact => fact.Language == Language.Chinese).ToArray();
        var facts = random.Permutation(chinese.Length).Select(i => chinese[i]).ToArray();
        var isArithmetic = facts.ToLookup(fact => fact.Group.StartsWith(Arithmetic.Table, StringComparison.Ordinal));
        Fact[] some = [.. isArithmetic[false], .. isArithmetic[true].Take(ArithmeticRows)];
        return (Rows(some.Where(fact => !IsTest(fact)), TrainRows, style), Rows(some.Where(IsTest), TestRows, style));
    }

    /// <summary>Writes both files as UTF-8 with LF into a folder.</summary>
    public static void Write(KnowledgeBase knowledge, string folder)
    {
        var (train, test) = Make(knowledge);
        Directory.CreateDirectory(folder);
        File.WriteAllText(Path.Combine(folder, TrainFile), QaRow.ToJsonArray(train));
        File.WriteAllText(Path.Combine(folder, TestFile), QaRow.ToJsonArray(test));
    }

    internal static bool IsTest(Fact fact) => SeededRandom.Hash(fact.Entity) % TestShare == 0;

    // Every fact once, then every fact in a second wording, and so on; then mixed, so that a prefix of the file is a fair sample.
    private static QaRow[] Rows(IEnumerable<Fact> facts, int count, NekoStyle style)
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
                var start = SeededRandom.For(Seed, fact.Id).Below(fact.Questions.Count);
                var question = fact.Questions[(start + round) % fact.Questions.Count];
                if (asked.Add(KnowledgeBase.Normal(question)))
                    rows.Add(new QaRow(question, style.Say(fact, SeededRandom.For(Seed, question))));
            }
            if (rows.Count == before)
                throw new InvalidDataException($"the tables hold {rows.Count} questions for a file of {count}; add facts");
        }
        return [.. new SeededRandom(Seed).Permutation(rows.Count).Select(i => rows[i])];
    }
}
