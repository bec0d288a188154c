using System.Runtime.CompilerServices;
using System.Text;

using KtNotebooks.Generation;

namespace KtNotebooks.Server;

/// <summary>One answer in the making: a <see cref="Completion"/>, its text split into thought, calls and text. Read once.</summary>
public sealed class Answer
{
    private readonly Completion _completion;
    private readonly AnswerReader _reader;
    private readonly bool _oneCall;

    internal Answer(int index, Completion completion, AnswerReader reader, bool oneCall)
    {
        (Index, _completion, _reader, _oneCall) = (index, completion, reader, oneCall);
        Began = DateTime.UtcNow;
    }

    /// <summary>Which of several.</summary>
    public int Index { get; }

    public DateTime Began { get; }

    /// <summary>When its first token came; null: none yet.</summary>
    public TimeSpan? FirstToken { get; private set; }

    /// <summary>Text so far.</summary>
    public StringBuilder Text { get; } = new();

    /// <summary>Thought so far.</summary>
    public StringBuilder Thought { get; } = new();

    public List<CallPart> Calls { get; } = [];

    /// <summary>Tokens with log-probabilities, where they were asked for.</summary>
    public List<GeneratedToken> Tokens { get; } = [];

    /// <summary>The prompt's tokens with log-probabilities, where they were asked for: whole when the answer has begun.</summary>
    public IReadOnlyList<GeneratedToken> PromptTokens => _completion.PromptTokens;

    /// <summary>The stop token that ended it, where log-probabilities were asked for; it is no part of the answer.</summary>
    public GeneratedToken? StopToken => _completion.StopToken;

    /// <summary>Of the answer when it is done.</summary>
    public EndReason Reason => Calls.Count > 0 ? EndReason.ToolCalls : _completion.Reason == FinishReason.Length ? EndReason.Length : EndReason.Stop;

    /// <summary>The stop text that ended it.</summary>
    public string? StopText => _completion.StopText;

    public int ThoughtTokens { get; private set; }

    public Usage Usage => new(_completion.Request.Prompt.Count, _completion.CachedTokens, _completion.Count, ThoughtTokens);

    /// <summary>More tokens have been drawn already: what was read need not be sent alone.</summary>
    internal bool HasMore => _completion.HasMore;

    public void Cancel() => _completion.Cancel();

    /// <summary>Its parts as they come; everything that is read is also kept. Leaving early cancels it.</summary>
    /// <exception cref="ApiException">The server failed, or ends.</exception>
    public async IAsyncEnumerable<AnswerPart> ReadAsync([EnumeratorCancellation] CancellationToken cancel = default)
    {
        try
        {
            await foreach (var token in Drawn(cancel))
            {
                FirstToken ??= DateTime.UtcNow - Began;
                if (token.Logprob is not null)
                {
                    Tokens.Add(token);
                    yield return new TokenPart(token);
                }
                if (token.Id is not null && _reader.IsThinking) ThoughtTokens++;
                foreach (var part in _reader.Push(token.Text)) yield return Keep(part);
                if (_oneCall && Calls.Count > 0) yield break;
            }
            foreach (var part in _reader.Flush()) yield return Keep(part);
            if (_completion.Reason == FinishReason.Cancelled)
            {
                cancel.ThrowIfCancellationRequested();
                throw new ApiException(503, "the server is shutting down") { RetryAfter = 10 };
            }
        }
        finally
        {
            _completion.Cancel();
        }
    }

    /// <summary>Reads it to the end.</summary>
    public async Task ReadToEndAsync(CancellationToken cancel = default)
    {
        await foreach (var _ in ReadAsync(cancel))
        {
        }
    }

    private async IAsyncEnumerable<GeneratedToken> Drawn([EnumeratorCancellation] CancellationToken cancel)
    {
        await using var tokens = _completion.ReadAllAsync(cancel).GetAsyncEnumerator(cancel);
        while (true)
        {
            try
            {
                if (!await tokens.MoveNextAsync()) yield break;
            }
            catch (InsufficientMemoryException full)
            {
                throw new ApiException(503, "there is not enough memory for this request now; a shorter prompt, or fewer requests at once, may fit")
                {
                    Cause = full,
                    RetryAfter = 10,
                };
            }
            catch (Exception error) when (error is not OperationCanceledException)
            {
                throw new ApiException(500, "the model failed at this request; the server's log says why") { Cause = error };
            }
            yield return tokens.Current;
        }
    }

    private AnswerPart Keep(AnswerPart part)
    {
        switch (part)
        {
            case TextPart text: Text.Append(text.Text); break;
            case ThoughtPart thought: Thought.Append(thought.Text); break;
            case CallPart call: Calls.Add(call); break;
        }
        return part;
    }
}
