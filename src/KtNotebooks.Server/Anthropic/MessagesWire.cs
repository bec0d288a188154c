using System.Text.Json;
using System.Text.Json.Serialization;

using KtNotebooks.Server.OpenAi;

namespace KtNotebooks.Server.Anthropic;

/// <summary>What /v1/messages says.</summary>
internal sealed record MessageAnswer(string Id, string Type, string Role, string Model, IReadOnlyList<Block> Content, string? StopReason, string? StopSequence,
    MessageUsage Usage);

/// <param name="InputTokens">Without those that were found in the cache.</param>
internal sealed record MessageUsage(int InputTokens, int CacheCreationInputTokens, int CacheReadInputTokens, int OutputTokens)
{
    public static MessageUsage Of(Usage u) => new(u.Prompt - u.Cached, 0, u.Cached, u.Drawn);
}

/// <summary>A text, a thought, or a call; what belongs to another kind is left out.</summary>
internal sealed record Block(string Type)
{
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public string? Text { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public string? Thinking { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public string? Signature { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public string? Id { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public string? Name { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public JsonElement? Input { get; init; }
}

internal sealed record MessageEvent(string Type)
{
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public MessageAnswer? Message { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public int? Index { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public Block? ContentBlock { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public BlockDelta? Delta { get; init; }
}

/// <summary>The event before the last: why the message ended, and what it took.</summary>
internal sealed record MessageEnd(string Type, EndDelta Delta, MessageUsage Usage);

internal sealed record EndDelta(string StopReason, string? StopSequence);

/// <summary>What a block grows by.</summary>
internal sealed record BlockDelta
{
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public string? Type { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public string? Text { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public string? Thinking { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public string? Signature { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public string? PartialJson { get; init; }
}

internal sealed record CountedTokens(int InputTokens);

internal sealed record MessageErrorBody(string Type, MessageError Error, string RequestId);

internal sealed record MessageError(string Type, string Message);

[JsonSerializable(typeof(MessageAnswer))]
[JsonSerializable(typeof(MessageEvent))]
[JsonSerializable(typeof(MessageEnd))]
[JsonSerializable(typeof(CountedTokens))]
[JsonSerializable(typeof(MessageErrorBody))]
internal sealed partial class MessagesJson : JsonSerializerContext
{
    public static readonly MessagesJson Wire = new(WireOptions.Snake());
}
