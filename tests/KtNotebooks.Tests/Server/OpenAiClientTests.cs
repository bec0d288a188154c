using System.ClientModel;

using OpenAI;
using OpenAI.Chat;

using Xunit;

namespace KtNotebooks.Tests.Server;

/// <summary>The official OpenAI client of .NET against our server.</summary>
public sealed class OpenAiClientTests(TinyServer tiny) : IClassFixture<TinyServer>
{
    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    [Fact]
    public async Task Chats_whole_and_in_pieces()
    {
        var chat = Chat();
        ChatMessage[] messages = [new UserChatMessage("What is the capital of France?")];
        var options = new ChatCompletionOptions { Temperature = 0, MaxOutputTokenCount = 24 };
        var whole = (await chat.CompleteChatAsync(messages, options, Stop)).Value;
        Assert.Contains("Paris", whole.Content[0].Text, StringComparison.Ordinal);
        Assert.Equal(ChatFinishReason.Stop, whole.FinishReason);
        Assert.True(whole.Usage.InputTokenCount > 5 && whole.Usage.OutputTokenCount > 1);
        var (text, reason, tokens) = ("", (ChatFinishReason?)null, 0);
        await foreach (var update in chat.CompleteChatStreamingAsync(messages, options, Stop))
        {
            text += string.Concat(update.ContentUpdate.Select(c => c.Text));
            reason ??= update.FinishReason;
            tokens = update.Usage?.OutputTokenCount ?? tokens;
        }
        Assert.Equal(whole.Content[0].Text, text);
        Assert.Equal(ChatFinishReason.Stop, reason);
        Assert.Equal(whole.Usage.OutputTokenCount, tokens);
    }

    [Fact]
    public async Task Hears_what_is_wrong()
    {
        var error = await Assert.ThrowsAsync<ClientResultException>(() => new OpenAIClient(new ApiKeyCredential("wrong"), At()).GetChatClient(TinyServer.Model)
            .CompleteChatAsync([new UserChatMessage("x")], cancellationToken: Stop));
        Assert.Equal(401, error.Status);
        error = await Assert.ThrowsAsync<ClientResultException>(() => Client().GetChatClient("gpt-5").CompleteChatAsync([new UserChatMessage("x")],
            cancellationToken: Stop));
        Assert.Equal(404, error.Status);
        Assert.Contains("the model 'gpt-5' is not served here; there are kt-tiny", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Lists_models()
    {
        var models = (await Client().GetOpenAIModelClient().GetModelsAsync(Stop)).Value;
        Assert.Equal([TinyServer.Model], models.Select(m => m.Id));
    }

    private OpenAIClient Client() => new(new ApiKeyCredential(TinyServer.Key), At());

    private OpenAIClientOptions At() => new()
    {
        Endpoint = new Uri(tiny.Server.Url, "v1"),
        RetryPolicy = new System.ClientModel.Primitives.ClientRetryPolicy(0),
    };

    private ChatClient Chat() => Client().GetChatClient(TinyServer.Model);
}
