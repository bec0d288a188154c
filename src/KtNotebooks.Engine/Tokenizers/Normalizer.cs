using System.Text;

namespace KtNotebooks.Tokenizers;

/// <summary>Rewrites text before it is cut.</summary>
internal abstract class Normalizer
{
    public abstract string Apply(string text);
}

/// <summary>One of Unicode's normalisation forms.</summary>
internal sealed class UnicodeNormalizer(NormalizationForm form) : Normalizer
{
    public override string Apply(string text) => UnicodeNormalization.Normalize(text, form);
}

/// <summary>Replaces each match of a pattern by a fixed text.</summary>
internal sealed class ReplaceNormalizer(Pattern pattern, string content) : Normalizer
{
    public override string Apply(string text)
    {
        var result = new StringBuilder();
        for (var at = 0; at < text.Length;)
        {
            var found = pattern.Find(text, at, out var start, out var end);
            result.Append(text, at, start - at);
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
    public override string Apply(string text) => text.Length == 0 ? text : prefix + text;
}

/// <summary>One after another.</summary>
internal sealed class NormalizerSequence(Normalizer[] stages) : Normalizer
{
    public override string Apply(string text) => stages.Aggregate(text, (t, stage) => stage.Apply(t));
}
