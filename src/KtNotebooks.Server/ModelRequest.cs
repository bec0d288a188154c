using System.Text.Json;

using KtNotebooks.Data;

namespace KtNotebooks.Server;

/// <summary>
/// What a client asks for, in the one form that all endpoints and <see cref="KtChatClient"/> make of it. What is not given (null) is as the server's config
/// says.
/// </summary>
public sealed record ModelRequest
{
    /// <summary>The base's name, an adapter's, or the server's own (API_MODEL_NAME).</summary>
    public required string Model { get; init; }

    /// <summary>Turns of a conversation, questions and answers in turn; empty where <see cref="Ids"/> are given.</summary>
    public IReadOnlyList<Message> Messages { get; init; } = [];

    /// <summary>The prompt as tokens, without a template.</summary>
    public IReadOnlyList<int>? Ids { get; init; }

    public string? System { get; init; }

    /// <summary>The beginning of the answer, which the model goes on from.</summary>
    public string? Prefill { get; init; }

    public IReadOnlyList<Tool> Tools { get; init; } = [];

    public ToolChoice Choice { get; init; } = ToolChoice.Auto;

    /// <summary>The one tool that must be called; null: any.</summary>
    public string? ToolName { get; init; }

    /// <summary>One answer may call several tools.</summary>
    public bool ParallelCalls { get; init; } = true;

    /// <summary>Whether a reasoning model thinks; null: as the config's enable_thinking says.</summary>
    public bool? Think { get; init; }

    /// <summary>The answer is JSON.</summary>
    public bool Json { get; init; }

    /// <summary>The answer is JSON of this schema.</summary>
    public JsonElement? Schema { get; init; }

    /// <summary>0: nothing is drawn, the prompt is computed alone.</summary>
    public int? MaxTokens { get; init; }

    public bool? DoSample { get; init; }

    public double? Temperature { get; init; }

    public double? TopP { get; init; }

    public int? TopK { get; init; }

    public double? MinP { get; init; }

    public double? PresencePenalty { get; init; }

    public double? FrequencyPenalty { get; init; }

    public double? RepetitionPenalty { get; init; }

    /// <summary>null: another one every time.</summary>
    public ulong? Seed { get; init; }

    /// <summary>Answers to the same prompt.</summary>
    public int N { get; init; } = 1;

    public IReadOnlyList<string> Stops { get; init; } = [];

    public IReadOnlyList<int> StopIds { get; init; } = [];

    /// <summary>The template's own end does not end an answer: for measurements.</summary>
    public bool IgnoreEnd { get; init; }

    public IReadOnlyDictionary<int, float> LogitBias { get; init; } = new Dictionary<int, float>();

    /// <summary>How many likeliest tokens are told with each; null: no log-probabilities.</summary>
    public int? Logprobs { get; init; }

    /// <summary>Log-probabilities of the prompt's tokens too, where <see cref="Logprobs"/> are asked for.</summary>
    public bool TellPrompt { get; init; }

    /// <summary>What was sent besides and changes nothing here.</summary>
    public IReadOnlyList<NoEffect> NoEffects { get; init; } = [];

    /// <summary>Who asks, for traces.</summary>
    public string? User { get; init; }
}

/// <summary>A function that the model may call.</summary>
/// <param name="Name">Letters, digits, _ and -.</param>
/// <param name="Description">What for.</param>
/// <param name="Parameters">JSON schema of its arguments, an object.</param>
/// <param name="Strict">A call has arguments of that schema, always.</param>
public sealed record Tool(string Name, string? Description, JsonElement Parameters, bool Strict = false);

/// <summary>Whether tools are called.</summary>
public enum ToolChoice
{
    /// <summary>The model decides.</summary>
    Auto,

    /// <summary>They are not told to it.</summary>
    None,

    /// <summary>The answer is a call.</summary>
    Required,
}
