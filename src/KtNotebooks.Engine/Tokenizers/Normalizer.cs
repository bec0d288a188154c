using System.Text;

namespace KtNotebooks.Tokenizers;

/// <summary>Rewrites text before it is cut.</summary>
internal abstract class Normalizer
{
    /// <summary>The longest that a text of this length may become; the largest growth that Unicode has is 18.</summary>
    public static int LimitFor(string text) => (int)Math.Min(65_536 + (20L * text.Length), int.MaxValue);

    /// <summary>The text rewritten.</summary>
    /// <param name="limit">The longest that it may become: of the text as it was given, however many stages there are.</param>
    /// <exception cref="InvalidDataException">It would become longer.</exception>
    public abstract string Apply(string text, int limit);

    /// <summary>The whole of it on a text as it was given.</summary>
    public string Apply(string text) => Apply(text, LimitFor(text));

    protected static InvalidDataException TooLong(int limit) =>
        new($"the normalizer makes a text of more than {limit:N0} characters; a Replace or a Prepend in it grows without measure.");
}

/// <summary>One of Unicode's normalisation forms.</summary>
internal sealed class UnicodeNormalizer(NormalizationForm form) : Normalizer
{
    public override string Apply(string text, int limit) => UnicodeNormalization.Normalize(text, form);
}

/// <summary>Replaces each match of a pattern by a fixed text.</summary>
internal sealed class ReplaceNormalizer(Pattern pattern, string content) : Normalizer
{
    public override string Apply(string text, int limit)
    {
        var result = new StringBuilder();
        var steps = Pattern.StepsFor(text.Length);
        for (var at = 0; at < text.Length;)
        {
            var found = pattern.Find(text, at, ref steps, out var start, out var end);
            result.Append(text, at, start - at);
            if (result.Length > limit - (found ? content.Length : 0))
                throw TooLong(limit);
            if (found)
                result.Append(content);
            at = end;
        }
        return result.ToString();
    }
}

/// <summary>Puts a text before every non-empty text.</summary>
internal sealed class PrependNormalizer(string prefix) : Normalizer
{
    public override string Apply(string text, int limit) => text.Length == 0 ? text : prefix.Length <= limit - text.Length ? prefix + text
        : throw TooLong(limit);
}

/// <summary>One after another.</summary>
internal sealed class NormalizerSequence(Normalizer[] stages) : Normalizer
{
    public override string Apply(string text, int limit) => stages.Aggregate(text, (t, stage) => stage.Apply(t, limit));
}
