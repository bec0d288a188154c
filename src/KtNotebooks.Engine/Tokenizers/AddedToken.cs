using System.Buffers;
using System.Globalization;

namespace KtNotebooks.Tokenizers;

/// <summary>A token that is cut out of the text before the model sees it.</summary>
/// <param name="Id">Its id.</param>
/// <param name="Content">Its text.</param>
/// <param name="Special">Left out when decoding without special tokens.</param>
/// <param name="SingleWord">Only where no word character touches it.</param>
/// <param name="LStrip">Takes the white space before it as well.</param>
/// <param name="RStrip">Takes the white space after it as well.</param>
/// <param name="Normalized">Looked for in the normalised text rather than in the text as given.</param>
public sealed record AddedToken(
    int Id, string Content, bool Special, bool SingleWord = false, bool LStrip = false, bool RStrip = false, bool Normalized = false);

/// <summary>Finds added tokens in a text: the leftmost, and of several there the longest.</summary>
internal sealed class AddedTokenFinder
{
    // A trie: (node, unit) → node; node 0 is the root. DeepSeek has 800 tokens that begin with '<', so a list of candidates would be slow.
    private readonly Dictionary<(int Node, char Unit), int> _edges = [];
    private readonly List<AddedToken?> _tokens = [null];
    private readonly SearchValues<char> _firsts;

    public AddedTokenFinder(IEnumerable<AddedToken> tokens)
    {
        var firsts = new HashSet<char>();
        foreach (var token in tokens.Where(t => t.Content.Length > 0))
        {
            firsts.Add(token.Content[0]);
            var node = 0;
            foreach (var unit in token.Content)
            {
                if (!_edges.TryGetValue((node, unit), out var child))
                {
                    _edges[(node, unit)] = child = _tokens.Count;
                    _tokens.Add(null);
                }
                node = child;
            }
            _tokens[node] = token;
        }
        _firsts = SearchValues.Create([.. firsts]);
    }

    /// <summary>
    /// The next token at or after <paramref name="from"/>, null when there is none (start and end are then the text's end); the units it takes
    /// may include white space around it.
    /// </summary>
    public AddedToken? Next(ReadOnlySpan<char> text, int from, out int start, out int end)
    {
        for (var at = from; at < text.Length; at++)
        {
            var jump = text[at..].IndexOfAny(_firsts);
            if (jump < 0)
                break;
            at += jump;
            if (Longest(text[at..]) is not { } token)
                continue;
            (start, end) = (at, at + token.Content.Length);
            if (token.SingleWord && (TouchesWord(text, start - 1) || TouchesWord(text, end)))
            {
                at = end - 1; // what it covered is not looked at again, as upstream
                continue;
            }
            while (token.LStrip && start > from && char.IsWhiteSpace(text[start - 1]))
                start--;
            while (token.RStrip && end < text.Length && char.IsWhiteSpace(text[end]))
                end++;
            return token;
        }
        (start, end) = (text.Length, text.Length);
        return null;
    }

    private AddedToken? Longest(ReadOnlySpan<char> text)
    {
        AddedToken? longest = null;
        var node = 0;
        for (var i = 0; i < text.Length && _edges.TryGetValue((node, text[i]), out node); i++)
            longest = _tokens[node] ?? longest;
        return longest;
    }

    private static bool TouchesWord(ReadOnlySpan<char> text, int at)
    {
        if (at < 0 || at >= text.Length)
            return false;
        if (at > 0 && char.IsLowSurrogate(text[at]))
            at--;
        var category = CharUnicodeInfo.GetUnicodeCategory(Pattern.CodePointAt(text, at, out _));
        return category is <= UnicodeCategory.DecimalDigitNumber or UnicodeCategory.LetterNumber or UnicodeCategory.ConnectorPunctuation;
    }
}
