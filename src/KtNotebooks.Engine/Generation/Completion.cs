using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using System.Text;
using System.Threading.Channels;

using KtNotebooks.Nn;
using KtNotebooks.Tokenizers;

namespace KtNotebooks.Generation;

/// <summary>
/// An answer in the making, as <see cref="Scheduler.Add(GenerationRequest)"/> gives it: tokens are read from it, by any thread, as they come. Reading never
/// blocks the scheduler.
/// </summary>
public sealed class Completion
{
    private readonly Channel<GeneratedToken> _tokens = Channel.CreateUnbounded<GeneratedToken>(); // max_new_tokens bounds it
    private readonly StreamDecoder? _decoder;
    private readonly StopTexts _stops;
    private readonly StringBuilder _text = new();
    private readonly Sampler _sampler;
    private readonly List<int> _ids;
    private volatile bool _cancelled;

    internal Completion(GenerationRequest request, long number, int room, CachedSequence cached, Tokenizer? tokenizer)
    {
        (Request, Number, Room, Cached) = (request, number, room, cached);
        _ids = [.. request.Prompt];
        Scores = request.PromptLogprobs is { } likeliest ? new PromptScores(request.Prompt, likeliest) : null;
        _sampler = new Sampler(request.Sampling);
        _decoder = tokenizer is null ? null : new StreamDecoder(tokenizer, skipSpecial: true);
        _stops = new StopTexts(request.StopTexts);
    }

    public GenerationRequest Request { get; }

    /// <summary>Requests are numbered as they are added.</summary>
    public long Number { get; }

    /// <summary>Why it ended; <see cref="FinishReason.None"/> while it goes on.</summary>
    public FinishReason Reason { get; private set; }

    public bool IsDone => Reason != FinishReason.None;

    /// <summary>The tokens drawn so far, without the stop token. Whole when it is done.</summary>
    public int[] Ids => [.. _ids.Skip(Request.Prompt.Count)];

    /// <summary>The text so far, without the stop text; empty where the scheduler has no tokenizer. Whole when it is done.</summary>
    public string Text => _text.ToString();

    /// <summary>The stop text that ended it; null: none did.</summary>
    public string? StopText => _stops.Match;

    /// <summary>
    /// The tokens of the prompt with log-probabilities (the first has none), where they were asked for; whole before the first token is drawn.
    /// </summary>
    public IReadOnlyList<GeneratedToken> PromptTokens => Scores?.Told ?? [];

    /// <summary>The stop token that ended it, where log-probabilities were asked for; null: none did.</summary>
    public GeneratedToken? StopToken { get; private set; }

    /// <summary>How many tokens have been drawn so far.</summary>
    public int Count => _ids.Count - Request.Prompt.Count;

    /// <summary>Tokens of the prompt that were found in the cache and not computed.</summary>
    public int CachedTokens { get; internal set; }

    /// <summary>Most tokens that it may become.</summary>
    internal int Room { get; }

    internal CachedSequence Cached { get; }

    internal bool IsCancelled => _cancelled;

    /// <summary>Tokens that the cache does not hold yet.</summary>
    internal int Pending => _ids.Count - Cached.Length;

    internal List<int> All => _ids;

    internal PromptScores? Scores { get; }

    /// <summary>The tokens whose rows it may take from the cache: all but the last of them. What the prompt is asked about is computed.</summary>
    internal ReadOnlySpan<int> Reusable => CollectionsMarshal.AsSpan(_ids)[..(Scores is { IsWhole: false } scores ? scores.Told.Count : _ids.Count)];

    /// <summary>Ends it between two steps. From any thread, any number of times.</summary>
    public void Cancel() => _cancelled = true;

    /// <summary>The next token, if it is there already.</summary>
    public bool TryRead(out GeneratedToken token) => _tokens.Reader.TryRead(out token!);

    /// <summary>A token is there that nobody has read.</summary>
    public bool HasMore => _tokens.Reader.TryPeek(out _);

    /// <summary>Tokens as they come, until the end.</summary>
    public IAsyncEnumerable<GeneratedToken> ReadAllAsync(CancellationToken cancel = default) => _tokens.Reader.ReadAllAsync(cancel);

    /// <summary>Draws, or ends by what its own mask or bias did wrong: the others go on.</summary>
    internal void TryTake(Span<float> logits)
    {
        try
        {
            Take(logits);
        }
        catch (Exception error) when (error is not OutOfMemoryException)
        {
            Finish(FinishReason.Failed, error);
        }
    }

    /// <summary>Draws from the likeliest tokens, where they are all that it asks for; false: it is to draw from all logits.</summary>
    internal bool TryTake(Shortlist list)
    {
        if (Room == 0 || Request.Mask is not null || Request.Logprobs is not null) return false;
        if (!_sampler.TryNext(list, Request.LogitBias, _ids, new Tail(_ids, Request.Prompt.Count), out var token)) return false;
        Accept(token, []);
        return true;
    }

    /// <summary>Draws from the logits [V] of the last token.</summary>
    internal void Take(Span<float> logits)
    {
        if (Room == 0)
        {
            Finish(FinishReason.Length);
            return;
        }
        float[] before = Request.Logprobs is null ? [] : logits.ToArray();
        foreach (var (id, bias) in Request.LogitBias)
            if (id < logits.Length) logits[id] += bias;
        var drawn = new Tail(_ids, Request.Prompt.Count);
        if (Request.Mask is { } mask)
        {
            mask.Apply(logits, drawn);
            if (float.IsNegativeInfinity(TensorPrimitives.Max<float>(logits)))
                throw new InvalidOperationException("the mask of a request allows no token at all");
        }
        Accept(_sampler.Next(logits, _ids, drawn), before);
    }

    /// <summary>Takes a token that was drawn.</summary>
    /// <param name="token">Which.</param>
    /// <param name="before">Logits as the model gave them, for log-probabilities; empty: nobody asked for those.</param>
    private void Accept(int token, float[] before)
    {
        if (Request.StopIds.Contains(token))
        {
            if (Request.Logprobs is not null) StopToken = Tell(before, token, "");
            Finish(FinishReason.StopToken);
            return;
        }
        _ids.Add(token);
        var text = Said(_stops.Push(_decoder?.Push(token) ?? ""));
        _tokens.Writer.TryWrite(Tell(before, token, text));
        if (_stops.Found) Finish(FinishReason.StopText);
        else if (_ids.Count - Request.Prompt.Count >= Room) Finish(FinishReason.Length);
    }

    internal void Finish(FinishReason reason, Exception? error = null)
    {
        if (IsDone) return;
        var rest = _stops.Found ? "" : Said(_stops.Push(_decoder?.Flush() ?? "") + _stops.Flush());
        if (rest.Length > 0) _tokens.Writer.TryWrite(new GeneratedToken(null, rest));
        Reason = _stops.Found && reason == FinishReason.Length ? FinishReason.StopText : reason;
        _tokens.Writer.TryComplete(error);
    }

    private string Said(string text)
    {
        _text.Append(text);
        return text;
    }

    private GeneratedToken Tell(float[] logits, int token, string text)
    {
        if (Request.Logprobs is not { } likeliest) return new GeneratedToken(token, text);
        var (logprob, top) = TokenLogprobs.Of(logits, token, likeliest);
        return new GeneratedToken(token, text, logprob, top);
    }

    /// <summary>A list from a place on.</summary>
    private sealed class Tail(List<int> all, int from) : IReadOnlyList<int>
    {
        public int Count => all.Count - from;

        public int this[int index] => all[from + index];

        public IEnumerator<int> GetEnumerator()
        {
            for (var i = from; i < all.Count; i++) yield return all[i];
        }

        System.Collections.IEnumerator System.Collections.IEnumerable.GetEnumerator() => GetEnumerator();
    }
}
