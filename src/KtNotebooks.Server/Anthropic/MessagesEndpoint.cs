using System.Text.Json;

using KtNotebooks.Server.Http;
using KtNotebooks.Server.OpenAi;

namespace KtNotebooks.Server.Anthropic;

/// <summary>POST /v1/messages and /v1/messages/count_tokens.</summary>
internal sealed class MessagesEndpoint(ModelEngine engine)
{
    private static readonly JsonElement NoInput = Parse("{}");

    public async Task Handle(RequestContext c)
    {
        var asked = MessagesRequest.Read(await c.ReadAsync(), engine.Template);
        using var reply = await c.StartAsync(engine, asked.Request);
        var id = $"msg_{Guid.NewGuid():N}";
        if (asked.Stream)
        {
            await Stream(c, reply, id);
            return;
        }
        await reply.ReadToEndAsync(c.Cancel);
        var answer = reply.Answers[0];
        List<Block> blocks = [];
        if (answer.Thought.Length > 0) blocks.Add(new Block("thinking") { Thinking = answer.Thought.ToString(), Signature = "" });
        if (answer.Text.Length > 0 || answer.Calls.Count == 0) blocks.Add(new Block("text") { Text = answer.Text.ToString() });
        blocks.AddRange(answer.Calls.Select(call => new Block("tool_use") { Id = call.Id, Name = call.Name, Input = Parse(call.Arguments) }));
        await c.WriteAsync(new MessageAnswer(id, "message", "assistant", reply.Model.Name, blocks, Reason(answer), answer.StopText,
            MessageUsage.Of(reply.Usage)), MessagesJson.Wire.MessageAnswer);
    }

    public async Task Count(RequestContext c)
    {
        var asked = MessagesRequest.Read(await c.ReadAsync(), engine.Template, counts: true);
        engine.Find(asked.Request.Model);
        await c.WriteAsync(new CountedTokens(engine.Prompts.Build(asked.Request).Request.Prompt.Count), MessagesJson.Wire.CountedTokens);
    }

    private static async Task Stream(RequestContext c, Reply reply, string id)
    {
        var (index, open) = (-1, (string?)null);
        var begin = new MessageAnswer(id, "message", "assistant", reply.Model.Name, [], null, null, MessageUsage.Of(reply.Usage) with { OutputTokens = 0 });
        Write(new MessageEvent("message_start") { Message = begin });
        await c.Events.FlushAsync(c.Cancel);
        await foreach (var (_, part) in reply.ReadAsync(c.Cancel))
        {
            switch (part)
            {
                case TextPart text:
                    Open("text", new Block("text") { Text = "" });
                    Write(new MessageEvent("content_block_delta") { Index = index, Delta = new BlockDelta { Type = "text_delta", Text = text.Text } });
                    break;
                case ThoughtPart thought:
                    Open("thinking", new Block("thinking") { Thinking = "", Signature = "" });
                    Write(new MessageEvent("content_block_delta")
                    {
                        Index = index,
                        Delta = new BlockDelta { Type = "thinking_delta", Thinking = thought.Text },
                    });
                    break;
                case CallPart call:
                    Close();
                    Open("tool_use", new Block("tool_use") { Id = call.Id, Name = call.Name, Input = NoInput });
                    Write(new MessageEvent("content_block_delta")
                    {
                        Index = index,
                        Delta = new BlockDelta { Type = "input_json_delta", PartialJson = call.Arguments },
                    });
                    Close();
                    break;
                default: continue;
            }
            await c.Events.FlushAsync(c.Cancel);
        }
        if (index < 0) Open("text", new Block("text") { Text = "" });
        Close();
        var answer = reply.Answers[0];
        c.Events.Write("message_delta", new MessageEnd("message_delta", new EndDelta(Reason(answer), answer.StopText), MessageUsage.Of(reply.Usage)),
            MessagesJson.Wire.MessageEnd);
        Write(new MessageEvent("message_stop"));
        await c.Events.FlushAsync(c.Cancel);

        void Open(string kind, Block block)
        {
            if (open == kind) return;
            Close();
            (open, index) = (kind, index + 1);
            Write(new MessageEvent("content_block_start") { Index = index, ContentBlock = block });
        }

        void Close()
        {
            if (open is null) return;
            if (open == "thinking")
                Write(new MessageEvent("content_block_delta") { Index = index, Delta = new BlockDelta { Type = "signature_delta", Signature = "" } });
            Write(new MessageEvent("content_block_stop") { Index = index });
            open = null;
        }

        void Write(MessageEvent e) => c.Events.Write(e.Type, e, MessagesJson.Wire.MessageEvent);
    }

    private static string Reason(Answer answer) => answer.Reason switch
    {
        EndReason.Length => "max_tokens",
        EndReason.ToolCalls => "tool_use",
        _ => answer.StopText is null ? "end_turn" : "stop_sequence",
    };

    /// <summary>The arguments of a call; what a model wrote that is no JSON object is told as it stands.</summary>
    private static JsonElement Parse(string json)
    {
        try
        {
            using var document = JsonDocument.Parse(json);
            return document.RootElement.Clone();
        }
        catch (JsonException)
        {
            return JsonSerializer.SerializeToElement(json, ChatJson.Wire.String);
        }
    }
}
