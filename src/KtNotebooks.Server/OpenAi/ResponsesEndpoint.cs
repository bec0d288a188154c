using System.Text;
using System.Text.Json;

using KtNotebooks.Generation;
using KtNotebooks.Server.Http;

namespace KtNotebooks.Server.OpenAi;

/// <summary>POST /v1/responses. Answers are not kept: the next request brings all items again.</summary>
internal sealed class ResponsesEndpoint(ModelEngine engine)
{
    private static readonly JsonElement NoTools = Parse("[]"), Auto = Parse("\"auto\""), None = Parse("{}"),
        PlainText = Parse("""{"format":{"type":"text"}}""");

    public async Task Handle(RequestContext c)
    {
        var asked = ResponsesRequest.Read(await c.ReadAsync(), engine.Template);
        using var reply = await c.StartAsync(engine, asked.Request);
        if (asked.Stream)
        {
            await new Events(engine, c, asked, reply).Run();
            return;
        }
        await reply.ReadToEndAsync(c.Cancel);
        var answer = reply.Answers[0];
        List<ResponseItem> items = [];
        if (answer.Thought.Length > 0) items.Add(Thought(NewId("rs"), answer.Thought.ToString()));
        if (answer.Text.Length > 0 || answer.Calls.Count == 0)
            items.Add(Said(NewId("msg"), answer.Text.ToString(), Logprobs.Of(asked.Request, answer.Tokens, engine.Tokenizer)?.Content, IsCut(answer)));
        items.AddRange(answer.Calls.Select(call => Call(NewId("fc"), call)));
        await c.WriteAsync(Response(asked, reply, NewId("resp"), items, done: true), ResponsesJson.Wire.ModelResponse);
    }

    private static ModelResponse Response(ResponsesRequest asked, Reply reply, string id, IReadOnlyList<ResponseItem> items, bool done)
    {
        var cut = done && IsCut(reply.Answers[0]);
        return new ModelResponse(id, "response", reply.Created.ToUnixTimeSeconds(), !done ? "in_progress" : cut ? "incomplete" : "completed",
            reply.Model.Name, items)
        {
            IncompleteDetails = cut ? new IncompleteDetails("max_output_tokens") : null,
            Instructions = asked.Body.Instructions,
            MaxOutputTokens = asked.Request.MaxTokens,
            Metadata = asked.Body.Metadata ?? None,
            ParallelToolCalls = asked.Request.ParallelCalls,
            Reasoning = asked.Body.Reasoning,
            Temperature = asked.Request.Temperature,
            TopP = asked.Request.TopP,
            Text = asked.Body.Text ?? PlainText,
            ToolChoice = asked.Body.ToolChoice ?? Auto,
            Tools = asked.Body.Tools ?? NoTools,
            User = asked.Request.User,
            Usage = done ? ResponseUsage.Of(reply.Usage) : null,
        };
    }

    private static ResponseItem Thought(string id, string text) => new("reasoning", id)
    {
        Summary = [],
        Content = [new ResponsePart("reasoning_text", text)],
    };

    private static bool IsCut(Answer answer) => answer.Reason == EndReason.Length;

    private static ResponseItem Said(string id, string text, IReadOnlyList<ChatTokenLogprob>? logprobs, bool cut) => new("message", id)
    {
        Status = cut ? "incomplete" : "completed",
        Role = "assistant",
        Content = [new ResponsePart("output_text", text) { Annotations = [], Logprobs = logprobs ?? [] }],
    };

    private static ResponseItem Call(string id, CallPart call) => new("function_call", id)
    {
        Status = "completed",
        CallId = call.Id,
        Name = call.Name,
        Arguments = call.Arguments,
    };

    private static string NewId(string kind) => $"{kind}_{Guid.NewGuid():N}";

    private static JsonElement Parse(string json)
    {
        using var document = JsonDocument.Parse(json);
        return document.RootElement.Clone();
    }

    /// <summary>The events of one response: items open, grow and close one after another.</summary>
    private sealed class Events(ModelEngine engine, RequestContext c, ResponsesRequest asked, Reply reply)
    {
        private readonly string _id = NewId("resp");
        private readonly List<ResponseItem> _items = [];
        private readonly List<GeneratedToken> _tokens = [];
        private readonly List<ChatTokenLogprob> _logprobs = [];
        private readonly StringBuilder _text = new();
        private string? _open; // the id of the message or thought that grows
        private bool _thinks;
        private int _number;

        public async Task Run()
        {
            Write("response.created", e => e with { Response = Response(asked, reply, _id, [], done: false) });
            Write("response.in_progress", e => e with { Response = Response(asked, reply, _id, [], done: false) });
            await c.Events.FlushAsync(c.Cancel);
            await foreach (var (_, part) in reply.ReadAsync(c.Cancel))
            {
                if (part is TokenPart token)
                {
                    _tokens.Add(token.Token);
                    continue;
                }
                if (part is TextPart text) Grow(text.Text, thinks: false);
                else if (part is ThoughtPart thought) Grow(thought.Text, thinks: true);
                else if (part is CallPart call) Add(call);
                await c.Events.FlushAsync(c.Cancel);
            }
            if (_items.Count == 0 && _open is null) Grow("", thinks: false);
            Close(IsCut(reply.Answers[0]));
            var response = Response(asked, reply, _id, _items, done: true);
            Write(response.Status == "incomplete" ? "response.incomplete" : "response.completed", e => e with { Response = response });
            await c.Events.FlushAsync(c.Cancel);
        }

        private void Grow(string text, bool thinks)
        {
            if (_open is not null && _thinks != thinks) Close();
            if (_open is null)
            {
                (_open, _thinks) = (NewId(thinks ? "rs" : "msg"), thinks);
                var item = thinks ? new ResponseItem("reasoning", _open) { Summary = [], Content = [] }
                    : new ResponseItem("message", _open) { Status = "in_progress", Role = "assistant", Content = [] };
                Write("response.output_item.added", e => e with { OutputIndex = _items.Count, Item = item });
                Write("response.content_part.added", e => At(e) with { Part = Part("") });
            }
            _text.Append(text);
            if (thinks)
            {
                Write("response.reasoning_text.delta", e => At(e) with { Delta = text });
                return;
            }
            var logprobs = Logprobs.Of(asked.Request, _tokens, engine.Tokenizer)?.Content ?? [];
            _tokens.Clear();
            _logprobs.AddRange(logprobs);
            Write("response.output_text.delta", e => At(e) with { Delta = text, Logprobs = logprobs });
        }

        private void Close(bool cut = false)
        {
            if (_open is null) return;
            var text = _text.ToString();
            Write(_thinks ? "response.reasoning_text.done" : "response.output_text.done",
                e => At(e) with { Text = text, Logprobs = _thinks ? null : [.. _logprobs] });
            Write("response.content_part.done", e => At(e) with { Part = Part(text) });
            var item = _thinks ? Thought(_open, text) : Said(_open, text, [.. _logprobs], cut);
            Write("response.output_item.done", e => e with { OutputIndex = _items.Count, Item = item });
            _items.Add(item);
            (_open, _) = (null, _text.Clear());
            _logprobs.Clear();
        }

        private void Add(CallPart call)
        {
            Close();
            var item = Call(NewId("fc"), call);
            Write("response.output_item.added", e => e with
            {
                OutputIndex = _items.Count,
                Item = item with { Status = "in_progress", Arguments = "" },
            });
            Write("response.function_call_arguments.delta", e => e with { OutputIndex = _items.Count, ItemId = item.Id, Delta = call.Arguments });
            Write("response.function_call_arguments.done",
                e => e with { OutputIndex = _items.Count, ItemId = item.Id, Name = call.Name, Arguments = call.Arguments });
            Write("response.output_item.done", e => e with { OutputIndex = _items.Count, Item = item });
            _items.Add(item);
        }

        private ResponsePart Part(string text) => _thinks ? new ResponsePart("reasoning_text", text)
            : new ResponsePart("output_text", text) { Annotations = [], Logprobs = [] };

        private ResponseEvent At(ResponseEvent e) => e with { OutputIndex = _items.Count, ItemId = _open, ContentIndex = 0 };

        private void Write(string type, Func<ResponseEvent, ResponseEvent> fill) =>
            c.Events.Write(type, fill(new ResponseEvent(type, _number++)), ResponsesJson.Wire.ResponseEvent);
    }
}
