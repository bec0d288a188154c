using KtNotebooks.Generation;
using KtNotebooks.Tokenizers;

namespace KtNotebooks.Server.OpenAi;

/// <summary>Log-probabilities of /v1/completions; of an echoed prompt's first token there are none (null).</summary>
/// <param name="Tokens">Their texts; behind an echoed prompt the stop token that ended the text is the last of them.</param>
/// <param name="TokenLogprobs">Of each.</param>
/// <param name="TopLogprobs">Of the likeliest at each place, and of the token itself; null where none were asked for.</param>
/// <param name="TextOffset">Where each token begins in the text, in characters (UTF-16).</param>
internal sealed record TextLogprobs(IReadOnlyList<string> Tokens, IReadOnlyList<float?> TokenLogprobs,
    IReadOnlyList<Dictionary<string, float>?>? TopLogprobs, IReadOnlyList<int> TextOffset);

/// <summary>Puts <see cref="TextLogprobs"/> of one text together as its tokens come.</summary>
internal sealed class TextTokens(Tokenizer tokenizer, int likeliest)
{
    private readonly StreamDecoder _decoder = new(tokenizer, skipSpecial: true);
    private readonly List<(GeneratedToken Token, int Offset)> _tokens = [];
    private int _said;

    /// <summary>An echoed prompt, which is a text of its own: what was no whole character at its end becomes none.</summary>
    public void AddPrompt(IReadOnlyList<GeneratedToken> prompt)
    {
        foreach (var token in prompt) Add(token);
        _said += _decoder.Flush().Length;
    }

    public void Add(GeneratedToken token)
    {
        if (token.Id is not { } id) return; // text that had been held back
        _tokens.Add((token, _said));
        _said += _decoder.Push(id).Length;
    }

    /// <summary>Those that have come since the last time.</summary>
    public TextLogprobs Take()
    {
        var taken = new TextLogprobs([.. _tokens.Select(t => Text(t.Token.Id!.Value))], [.. _tokens.Select(t => t.Token.Logprob)],
            likeliest == 0 ? null : [.. _tokens.Select(t => Top(t.Token))], [.. _tokens.Select(t => t.Offset)]);
        _tokens.Clear();
        return taken;
    }

    private Dictionary<string, float>? Top(GeneratedToken token)
    {
        if (token.Logprob is not { } own) return null;
        Dictionary<string, float> top = [];
        foreach (var (id, logprob) in token.Likeliest ?? []) top.TryAdd(Text(id), logprob);
        top.TryAdd(Text(token.Id!.Value), own);
        return top;
    }

    private string Text(int id) => Logprobs.Text(id, tokenizer);
}
