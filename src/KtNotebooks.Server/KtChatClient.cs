using System.Runtime.CompilerServices;
using System.Text.Json;

using KtNotebooks.Server.OpenAi;

using Microsoft.Extensions.AI;

namespace KtNotebooks.Server;

/// <summary>
/// An engine as .NET's <see cref="IChatClient"/>, without HTTP between: streaming, tools, JSON by schema, thoughts, usage. What an option asks for and is not
/// to be had is refused by name (NotSupportedException), never passed over.
/// </summary>
/// <param name="engine">Not owned.</param>
/// <param name="model">The model where options name none; null: the engine's first.</param>
public sealed class KtChatClient(ModelEngine engine, string? model = null) : IChatClient
{
    public async Task<ChatResponse> GetResponseAsync(IEnumerable<ChatMessage> messages, ChatOptions? options = null,
        CancellationToken cancellationToken = default)
    {
        using var reply = await Start(messages, options);
        await reply.ReadToEndAsync(cancellationToken);
        var answer = reply.Answers[0];
        List<AIContent> contents = [];
        if (answer.Thought.Length > 0) contents.Add(new TextReasoningContent(answer.Thought.ToString()));
        if (answer.Text.Length > 0) contents.Add(new TextContent(answer.Text.ToString()));
        contents.AddRange(answer.Calls.Select(Of));
        return new ChatResponse(new ChatMessage(ChatRole.Assistant, contents) { MessageId = Guid.NewGuid().ToString("N") })
        {
            ModelId = reply.Model.Name,
            CreatedAt = reply.Created,
            FinishReason = Of(answer.Reason),
            Usage = Of(reply.Usage),
            ResponseId = Guid.NewGuid().ToString("N"),
        };
    }

    public async IAsyncEnumerable<ChatResponseUpdate> GetStreamingResponseAsync(IEnumerable<ChatMessage> messages, ChatOptions? options = null,
        [EnumeratorCancellation] CancellationToken cancellationToken = default)
    {
        using var reply = await Start(messages, options);
        var (response, message) = (Guid.NewGuid().ToString("N"), Guid.NewGuid().ToString("N"));
        await foreach (var (answer, part) in reply.ReadAsync(cancellationToken))
        {
            AIContent? content = part switch
            {
                TextPart text => new TextContent(text.Text),
                ThoughtPart thought => new TextReasoningContent(thought.Text),
                CallPart call => Of(call),
                null => new UsageContent(Of(reply.Usage)),
                _ => null,
            };
            if (content is null) continue;
            yield return new ChatResponseUpdate(ChatRole.Assistant, [content])
            {
                ModelId = reply.Model.Name,
                CreatedAt = reply.Created,
                ResponseId = response,
                MessageId = message,
                FinishReason = part is null ? Of(answer.Reason) : null,
            };
        }
    }

    public object? GetService(Type serviceType, object? serviceKey = null)
    {
        ArgumentNullException.ThrowIfNull(serviceType);
        return serviceKey is not null ? null
            : serviceType == typeof(ChatClientMetadata) ? new ChatClientMetadata("ktnotebooks", null, Name)
            : serviceType == typeof(ModelEngine) ? engine
            : serviceType.IsInstanceOfType(this) ? this : null;
    }

    /// <summary>The engine stays its owner's.</summary>
    public void Dispose()
    {
    }

    private string Name => model ?? engine.Models[0].Name;

    private async Task<Reply> Start(IEnumerable<ChatMessage> messages, ChatOptions? options)
    {
        ArgumentNullException.ThrowIfNull(messages);
        try
        {
            return await engine.StartAsync(Read(messages, options ?? new ChatOptions()));
        }
        catch (ApiException error) when (error.Code is "unsupported_parameter")
        {
            throw new NotSupportedException(error.Message, error);
        }
        catch (ApiException error) when (error.Status is >= 400 and < 500 and not 429)
        {
            throw new ArgumentException(error.Message, error);
        }
    }

    private ModelRequest Read(IEnumerable<ChatMessage> messages, ChatOptions o)
    {
        if (o.ConversationId is not null) throw ApiException.Unsupported(nameof(o.ConversationId), "conversations are not kept; send all messages");
        if (o.AdditionalProperties is { Count: > 0 } more) throw ApiException.Unsupported(more.First().Key, "an additional property that is not known here");
        var turns = new Turns(engine.Template);
        if (!string.IsNullOrEmpty(o.Instructions)) turns.AddSystem(o.Instructions, nameof(o.Instructions));
        foreach (var (message, i) in messages.Select((m, i) => (m, i))) Add(turns, message, $"messages[{i}]");
        var (told, prefill) = turns.End(mayGoOn: false, "messages");
        IReadOnlyList<Tool> tools = [.. (o.Tools ?? []).Select(t => t is AIFunctionDeclaration f
            ? RequestFields.ToolOf(f.Name, nameof(o.Tools), f.Description, f.JsonSchema, nameof(o.Tools))
            : throw ApiException.Unsupported(t.Name, "tools are functions"))];
        return new ModelRequest
        {
            Model = o.ModelId ?? Name,
            Messages = told,
            Prefill = prefill,
            System = turns.System,
            Tools = RequestFields.Distinct(tools, nameof(o.Tools)),
            Choice = o.ToolMode switch { NoneChatToolMode => ToolChoice.None, RequiredChatToolMode => ToolChoice.Required, _ => ToolChoice.Auto },
            ToolName = (o.ToolMode as RequiredChatToolMode)?.RequiredFunctionName is { } name ? RequestFields.Known(name, tools, nameof(o.ToolMode)) : null,
            ParallelCalls = o.AllowMultipleToolCalls ?? true,
            Json = o.ResponseFormat is ChatResponseFormatJson { Schema: null },
            Schema = (o.ResponseFormat as ChatResponseFormatJson)?.Schema,
            MaxTokens = (int?)Within(o.MaxOutputTokens, SamplingRange.MaxTokens, nameof(o.MaxOutputTokens)),
            Temperature = Within(o.Temperature, SamplingRange.Temperature, nameof(o.Temperature)),
            TopP = Within(o.TopP, SamplingRange.TopP, nameof(o.TopP)),
            TopK = Within(o.TopK, SamplingRange.TopK, nameof(o.TopK)) is { } k ? Math.Max((int)k, 0) : null,
            PresencePenalty = Within(o.PresencePenalty, SamplingRange.Penalty, nameof(o.PresencePenalty)),
            FrequencyPenalty = Within(o.FrequencyPenalty, SamplingRange.Penalty, nameof(o.FrequencyPenalty)),
            Seed = o.Seed is { } seed ? unchecked((ulong)seed) : null,
            Stops = RequestFields.Stops([.. o.StopSequences ?? []], nameof(o.StopSequences)),
            Think = o.Reasoning?.Effort is { } effort ? effort is not ReasoningEffort.None : null,
        };
    }

    private static double? Within(double? value, SamplingRange range, string name) => value is not { } number || range.Has(number) ? value
        : throw ApiException.Wrong(name, $"must be {range.Words}, but is {number}");

    private static void Add(Turns turns, ChatMessage message, string at)
    {
        if (message.Contents.FirstOrDefault(c => c is not (TextContent or TextReasoningContent or FunctionCallContent or FunctionResultContent or UsageContent))
            is { } other)
            throw ApiException.Unsupported(at, $"{other.GetType().Name}: this model reads text alone");
        if (message.Role == ChatRole.System) turns.AddSystem(message.Text, at);
        else if (message.Role == ChatRole.Tool)
            foreach (var result in message.Contents.OfType<FunctionResultContent>()) turns.AddResult(result.CallId, Text(result), at);
        else if (message.Role == ChatRole.Assistant)
            turns.AddAnswer(string.Concat(message.Contents.OfType<TextReasoningContent>().Select(t => t.Text)), message.Text,
                [.. message.Contents.OfType<FunctionCallContent>().Select(c => (c.CallId, c.Name, JsonSerializer.Serialize(c.Arguments,
                    AIJsonUtilities.DefaultOptions.GetTypeInfo(typeof(IDictionary<string, object?>)))))], at);
        else turns.AddUser(message.Text, at);
    }

    private static string Text(FunctionResultContent result) => result.Result switch
    {
        null => result.Exception is { } error ? $"error: {error.Message}" : "",
        string text => text,
        JsonElement { ValueKind: JsonValueKind.String } json => json.GetString()!,
        var value => JsonSerializer.Serialize(value, AIJsonUtilities.DefaultOptions.GetTypeInfo(value.GetType())),
    };

    private static FunctionCallContent Of(CallPart call) => FunctionCallContent.CreateFromParsedArguments(call.Arguments, call.Id, call.Name,
        json => JsonSerializer.Deserialize(json, (System.Text.Json.Serialization.Metadata.JsonTypeInfo<Dictionary<string, object?>>)
            AIJsonUtilities.DefaultOptions.GetTypeInfo(typeof(Dictionary<string, object?>))));

    private static ChatFinishReason Of(EndReason reason) => reason switch
    {
        EndReason.Length => ChatFinishReason.Length,
        EndReason.ToolCalls => ChatFinishReason.ToolCalls,
        _ => ChatFinishReason.Stop,
    };

    private static UsageDetails Of(Usage usage) => new()
    {
        InputTokenCount = usage.Prompt,
        OutputTokenCount = usage.Drawn,
        TotalTokenCount = usage.Total,
        CachedInputTokenCount = usage.Cached,
        ReasoningTokenCount = usage.Thought,
    };
}
