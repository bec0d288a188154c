using KtNotebooks.Generation;
using KtNotebooks.Tokenizers;

namespace KtNotebooks.Server.OpenAi;

/// <summary>Log-probabilities as OpenAI tells them.</summary>
internal static class Logprobs
{
    /// <summary>null where none were asked for.</summary>
    public static ChatLogprobs? Of(ModelRequest request, IEnumerable<GeneratedToken> tokens, Tokenizer tokenizer) =>
        request.Logprobs is null ? null : new ChatLogprobs([.. tokens.Where(t => t.Id is not null).Select(t => Of(t, tokenizer))], null);

    public static ChatTokenLogprob Of(GeneratedToken token, Tokenizer tokenizer) => new(Text(token.Id!.Value, tokenizer), token.Logprob ?? 0,
        Bytes(token.Id.Value, tokenizer),
        [.. (token.Likeliest ?? []).Select(t => new ChatTopLogprob(Text(t.Id, tokenizer), t.Logprob, Bytes(t.Id, tokenizer)))]);

    /// <summary>Empty for one of the gaps that vocabularies have.</summary>
    public static string Text(int id, Tokenizer tokenizer) => tokenizer.Has(id) ? tokenizer.Decode([id]) : "";

    private static int[] Bytes(int id, Tokenizer tokenizer) => !tokenizer.Has(id) ? [] : [.. tokenizer.Bytes(id).ToArray().Select(b => (int)b)];
}
