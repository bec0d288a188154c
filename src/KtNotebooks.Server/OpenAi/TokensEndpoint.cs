using System.Text.Json.Serialization;

using KtNotebooks.Server.Http;

namespace KtNotebooks.Server.OpenAi;

/// <summary>POST /tokenize and /detokenize, in vLLM's form.</summary>
internal sealed class TokensEndpoint(ModelEngine engine)
{
    private const int MostTokens = 1_000_000;

    public async Task Tokenize(RequestContext c)
    {
        var f = new JsonFields(await c.ReadAsync());
        if (f.Text("model") is { } model) engine.Find(model);
        int[] ids;
        var special = f.Flag("add_special_tokens");
        if (f.Has("messages"))
        {
            if (special is not null) throw ApiException.Wrong("add_special_tokens", "goes with a prompt; messages have those of the template");
            f.Refuse("add_generation_prompt", "a conversation is told up to where its answer begins", "true");
            var request = ChatRequest.ReadTools(f, new ModelRequest { Model = engine.Models[0].Name });
            ids = [.. engine.Prompts.Build(ChatRequest.ReadMessages(f, request, engine.Template)).Request.Prompt];
        }
        else
        {
            ids = engine.Tokenizer.Encode(f.RequiredText("prompt"), special ?? true);
        }
        var strings = f.Flag("return_token_strs") ?? false;
        f.Finish();
        await c.WriteAsync(new Tokenized(ids.Length, engine.Model.Info.MaxPositions, ids, strings ? [.. ids.Select(engine.Tokenizer.TokenText)] : null),
            TokensJson.Wire.Tokenized);
    }

    public async Task Detokenize(RequestContext c)
    {
        var f = new JsonFields(await c.ReadAsync());
        if (f.Text("model") is { } model) engine.Find(model);
        f.Required("tokens");
        int[] ids = [.. f.List("tokens", MostTokens).Select(v => v.Value.ValueKind == System.Text.Json.JsonValueKind.Number && v.Value.TryGetInt32(out var id)
            && (uint)id < (uint)engine.Tokenizer.VocabSize ? id
            : throw ApiException.Wrong(v.Path, $"must be a token, from 0 to {engine.Tokenizer.VocabSize - 1}"))];
        f.Finish();
        try
        {
            await c.WriteAsync(new Detokenized(engine.Tokenizer.Decode(ids)), TokensJson.Wire.Detokenized);
        }
        catch (ArgumentOutOfRangeException error)
        {
            throw ApiException.Wrong("tokens", error.Message); // a gap in the vocabulary
        }
    }
}

internal sealed record Tokenized(int Count, int MaxModelLen, IReadOnlyList<int> Tokens,
    [property: JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)] IReadOnlyList<string>? TokenStrs);

internal sealed record Detokenized(string Prompt);

[JsonSerializable(typeof(Tokenized))]
[JsonSerializable(typeof(Detokenized))]
internal sealed partial class TokensJson : JsonSerializerContext
{
    public static readonly TokensJson Wire = new(WireOptions.Snake());
}
