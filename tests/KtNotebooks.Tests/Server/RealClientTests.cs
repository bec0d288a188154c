using System.ClientModel;

using Anthropic;
using Anthropic.Models.Messages;

using KtNotebooks.Server;

using Microsoft.Extensions.AI;

using OpenAI;
using OpenAI.Responses;

using Xunit;

using ChatMessage = Microsoft.Extensions.AI.ChatMessage;

#pragma warning disable OPENAI001 // The client's responses are "for evaluation"; it is what people use.

namespace KtNotebooks.Tests.Server;

/// <summary>Official clients of .NET: Anthropic's, OpenAI's for responses, and Microsoft.Extensions.AI over HTTP and without.</summary>
public sealed class RealClientTests(TinyServer tiny) : IClassFixture<TinyServer>
{
    private const string Question = "What is the capital of France?";

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    [Fact]
    public async Task Anthropics_client_talks_counts_and_streams()
    {
        using var client = Claude();
        var asked = new MessageCreateParams
        {
            Model = TinyServer.Model,
            MaxTokens = 24,
            Messages = [new UserMessageParam { Content = Question }],
        };
        var whole = await client.Messages.Create(asked, Stop);
        Assert.True(whole.Content[0].TryPickText(out var text) && text.Text.Length > 0);
        Assert.Equal(StopReason.EndTurn, whole.StopReason!.Value());
        Assert.True(whole.Usage.InputTokens + whole.Usage.CacheReadInputTokens > 5);
        var counted = await client.Messages.CountTokens(new MessageCountTokensParams { Model = TinyServer.Model, Messages = [.. asked.Messages] }, Stop);
        Assert.Equal(whole.Usage.InputTokens + whole.Usage.CacheReadInputTokens, counted.InputTokens);
        var (said, ended) = ("", false);
        await foreach (var e in client.Messages.CreateStreaming(asked, Stop))
        {
            if (e.TryPickContentBlockDelta(out var delta) && delta.Delta.TryPickText(out var piece)) said += piece.Text;
            ended |= e.TryPickStop(out _);
        }
        Assert.True(said.Length > 0 && ended);
        var wrong = await Assert.ThrowsAnyAsync<Exception>(() => client.Messages.Create(asked with { Model = "claude-5" }, Stop));
        Assert.Contains("is not served here", wrong.ToString(), StringComparison.Ordinal);
    }

    [Fact]
    public async Task OpenAIs_responses_come_whole_and_in_events()
    {
        var client = new OpenAIClient(new ApiKeyCredential(TinyServer.Key), new OpenAIClientOptions { Endpoint = new Uri(tiny.Server.Url, "v1") })
            .GetResponsesClient();
        var options = new CreateResponseOptions(TinyServer.Model, [ResponseItem.CreateUserMessageItem(Question)]) { Temperature = 0 };
        var whole = (await client.CreateResponseAsync(options, Stop)).Value;
        Assert.Contains("Paris", whole.GetOutputText(), StringComparison.Ordinal);
        Assert.Equal(ResponseStatus.Completed, whole.Status);
        options.StreamingEnabled = true;
        var (text, completed) = ("", false);
        await foreach (var update in await client.CreateResponseStreamingAsync(options, Stop))
        {
            if (update is StreamingResponseOutputTextDeltaUpdate delta) text += delta.Delta;
            completed |= update is StreamingResponseCompletedUpdate;
        }
        Assert.Equal((whole.GetOutputText(), true), (text, completed));
    }

    public static TheoryData<string> Clients => ["engine", "openai chat", "openai responses", "anthropic"];

    [Theory]
    [MemberData(nameof(Clients))]
    public async Task Microsoft_Extensions_AI_streams_and_counts(string kind)
    {
        using var chat = Client(kind);
        var options = new ChatOptions { MaxOutputTokens = 24, Temperature = kind == "anthropic" ? null : 0 };
        var whole = await chat.GetResponseAsync(Question, options, Stop);
        if (kind != "anthropic") Assert.Contains("Paris", whole.Text, StringComparison.Ordinal);
        ChatFinishReason? stop = kind == "openai responses" ? null : ChatFinishReason.Stop; // of responses the library tells none
        Assert.Equal(stop, whole.FinishReason);
        Assert.True(whole.Usage?.InputTokenCount > 5);
        if (kind == "openai responses") return; // this version of the library calls a method that this version of the client has not
        List<ChatResponseUpdate> updates = [];
        await foreach (var update in chat.GetStreamingResponseAsync(Question, options, Stop)) updates.Add(update);
        var streamed = updates.ToChatResponse();
        if (kind != "anthropic") Assert.Equal(whole.Text, streamed.Text);
        Assert.True(updates.Count(u => u.Text.Length > 0) > 1, "it came in one piece");
        Assert.True(streamed.Usage?.OutputTokenCount > 1);
        Assert.Equal(stop, streamed.FinishReason);
    }

    /// <summary>The library calls the function that the model asks for, and tells it the result.</summary>
    [Theory]
    [MemberData(nameof(Clients))]
    public async Task Microsoft_Extensions_AI_calls_functions(string kind)
    {
        List<string> called = [];
        var weather = AIFunctionFactory.Create((string city) =>
        {
            called.Add(city);
            return "sunny";
        }, "weather", "Says how the weather is");
        using var inner = Client(kind);
        using var chat = new FunctionInvokingChatClient(inner) { MaximumIterationsPerRequest = 1 };
        var answer = await chat.GetResponseAsync(Question, new ChatOptions
        {
            Tools = [weather],
            ToolMode = ChatToolMode.RequireSpecific("weather"),
            AllowMultipleToolCalls = false,
            MaxOutputTokens = 60,
        }, Stop);
        Assert.NotEmpty(called);
        Assert.Contains(answer.Messages.SelectMany(m => m.Contents).OfType<FunctionResultContent>(), r => r.Result?.ToString() == "sunny");
    }

    [Theory]
    [InlineData("engine")]
    [InlineData("openai chat")]
    [InlineData("openai responses")]
    public async Task Microsoft_Extensions_AI_gets_values_of_a_type(string kind)
    {
        using var chat = Client(kind);
        var answer = await chat.GetResponseAsync<City>(Question, new ChatOptions { MaxOutputTokens = 60, Temperature = 1.5f }, cancellationToken: Stop);
        Assert.NotNull(answer.Result.Name);
        Assert.True(Enum.IsDefined(answer.Result.Size));
    }

    [Fact]
    public async Task What_an_option_asks_for_and_is_not_there_is_refused_by_name()
    {
        using var chat = Client("engine");
        Assert.Equal("ConversationId is not supported: conversations are not kept; send all messages", (await Assert.ThrowsAsync<NotSupportedException>(() =>
            chat.GetResponseAsync(Question, new ChatOptions { ConversationId = "x" }, Stop))).Message);
        Assert.StartsWith("the model 'x' is not served here", (await Assert.ThrowsAsync<ArgumentException>(() =>
            chat.GetResponseAsync(Question, new ChatOptions { ModelId = "x" }, Stop))).Message, StringComparison.Ordinal);
        Assert.StartsWith("messages[0] is not supported: DataContent", (await Assert.ThrowsAsync<NotSupportedException>(() => chat.GetResponseAsync(
            [new ChatMessage(ChatRole.User, [new DataContent(new byte[1], "image/png")])], null, Stop))).Message, StringComparison.Ordinal);
        // The same values as over HTTP.
        foreach (var (options, message) in new (ChatOptions, string)[]
        {
            (new() { Temperature = 5 }, "Temperature: must be from 0 to 2, but is 5"),
            (new() { Temperature = float.NaN }, "Temperature: must be from 0 to 2, but is NaN"),
            (new() { TopP = 0 }, "TopP: must be above 0 and at most 1, but is 0"),
            (new() { TopK = -2 }, "TopK: must be from -1 to 2147483647, but is -2"),
            (new() { MaxOutputTokens = 0 }, "MaxOutputTokens: must be from 1 to 2147483647, but is 0"),
            (new() { PresencePenalty = 9 }, "PresencePenalty: must be from -2 to 2, but is 9"),
            (new() { FrequencyPenalty = -9 }, "FrequencyPenalty: must be from -2 to 2, but is -9"),
            (new() { StopSequences = [""] }, "StopSequences: a stop text must not be empty"),
        })
            Assert.Equal(message, (await Assert.ThrowsAsync<ArgumentException>(() => chat.GetResponseAsync(Question, options, Stop))).Message);
    }

    private AnthropicClient Claude() => new() { ApiKey = TinyServer.Key, BaseUrl = tiny.Server.Url.ToString(), MaxRetries = 0 };

    private IChatClient Client(string kind)
    {
        var openAi = new OpenAIClient(new ApiKeyCredential(TinyServer.Key), new OpenAIClientOptions { Endpoint = new Uri(tiny.Server.Url, "v1") });
        return kind switch
        {
            "engine" => new KtChatClient(tiny.Engine),
            "openai chat" => openAi.GetChatClient(TinyServer.Model).AsIChatClient(),
            "openai responses" => openAi.GetResponsesClient().AsIChatClient(TinyServer.Model),
            _ => Claude().AsIChatClient(TinyServer.Model, 64),
        };
    }

    private enum Size
    {
        Small,
        Large,
    }

    private sealed record City(string Name, Size Size);
}
