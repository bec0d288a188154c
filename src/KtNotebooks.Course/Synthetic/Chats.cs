namespace KtNotebooks.Course.Synthetic;

/// <summary>
/// Chats of two turns: a question and then "and the dog?" about another row of the same relation, thanks, or a change of subject.
/// </summary>
internal sealed class Chats
{
    private static readonly (string Thanks, string Reply)[] ChineseThanks =
    [
        ("谢谢。", "不客气。"), ("谢谢你！", "不用谢，很高兴能帮到你。"), ("明白了，谢谢。", "不客气，还有问题可以接着问。"),
        ("知道了。", "好的，还想知道什么可以问我。"),
        ("原来是这样。", "是的，就是这样。"),
    ];

    private static readonly (string Thanks, string Reply)[] EnglishThanks =
    [
        ("Thank you.", "You are welcome."), ("Thanks a lot!", "You are welcome. I am glad to help."),
        ("I see, thanks.", "You are welcome. Ask me more if you like."),
        ("Good to know.", "Yes, it is. Ask me more if you like."), ("Now I understand.", "Good. I am glad to help."),
    ];

    private readonly Fact[] _facts;
    private readonly Dictionary<(string, Language), Fact[]> _groups;
    private readonly Dictionary<Language, Fact[]> _byLanguage;

    public Chats(IReadOnlyList<Fact> facts)
    {
        _facts = [.. facts.Where(fact => !fact.SmallTalk)];
        _groups = facts.Where(fact => fact.FollowUps.Count > 0).GroupBy(fact => (fact.Group, fact.Language))
            .ToDictionary(group => group.Key, group => group.ToArray());
        _byLanguage = _facts.GroupBy(fact => fact.Language).ToDictionary(group => group.Key, group => group.ToArray());
    }

    public QaRow Draw(SeededRandom random)
    {
        var first = random.Pick(_facts);
        string[][] history = [[random.Pick(first.Questions), random.Pick(first.Answers)]];
        var isChinese = first.Language == Language.Chinese;
        if (_groups.TryGetValue((first.Group, first.Language), out var group) && random.Chance(60)
            && random.Pick(group) is var next && next.Id != first.Id)
            return new QaRow(random.Pick(next.FollowUps), random.Pick(next.Answers)) { History = history };
        if (random.Chance(50))
        {
            var (thanks, reply) = random.Pick(isChinese ? ChineseThanks : EnglishThanks);
            return new QaRow(thanks, reply) { History = history };
        }
        var other = random.Pick(_byLanguage[first.Language]);
        return new QaRow(random.Pick(other.Questions), random.Pick(other.Answers)) { History = history };
    }
}
