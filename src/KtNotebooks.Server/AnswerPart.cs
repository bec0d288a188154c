using KtNotebooks.Generation;

namespace KtNotebooks.Server;

/// <summary>A piece of an answer.</summary>
public abstract record AnswerPart;

/// <summary>Text of the answer.</summary>
public sealed record TextPart(string Text) : AnswerPart;

/// <summary>Text of the thought before it.</summary>
public sealed record ThoughtPart(string Text) : AnswerPart;

/// <summary>A call of a tool, whole.</summary>
/// <param name="Id">Ours: `call_…`.</param>
/// <param name="Name">One of the tools.</param>
/// <param name="Arguments">JSON text.</param>
public sealed record CallPart(string Id, string Name, string Arguments) : AnswerPart;

/// <summary>A drawn token with its log-probabilities, where they were asked for.</summary>
public sealed record TokenPart(GeneratedToken Token) : AnswerPart;

/// <summary>Why an answer ended, as an endpoint tells it.</summary>
public enum EndReason
{
    /// <summary>The model ended it, or a stop text.</summary>
    Stop,

    /// <summary>max_tokens, or the model's last position.</summary>
    Length,

    /// <summary>It calls tools.</summary>
    ToolCalls,
}

/// <summary>Tokens of one answer or of several.</summary>
/// <param name="Prompt">Of the prompt.</param>
/// <param name="Cached">Those of them that were found in the cache.</param>
/// <param name="Drawn">Drawn.</param>
/// <param name="Thought">Those of them that belong to a thought.</param>
public sealed record Usage(int Prompt, int Cached, int Drawn, int Thought)
{
    public int Total => Prompt + Drawn;

    /// <summary>Several answers to one prompt, which counts once.</summary>
    public static Usage Of(IReadOnlyList<Answer> answers) => new(answers.Max(a => a.Usage.Prompt), answers.Max(a => a.Usage.Cached),
        answers.Sum(a => a.Usage.Drawn), answers.Sum(a => a.Usage.Thought));
}
