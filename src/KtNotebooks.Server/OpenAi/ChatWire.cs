using System.Text.Json.Serialization;

namespace KtNotebooks.Server.OpenAi;

/// <summary>What /v1/chat/completions says, whole and in events.</summary>
internal sealed record ChatCompletion(string Id, string Object, long Created, string Model, IReadOnlyList<ChatChoice> Choices, string SystemFingerprint)
{
    // Of events only the last has it, and only where it was asked for.
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public ChatUsage? Usage { get; init; }
}

/// <param name="Logprobs">null where they were not asked for.</param>
/// <param name="FinishReason">stop, length, tool_calls; null in events before the last.</param>
internal sealed record ChatChoice(int Index, ChatLogprobs? Logprobs, string? FinishReason)
{
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public ChatAnswer? Message { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public ChatDelta? Delta { get; init; }
}

internal sealed record ChatAnswer(string Role, string? Content, string? Refusal)
{
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public string? ReasoningContent { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public IReadOnlyList<ChatCall>? ToolCalls { get; init; }
}

/// <summary>What an event adds: only what it has is written.</summary>
internal sealed record ChatDelta
{
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public string? Role { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public string? Content { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public string? ReasoningContent { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public IReadOnlyList<ChatCall>? ToolCalls { get; init; }
}

/// <param name="Index">In events: which call; null in a whole answer.</param>
internal sealed record ChatCall([property: JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)] int? Index, string Id, string Type,
    ChatFunction Function);

internal sealed record ChatFunction(string Name, string Arguments);

internal sealed record ChatLogprobs(IReadOnlyList<ChatTokenLogprob> Content, object? Refusal);

internal sealed record ChatTokenLogprob(string Token, float Logprob, IReadOnlyList<int> Bytes, IReadOnlyList<ChatTopLogprob> TopLogprobs);

internal sealed record ChatTopLogprob(string Token, float Logprob, IReadOnlyList<int> Bytes);

internal sealed record ChatUsage(int PromptTokens, int CompletionTokens, int TotalTokens, PromptDetails PromptTokensDetails,
    CompletionDetails CompletionTokensDetails)
{
    public static ChatUsage Of(Usage usage) =>
        new(usage.Prompt, usage.Drawn, usage.Total, new PromptDetails(usage.Cached), new CompletionDetails(usage.Thought));
}

internal sealed record PromptDetails(int CachedTokens);

internal sealed record CompletionDetails(int ReasoningTokens);

/// <summary>OpenAI's form of an error.</summary>
internal sealed record ErrorBody(ErrorText Error);

internal sealed record ErrorText(string Message, string Type, string? Param, string? Code);

internal sealed record ModelList(string Object, IReadOnlyList<ModelCard> Data);

/// <param name="Root">What the name stands for: the base or an adapter by its own name.</param>
/// <param name="Parent">Of an adapter: the base that it stands on.</param>
internal sealed record ModelCard(string Id, string Object, long Created, string OwnedBy, string Root, string? Parent, int MaxModelLen);

[JsonSerializable(typeof(ChatCompletion))]
[JsonSerializable(typeof(ErrorBody))]
[JsonSerializable(typeof(ModelList))]
[JsonSerializable(typeof(ModelCard))]
[JsonSerializable(typeof(string))]
internal sealed partial class ChatJson : JsonSerializerContext
{
    public static readonly ChatJson Wire = new(WireOptions.Snake());
}
