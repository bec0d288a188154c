using System.Text.Json;
using System.Text.Json.Serialization;

using KtNotebooks.Server.Http;

namespace KtNotebooks.Server.OpenAi;

/// <summary>
/// POST /v1/score/evaluation, LLaMA-Factory's endpoint for reward models (`stage: rm`): the value of each text at its last token. A text is taken as it is,
/// without a template, and cut to `max_length` tokens where that is given.
/// </summary>
internal sealed class ScoreEndpoint(ModelEngine engine)
{
    private const int MostTexts = 1024;

    public async Task Score(RequestContext c)
    {
        var f = new JsonFields(await c.ReadAsync());
        var model = engine.Find(f.RequiredText("model"));
        var most = f.Int("max_length", 1);
        f.Required("messages");
        string[] texts = [.. f.List("messages", MostTexts).Select(v => v.Value.ValueKind == JsonValueKind.String ? v.Value.GetString()!
            : throw ApiException.Wrong(v.Path, "must be a text; a conversation is given as its template writes it"))];
        f.Finish();
        if (model.Values is null)
            throw new ApiException(405, $"/v1/score/evaluation asks a reward model, and '{model.Name}' is none: kt train with stage: rm makes one; "
                + "/v1/completions with logprobs says how likely a model finds what it writes", null, "not_a_reward_model");
        if (texts.Length == 0) throw ApiException.Wrong("messages", "must hold at least one text");
        int[][] rows = [.. texts.Select((text, i) => Tokens(text, i, most))];
        await c.WriteAsync(new Scored($"scoreval-{Guid.NewGuid():N}", "score.evaluation", model.Name, await engine.ScoreAsync(model, rows, c.Cancel)),
            ScoreJson.Wire.Scored);
    }

    private int[] Tokens(string text, int i, int? most)
    {
        var (ids, longest) = (engine.Tokenizer.Encode(text, addSpecial: true), engine.Model.Info.MaxPositions);
        if (most is { } cut && ids.Length > cut) ids = ids[..cut];
        if (ids.Length == 0) throw ApiException.Wrong($"messages[{i}]", "has no token");
        return ids.Length <= longest ? ids : throw new ApiException(400,
            $"messages[{i}] has {ids.Length:N0} tokens, the model takes {longest:N0}; max_length cuts it", $"messages[{i}]", "context_length_exceeded");
    }
}

internal sealed record Scored(string Id, string Object, string Model, IReadOnlyList<double> Scores);

[JsonSerializable(typeof(Scored))]
internal sealed partial class ScoreJson : JsonSerializerContext
{
    public static readonly ScoreJson Wire = new(WireOptions.Snake());
}
