using KtNotebooks.Server.Http;

namespace KtNotebooks.Server.OpenAi;

/// <summary>POST /v1/chat/completions.</summary>
internal sealed class ChatEndpoint(ModelEngine engine)
{
    public async Task Handle(RequestContext c)
    {
        var body = await c.ReadAsync();
        var chat = ChatRequest.Read(body, engine.Template);
        using var reply = await c.StartAsync(engine, chat.Request);
        var id = $"chatcmpl-{Guid.NewGuid():N}";
        if (chat.Stream) await Stream(c, chat, reply, id);
        else await Whole(c, chat, reply, id);
    }

    private async Task Whole(RequestContext c, ChatRequest chat, Reply reply, string id)
    {
        await reply.ReadToEndAsync(c.Cancel);
        var choices = reply.Answers.Select(a => new ChatChoice(a.Index, Logprobs.Of(chat.Request, a.Tokens, engine.Tokenizer), EngineTelemetry.Word(a.Reason))
        {
            Message = new ChatAnswer("assistant", a.Text.Length == 0 && a.Calls.Count > 0 ? null : a.Text.ToString(), null)
            {
                ReasoningContent = a.Thought.Length > 0 ? a.Thought.ToString() : null,
                ToolCalls = a.Calls.Count > 0 ? [.. a.Calls.Select(call => Of(call, null))] : null,
            },
        });
        await c.WriteAsync(Say(reply, id, "chat.completion", [.. choices]) with { Usage = ChatUsage.Of(reply.Usage) }, ChatJson.Wire.ChatCompletion);
    }

    private async Task Stream(RequestContext c, ChatRequest chat, Reply reply, string id)
    {
        var events = c.Events;
        var tokens = reply.Answers.Select(_ => new List<Generation.GeneratedToken>()).ToArray();
        var calls = new int[reply.Answers.Count];
        foreach (var answer in reply.Answers) Write(answer, new ChatDelta { Role = "assistant", Content = "" });
        await events.FlushAsync(c.Cancel);
        await foreach (var (answer, part) in reply.ReadAsync(c.Cancel))
        {
            switch (part)
            {
                case TokenPart token:
                    tokens[answer.Index].Add(token.Token);
                    continue;
                case TextPart text: Write(answer, new ChatDelta { Content = text.Text }); break;
                case ThoughtPart thought: Write(answer, new ChatDelta { ReasoningContent = thought.Text }); break;
                case CallPart call: Write(answer, new ChatDelta { ToolCalls = [Of(call, calls[answer.Index]++)] }); break;
                default: Write(answer, new ChatDelta(), EngineTelemetry.Word(answer.Reason)); break;
            }
            if (part is null ? reply.Answers.Count > 1 : !answer.HasMore) await events.FlushAsync(c.Cancel); // the end of one alone goes out with [DONE]
        }
        if (chat.StreamUsage)
            events.Write(null, Say(reply, id, "chat.completion.chunk", []) with { Usage = ChatUsage.Of(reply.Usage) }, ChatJson.Wire.ChatCompletion);
        events.WriteText("[DONE]");
        await events.FlushAsync(c.Cancel);

        void Write(Answer answer, ChatDelta delta, string? reason = null)
        {
            var logprobs = tokens[answer.Index].Count > 0 ? Logprobs.Of(chat.Request, tokens[answer.Index], engine.Tokenizer) : null;
            tokens[answer.Index].Clear();
            events.Write(null, Say(reply, id, "chat.completion.chunk", [new ChatChoice(answer.Index, logprobs, reason) { Delta = delta }]),
                ChatJson.Wire.ChatCompletion);
        }
    }

    private ChatCompletion Say(Reply reply, string id, string kind, IReadOnlyList<ChatChoice> choices) =>
        new(id, kind, reply.Created.ToUnixTimeSeconds(), reply.Model.Name, choices, engine.Fingerprint);

    private static ChatCall Of(CallPart call, int? index) => new(index, call.Id, "function", new ChatFunction(call.Name, call.Arguments));
}
