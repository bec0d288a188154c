namespace KtNotebooks.Course.Synthetic;

/// <summary>
/// Plain questions and answers in Chinese and English, on which the built-in tiny model is pre-trained.
/// Every fact comes in turn, so that a short run already meets each of them; its phrasings come in random order.
/// Between them stand chats of two turns and words to say after. Same seed, same rows.
/// </summary>
public sealed class PlainQa(KnowledgeBase knowledge)
{
    // Two-turn chats and recitals per hundred rows, arithmetic per hundred others, lead-ins per hundred sentences with a question mark.
    private const int ChatPercent = 8, RecitalPercent = 10, ArithmeticPercent = 15, LeadInPercent = 12, OpeningPercent = 25;

    private static readonly string[] ChineseLeadIns = ["请问，", "你好，", "我想知道，", "问一下，", "请告诉我，", "我有个问题："];
    private static readonly string[] EnglishLeadIns =
    [
        "Hi! ", "A quick question: ", "I have a question. ", "Excuse me. ", "Tell me, please. ", "I would like to know: ",
    ];

    private static readonly string[] ChineseOpenings = ["好的，", "当然，", "让我想想，", "这个问题不难，", "没问题，", "你问得好，", "我来告诉你，", "据我所知，", "是这样的，", "简单来说，"];
    private static readonly string[] EnglishOpenings = ["Sure. ", "Of course. ", "Let me think. ", "Good question. ", "As far as I know: ", "That is easy. "];

    private readonly Fact[] _facts = [.. knowledge.Facts.Where(fact => !IsArithmetic(fact))];
    private readonly Fact[] _arithmetic = [.. knowledge.Facts.Where(IsArithmetic)];

    /// <summary>How many different single-turn rows there are in a language, lead-ins and chats not counted.</summary>
    public int CountDistinct(Language language) => knowledge.Facts.Where(fact => fact.Language == language).Sum(Variants);

    /// <summary>
    /// Endless rows. The first <see cref="CountDistinct"/> or so of them are all different; when a kind has been told in every way it starts
    /// again in another order.
    /// </summary>
    /// <param name="seed">Decides every choice.</param>
    /// <param name="even">
    /// The phrasings of a fact lie evenly over the time in which all are told, so that any stretch is like any other. Else round follows round, each with one
    /// phrasing of every fact that has one left: a short run meets every fact, but facts of few phrasings come in the first rounds alone, and a loss jumps
    /// when all begins again.
    /// </param>
    public IEnumerable<QaRow> Stream(ulong seed, bool even = false)
    {
        var random = new SeededRandom(seed);
        IEnumerable<QaRow> Told(Fact[] some) => even ? Evenly(some, new SeededRandom(random.Next())) : Rounds(some, new SeededRandom(random.Next()));
        using var facts = Told(_facts).GetEnumerator();
        using var arithmetic = Told(_arithmetic).GetEnumerator();
        var recital = new Recital(knowledge);
        var chats = new Chats([.. _facts, .. _arithmetic.Where((_, i) => i % 8 == 0)]);
        while (true)
            if (random.Chance(ChatPercent))
                yield return chats.Draw(random);
            else if (random.Chance(RecitalPercent))
                yield return recital.Draw(random);
            else
            {
                var kind = random.Chance(ArithmeticPercent) ? arithmetic : facts;
                kind.MoveNext();
                yield return kind.Current;
            }
    }

    /// <summary>The first <paramref name="count"/> different rows of <see cref="Stream"/>.</summary>
    /// <exception cref="ArgumentException">There are fewer different rows than asked for.</exception>
    public IReadOnlyList<QaRow> Take(int count, ulong seed)
    {
        var most = CountDistinct(Language.Chinese) + CountDistinct(Language.English);
        if (count < 1 || count > most)
            throw new ArgumentException($"[PlainQa] rows must be 1 to {most}, the number of different rows, but is {count}", nameof(count));
        return [.. Stream(seed).DistinctBy(row => row.ToJson()).Take(count)];
    }

    // Round k holds the k-th phrasing of every fact that has one, in random order.
    private static IEnumerable<QaRow> Rounds(Fact[] facts, SeededRandom random)
    {
        while (true)
        {
            var orders = Array.ConvertAll(facts, fact => random.Permutation(Variants(fact)));
            for (var round = 0; round < orders.Max(order => order.Length); round++)
                foreach (var i in random.Permutation(facts.Length))
                    if (round < orders[i].Length)
                        yield return Row(facts[i], orders[i][round], random);
        }
    }

    // The k-th of n phrasings of a fact comes at random in the k-th n-th of all.
    private static IEnumerable<QaRow> Evenly(Fact[] facts, SeededRandom random)
    {
        while (true)
        {
            var all = facts.SelectMany(fact => random.Permutation(Variants(fact)).Select((variant, k) =>
                (Fact: fact, Variant: variant, At: (k + (random.Below(1 << 24) / (double)(1 << 24))) / Variants(fact)))).ToArray();
            foreach (var (fact, variant, _) in all.OrderBy(row => row.At)) yield return Row(fact, variant, random);
        }
    }

    private static QaRow Row(Fact fact, int variant, SeededRandom random)
    {
        var question = fact.Questions[variant % fact.Questions.Count];
        variant /= fact.Questions.Count;
        var answer = fact.Answers[variant % fact.Answers.Count];
        variant /= fact.Answers.Count;
        if (variant > 0)
            answer = Joined(fact.Language, answer, fact.More[variant - 1]);
        if (!fact.SmallTalk && question[^1] is '？' or '?' && random.Chance(LeadInPercent))
            question = random.Pick(fact.Language == Language.Chinese ? ChineseLeadIns : EnglishLeadIns) + question;
        if (!fact.SmallTalk && random.Chance(OpeningPercent))
            answer = random.Pick(fact.Language == Language.Chinese ? ChineseOpenings : EnglishOpenings) + answer;
        return new QaRow(question, answer);
    }

    internal static string Joined(Language language, string first, string second) => language == Language.Chinese ? first + second : $"{first} {second}";

    private static int Variants(Fact fact) => fact.Questions.Count * fact.Answers.Count * (1 + fact.More.Count);

    private static bool IsArithmetic(Fact fact) => fact.Group.StartsWith(Arithmetic.Table, StringComparison.Ordinal);
}
