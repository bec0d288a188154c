using YamlDotNet.Serialization;
using YamlDotNet.Serialization.NamingConventions;

namespace KtNotebooks.Course.Synthetic;

/// <summary>
/// Says a plain Chinese answer the way a cat-girl says it to her 主人: an action, the answer with its full stop turned into 喵, a few words after it.
/// The answer itself is kept word for word, so that what a model learns from such rows is the style and nothing else.
/// The pieces stand in datasets/source/_neko_style.yaml, one a line.
/// </summary>
internal sealed class NekoStyle
{
    public const int MinChars = 15, MaxChars = 80;

    private readonly string[] _actions, _addresses, _endings, _closings, _closingActions;

    private sealed class Pieces
    {
        public string Actions { get; set; } = "";
        public string Addresses { get; set; } = "";
        public string Endings { get; set; } = "";
        public string Closings { get; set; } = "";
        public string ClosingActions { get; set; } = "";
    }

    public NekoStyle(string path)
    {
        var pieces = new DeserializerBuilder().WithNamingConvention(UnderscoredNamingConvention.Instance).Build().Deserialize<Pieces>(File.ReadAllText(path));
        _actions = Lines(pieces.Actions, nameof(pieces.Actions));
        _addresses = Lines(pieces.Addresses, nameof(pieces.Addresses));
        _endings = Lines(pieces.Endings, nameof(pieces.Endings));
        _closings = Lines(pieces.Closings, nameof(pieces.Closings));
        _closingActions = Lines(pieces.ClosingActions, nameof(pieces.ClosingActions));

        string[] Lines(string text, string name) => FactTable.Lines(text) is { Length: > 0 } lines ? lines
            : throw new InvalidDataException($"{path}: '{name}' has no line");
    }

    /// <summary>The styled answer, <see cref="MinChars"/> to <see cref="MaxChars"/> characters with one 主人 and one 喵 at least.</summary>
    public string Say(Fact fact, SeededRandom random)
    {
        var answer = random.Pick(fact.NekoAnswers.Count > 0 ? fact.NekoAnswers : fact.Answers);
        // Some drawings are too long or lack 喵; the grammar has plenty that are not.
        for (var tries = 0; tries < 1000; tries++)
        {
            var text = Draw(answer, fact.More, random);
            if (text.Length is >= MinChars and <= MaxChars && text.Contains('喵') && text.Contains("主人", StringComparison.Ordinal))
                return text;
        }
        throw new InvalidDataException($"the answer of {fact.Id} does not fit into {MaxChars} characters with any style: {answer}");
    }

    private string Draw(string answer, IReadOnlyList<string> more, SeededRandom random)
    {
        var text = random.Chance(85) ? random.Pick(_actions) + " " : "";
        text += random.Pick(_addresses);
        text += Ended(answer, random);
        if (more.Count > 0 && random.Chance(30))
            text += random.Pick(more);
        if (random.Chance(65))
            text += random.Pick(_closings);
        if (random.Chance(20))
            text += " " + random.Pick(_closingActions);
        return text;
    }

    // An answer of two sentences gets its particle after the last one.
    private string Ended(string answer, SeededRandom random) =>
        answer.EndsWith('。') ? answer[..^1] + random.Pick(_endings) : answer;
}
