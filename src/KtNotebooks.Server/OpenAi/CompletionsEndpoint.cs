using System.Text.Json;
using System.Text.Json.Serialization;

using KtNotebooks.Server.Http;

namespace KtNotebooks.Server.OpenAi;

/// <summary>POST /v1/completions: text that goes on, without a template. Several prompts are several requests in one.</summary>
internal sealed class CompletionsEndpoint(ModelEngine engine)
{
    private const int MostPrompts = 64;

    public async Task Handle(RequestContext c)
    {
        var f = new JsonFields(await c.ReadAsync());
        var echo = f.Flag("echo") ?? false;
        var request = RequestFields.ReadSampling(f, new ModelRequest { Model = f.RequiredText("model") }) with
        {
            MaxTokens = f.Int("max_tokens", 0) ?? 16, // OpenAI's default
            Logprobs = f.Int("logprobs", 0, RequestFields.MostLikeliest),
            TellPrompt = echo,
        };
        if (request.MaxTokens == 0 && !echo) throw ApiException.Wrong("max_tokens", "0 asks for nothing; with echo: true it gives the prompt and its logprobs");
        request = RequestFields.ReadFormat(f.Object("response_format"), request, format => format.Object("json_schema") ?? throw format.Missing("json_schema"));
        request = RequestFields.ReadVllm(f, request);
        var prompts = Prompts(f);
        if (f.Int("best_of", 1) is { } best && best != request.N) throw ApiException.Unsupported("best_of", "answers are not ranked; n gives several");
        f.Refuse("suffix", "text is not filled in, it goes on", "");
        var stream = f.Flag("stream") ?? false;
        var usage = f.Object("stream_options") is { } options && StreamUsage(options, stream);
        List<NoEffect> hints = [];
        RequestFields.ReadServiceFields(f, hints);
        f.Finish();
        request = request with { NoEffects = hints };
        List<Reply> replies = [];
        try
        {
            foreach (var prompt in prompts) replies.Add(await c.StartAsync(engine, request with { Ids = prompt }));
            var id = $"cmpl-{Guid.NewGuid():N}";
            if (stream) await Stream(c, replies, id, echo, usage);
            else await Whole(c, replies, id, echo);
        }
        finally
        {
            foreach (var reply in replies) reply.Dispose();
        }
    }

    private static bool StreamUsage(JsonFields options, bool stream)
    {
        if (!stream) throw ApiException.Wrong("stream_options", "needs stream: true");
        var usage = options.Flag("include_usage") ?? false;
        options.Refuse("include_obfuscation", "answers are not padded", "false");
        options.Finish();
        return usage;
    }

    private async Task Whole(RequestContext c, List<Reply> replies, string id, bool echo)
    {
        await Task.WhenAll(replies.Select(r => r.ReadToEndAsync(c.Cancel)));
        var choices = replies.SelectMany((reply, p) => reply.Answers.Select(a => new TextChoice((p * reply.Answers.Count) + a.Index,
            (echo ? Prompt(reply) : "") + a.Text, LogprobsOf(reply, a, echo), EngineTelemetry.Word(a.Reason))));
        await c.WriteAsync(Say(replies, id, [.. choices]) with { Usage = UsageOf(replies) }, CompletionJson.Wire.TextCompletion);
    }

    private async Task Stream(RequestContext c, List<Reply> replies, string id, bool echo, bool usage)
    {
        // One prompt after another, as each is read; all are computed at once.
        for (var p = 0; p < replies.Count; p++)
        {
            var reply = replies[p];
            var tokens = reply.Answers.Select(_ => NewTokens(reply)).ToArray();
            var begun = new bool[reply.Answers.Count];
            await foreach (var (answer, part) in reply.ReadAsync(c.Cancel))
            {
                if (echo && !begun[answer.Index])
                {
                    begun[answer.Index] = true; // now its log-probabilities are known
                    tokens[answer.Index]?.AddPrompt(answer.PromptTokens);
                    Write(reply, answer, Prompt(reply), null);
                }
                if (part is TokenPart token)
                {
                    tokens[answer.Index]!.Add(token.Token);
                    continue;
                }
                if (echo && part is null && answer.StopToken is { } stop) tokens[answer.Index]!.Add(stop);
                Write(reply, answer, part is TextPart text ? text.Text : "", part is null ? EngineTelemetry.Word(answer.Reason) : null);
                if (part is null ? reply.Answers.Count > 1 : !answer.HasMore) await c.Events.FlushAsync(c.Cancel); // the end of one alone goes out with [DONE]
            }

            void Write(Reply from, Answer answer, string text, string? reason) => c.Events.Write(null,
                Say(replies, id, [new TextChoice((p * from.Answers.Count) + answer.Index, text, tokens[answer.Index]?.Take(), reason)]),
                CompletionJson.Wire.TextCompletion);
        }
        if (usage) c.Events.Write(null, Say(replies, id, []) with { Usage = UsageOf(replies) }, CompletionJson.Wire.TextCompletion);
        c.Events.WriteText("[DONE]");
        await c.Events.FlushAsync(c.Cancel);
    }

    private IReadOnlyList<IReadOnlyList<int>> Prompts(JsonFields f)
    {
        var prompt = f.Required("prompt");
        if (prompt.ValueKind == JsonValueKind.String) return [Encode(prompt.GetString()!)];
        var list = f.List("prompt");
        if (list.Count == 0) throw ApiException.Wrong("prompt", "must not be empty");
        if (list[0].Value.ValueKind == JsonValueKind.Number) return [Ids(list)];
        if (list.Count > MostPrompts) throw ApiException.Wrong("prompt", $"may hold {MostPrompts} prompts, but holds {list.Count}");
        return [.. list.Select(one => one.Value.ValueKind switch
        {
            JsonValueKind.String => Encode(one.Value.GetString()!),
            JsonValueKind.Array => Ids([.. one.Value.EnumerateArray().Select((v, i) => (v, $"{one.Path}[{i}]"))]),
            _ => throw new ApiException(400, $"{one.Path} must be a text or a list of tokens, but is {JsonFields.Kind(one.Value)}", one.Path, "invalid_type"),
        })];
    }

    private int[] Encode(string text) => engine.Tokenizer.Encode(text, addSpecial: true);

    private int[] Ids(IReadOnlyList<(JsonElement Value, string Path)> list) => [.. list.Select(v =>
        v.Value.ValueKind == JsonValueKind.Number && v.Value.TryGetInt32(out var id) && engine.Tokenizer.Has(id) ? id
        : throw ApiException.Wrong(v.Path, $"must be a token, from 0 to {engine.Tokenizer.VocabSize - 1}"))];

    private string Prompt(Reply reply) => engine.Tokenizer.Decode([.. reply.Request.Ids!], skipSpecial: true);

    private TextTokens? NewTokens(Reply reply) => reply.Request.Logprobs is { } likeliest ? new TextTokens(engine.Tokenizer, likeliest) : null;

    private TextLogprobs? LogprobsOf(Reply reply, Answer answer, bool echo)
    {
        if (NewTokens(reply) is not { } tokens) return null;
        if (echo) tokens.AddPrompt(answer.PromptTokens);
        foreach (var token in answer.Tokens) tokens.Add(token);
        // With an echo it is told what came after the prompt, if only its end: harnesses leave the last token out. Else tokens are those of usage.
        if (echo && answer.StopToken is { } stop) tokens.Add(stop);
        return tokens.Take();
    }

    private TextCompletion Say(List<Reply> replies, string id, IReadOnlyList<TextChoice> choices) => new(id, "text_completion",
        replies[0].Created.ToUnixTimeSeconds(), replies[0].Model.Name, choices, engine.Fingerprint);

    private static ChatUsage UsageOf(List<Reply> replies)
    {
        var all = replies.Select(r => r.Usage).ToList();
        return ChatUsage.Of(new Usage(all.Sum(u => u.Prompt), all.Sum(u => u.Cached), all.Sum(u => u.Drawn), all.Sum(u => u.Thought)));
    }
}

internal sealed record TextCompletion(string Id, string Object, long Created, string Model, IReadOnlyList<TextChoice> Choices, string SystemFingerprint)
{
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public ChatUsage? Usage { get; init; }
}

internal sealed record TextChoice(int Index, string Text, TextLogprobs? Logprobs, string? FinishReason);

[JsonSerializable(typeof(TextCompletion))]
internal sealed partial class CompletionJson : JsonSerializerContext
{
    public static readonly CompletionJson Wire = new(WireOptions.Snake());
}
