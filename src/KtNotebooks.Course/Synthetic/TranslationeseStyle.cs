using YamlDotNet.Serialization;
using YamlDotNet.Serialization.NamingConventions;

namespace KtNotebooks.Course.Synthetic;

/// <summary>
/// Says a plain Chinese answer in the tone of old dubbed films: an opening to the "old friend", sometimes an oath, the answer word for word, often an
/// exaggeration after it. The pieces stand in datasets/source/_translationese_style.yaml, one a line.
/// </summary>
internal sealed class TranslationeseStyle
{
    public const int MaxChars = 90;

    private readonly string[] _openings, _asides, _closings;

    private sealed class Pieces
    {
        public string Openings { get; set; } = "";
        public string Asides { get; set; } = "";
        public string Closings { get; set; } = "";
    }

    public TranslationeseStyle(string path)
    {
        var pieces = new DeserializerBuilder().WithNamingConvention(UnderscoredNamingConvention.Instance).Build().Deserialize<Pieces>(File.ReadAllText(path));
        _openings = Lines(pieces.Openings, nameof(pieces.Openings));
        _asides = Lines(pieces.Asides, nameof(pieces.Asides));
        _closings = Lines(pieces.Closings, nameof(pieces.Closings));

        string[] Lines(string text, string name) => FactTable.Lines(text) is { Length: > 0 } lines ? lines
            : throw new InvalidDataException($"{path}: '{name}' has no line");
    }

    /// <summary>The styled answer, at most <see cref="MaxChars"/> characters.</summary>
    public string Say(Fact fact, SeededRandom random)
    {
        var answer = random.Pick(fact.Answers);
        // Some drawings are too long; the grammar has plenty that are not.
        for (var tries = 0; tries < 1000; tries++)
        {
            var text = random.Pick(_openings);
            // Small talk is no assertion that one could swear to.
            if (!fact.SmallTalk && random.Chance(45))
                text += random.Pick(_asides);
            text += answer;
            if (!fact.SmallTalk && random.Chance(75))
                text += random.Pick(_closings);
            if (text.Length <= MaxChars)
                return text;
        }
        throw new InvalidDataException($"the answer of {fact.Id} does not fit into {MaxChars} characters with any opening: {answer}");
    }
}
