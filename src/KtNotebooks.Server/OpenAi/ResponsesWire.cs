using System.Text.Json;
using System.Text.Json.Serialization;

namespace KtNotebooks.Server.OpenAi;

/// <summary>What /v1/responses says.</summary>
internal sealed record ModelResponse(string Id, string Object, double CreatedAt, string Status, string Model, IReadOnlyList<ResponseItem> Output)
{
    public object? Error { get; init; }

    public IncompleteDetails? IncompleteDetails { get; init; }

    public string? Instructions { get; init; }

    public int? MaxOutputTokens { get; init; }

    public JsonElement? Metadata { get; init; }

    public bool ParallelToolCalls { get; init; }

    public string? PreviousResponseId { get; init; }

    public JsonElement? Reasoning { get; init; }

    public bool Store { get; init; }

    public double? Temperature { get; init; }

    public double? TopP { get; init; }

    public JsonElement? Text { get; init; }

    public JsonElement? ToolChoice { get; init; }

    public JsonElement? Tools { get; init; }

    public string Truncation { get; init; } = "disabled";

    public ResponseUsage? Usage { get; init; }

    public string? User { get; init; }
}

internal sealed record IncompleteDetails(string Reason);

internal sealed record ResponseUsage(int InputTokens, InputDetails InputTokensDetails, int OutputTokens, OutputDetails OutputTokensDetails, int TotalTokens)
{
    public static ResponseUsage Of(Usage u) => new(u.Prompt, new InputDetails(u.Cached), u.Drawn, new OutputDetails(u.Thought), u.Total);
}

internal sealed record InputDetails(int CachedTokens);

internal sealed record OutputDetails(int ReasoningTokens);

/// <summary>A message, a thought, or a call; what belongs to another kind is left out.</summary>
internal sealed record ResponseItem(string Type, string Id)
{
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public string? Status { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public string? Role { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public IReadOnlyList<ResponsePart>? Content { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public IReadOnlyList<ResponsePart>? Summary { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public string? CallId { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public string? Name { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public string? Arguments { get; init; }
}

internal sealed record ResponsePart(string Type, string Text)
{
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public IReadOnlyList<object>? Annotations { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public IReadOnlyList<ChatTokenLogprob>? Logprobs { get; init; }
}

/// <summary>An event; what it has depends on its type.</summary>
internal sealed record ResponseEvent(string Type, int SequenceNumber)
{
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public ModelResponse? Response { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public int? OutputIndex { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public ResponseItem? Item { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public string? ItemId { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public int? ContentIndex { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public ResponsePart? Part { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public string? Delta { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public string? Text { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public string? Name { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public string? Arguments { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public IReadOnlyList<ChatTokenLogprob>? Logprobs { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public string? Message { get; init; }

    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public string? Code { get; init; }
}

[JsonSerializable(typeof(ModelResponse))]
[JsonSerializable(typeof(ResponseEvent))]
internal sealed partial class ResponsesJson : JsonSerializerContext
{
    public static readonly ResponsesJson Wire = new(WireOptions.Snake());
}
