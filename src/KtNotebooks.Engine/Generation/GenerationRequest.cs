namespace KtNotebooks.Generation;

/// <summary>What shall be generated, and how: a prompt and everything that acts on its answer alone.</summary>
/// <param name="Prompt">Token ids.</param>
/// <param name="Sampling">How tokens are drawn, and how many at most; its seed decides the draws, whatever else runs.</param>
public sealed record GenerationRequest(IReadOnlyList<int> Prompt, Sampling Sampling)
{
    /// <summary>Tokens that end the answer and are no part of it.</summary>
    public IReadOnlySet<int> StopIds { get; init; } = new HashSet<int>();

    /// <summary>Texts that end the answer and are no part of it, also where they run over several tokens.</summary>
    public IReadOnlyList<string> StopTexts { get; init; } = [];

    /// <summary>One of <see cref="Lora.NamedAdapters.Of"/>, `base`, or null: the attached one.</summary>
    public string? Adapter { get; init; }

    /// <summary>
    /// How many of the likeliest tokens are told with each drawn one, with log-probabilities; null: nothing is told, 0: the drawn one's alone.
    /// </summary>
    public int? Logprobs { get; init; }

    /// <summary>
    /// The same for the tokens of the prompt, see <see cref="Completion.PromptTokens"/>; null: nothing is told of them. The whole prompt is computed then,
    /// whatever the cache holds of it.
    /// </summary>
    public int? PromptLogprobs { get; init; }

    /// <summary>Nothing is drawn, whatever <see cref="Sampling"/> says: for what is known when the prompt has been computed.</summary>
    public bool PromptOnly { get; init; }

    /// <summary>Added to the logits of tokens.</summary>
    public IReadOnlyDictionary<int, float> LogitBias { get; init; } = new Dictionary<int, float>();

    /// <summary>Decides which tokens may come next; null: all.</summary>
    public ITokenMask? Mask { get; init; }
}

/// <summary>
/// Rules out tokens, for an answer of a given form (JSON, a grammar, one of a few words). One mask belongs to one answer and is asked once a token, in order.
/// </summary>
public interface ITokenMask
{
    /// <summary>Sets the logits of tokens that may not come after those drawn so far to −∞. Stop tokens are asked about like any others.</summary>
    void Apply(Span<float> logits, IReadOnlyList<int> drawn);
}

/// <summary>Why an answer ended.</summary>
public enum FinishReason
{
    /// <summary>It has not.</summary>
    None,

    /// <summary>A stop token.</summary>
    StopToken,

    /// <summary>A stop text.</summary>
    StopText,

    /// <summary>max_new_tokens, or the model's last position.</summary>
    Length,

    /// <summary>Whoever asked for it does not want it any more.</summary>
    Cancelled,

    /// <summary>An error, which reading throws.</summary>
    Failed,
}

/// <summary>A token and the logarithm of its probability before penalties and temperature.</summary>
public readonly record struct TokenLogprob(int Id, float Logprob);

/// <summary>What one step added to an answer.</summary>
/// <param name="Id">The token; null: text alone, that had been held back.</param>
/// <param name="Text">Text that is certain now: whole characters, nothing that may yet be a stop text. Empty without a tokenizer.</param>
/// <param name="Logprob">Where log-probabilities were asked for.</param>
/// <param name="Likeliest">The likeliest tokens at this place, the likeliest first.</param>
public sealed record GeneratedToken(int? Id, string Text, float? Logprob = null, IReadOnlyList<TokenLogprob>? Likeliest = null);
