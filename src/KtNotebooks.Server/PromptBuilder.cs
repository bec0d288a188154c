using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Data;
using KtNotebooks.Generation;

namespace KtNotebooks.Server;

/// <summary>
/// From what a client asks for to what the scheduler takes: tokens by the template, sampling over the config's, stop tokens, and the mask of an answer of a
/// given form. On any thread.
/// </summary>
internal sealed class PromptBuilder(ModelEngine engine)
{
    private static readonly JsonSerializerOptions Readable = new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    private readonly AnswerForms _forms = new(engine.Tokenizer);

    /// <exception cref="ApiException">What is asked for cannot be told to this model.</exception>
    public Prompt Build(ModelRequest request)
    {
        var template = engine.Template;
        if (request.Think is { } think)
        {
            if (think && template.Thinking is null)
                throw ApiException.Unsupported("thinking", $"the template '{template.Name}' is of a model that does not think");
            template = template with { EnableThinking = think };
        }
        var tools = request.Choice == ToolChoice.None ? [] : request.Tools;
        if (request.Choice == ToolChoice.Required && tools.Count == 0) throw ApiException.Wrong("tool_choice", "asks for a call, but there are no tools");
        if (tools.Count > 0 && template.Tools is null)
            throw ApiException.Unsupported("tools", $"the template '{template.Name}' has no form for them");
        var ids = request.Ids ?? Encode(request, template, tools);
        // Without a template the prompt is text that goes on; a thought is only where the template's own begins.
        var chat = request.Ids is null;
        var thinks = chat && request.Prefill is null && template is { Thinking: not null, EnableThinking: true } ? template.Thinking : null;
        var spelling = chat && tools.Count > 0 ? CallSpelling.Of(template.Tools!, [.. tools.Select(t => t.Name)]) : null;
        HashSet<int> stops = [.. request.IgnoreEnd ? [] : template.StopIds(engine.Tokenizer), .. request.StopIds];
        var sampling = SamplingOf(request);
        var form = _forms.Of(request, tools, spelling, thinks);
        if (form is not null && request.IgnoreEnd) throw ApiException.Wrong("ignore_eos", "an answer of a given form ends where the form does");
        var room = Math.Min(sampling.MaxNewTokens, engine.Model.Info.MaxPositions - ids.Count);
        return new Prompt(new GenerationRequest(ids, sampling)
        {
            StopIds = stops,
            StopTexts = request.Stops,
            Logprobs = request.Logprobs,
            PromptLogprobs = request.TellPrompt ? request.Logprobs : null,
            PromptOnly = request.MaxTokens == 0,
            LogitBias = Bias(request),
        }, form is null ? null : () => form.Mask(stops, room), () => new AnswerReader(thinks, spelling));
    }

    private int[] Encode(ModelRequest request, Template template, IReadOnlyList<Tool> tools)
    {
        try
        {
            var prompt = template.EncodePrompt(engine.Tokenizer, request.Messages, request.System, tools.Count == 0 ? null : Describe(tools));
            return string.IsNullOrEmpty(request.Prefill) ? prompt : [.. prompt, .. engine.Tokenizer.Encode(request.Prefill)];
        }
        catch (Exception error) when (error is ArgumentException or NotSupportedException)
        {
            throw new ApiException(400, error.Message, "messages", "invalid_value");
        }
        catch (InvalidDataException error) // tools that the template's form cannot tell
        {
            throw new ApiException(400, error.Message, "tools", "invalid_value");
        }
    }

    /// <summary>Tools in the form that data sets have them in, which templates describe.</summary>
    private static string Describe(IReadOnlyList<Tool> tools) => new JsonArray([.. tools.Select(t => (JsonNode)new JsonObject
    {
        ["type"] = "function",
        ["function"] = new JsonObject
        {
            ["name"] = t.Name,
            ["description"] = t.Description ?? "",
            ["parameters"] = JsonNode.Parse(t.Parameters.GetRawText()),
        },
    })]).ToJsonString(Readable);

    private Sampling SamplingOf(ModelRequest r)
    {
        var s = engine.Settings.Sampling;
        return s with
        {
            MaxNewTokens = r.MaxTokens is > 0 and var most ? most : s.MaxNewTokens,
            DoSample = r.DoSample ?? (r.Temperature is null ? s.DoSample : r.Temperature > 0),
            Temperature = r.Temperature ?? s.Temperature,
            TopP = r.TopP ?? s.TopP,
            TopK = r.TopK ?? s.TopK,
            MinP = r.MinP ?? s.MinP,
            PresencePenalty = r.PresencePenalty ?? s.PresencePenalty,
            FrequencyPenalty = r.FrequencyPenalty ?? s.FrequencyPenalty,
            RepetitionPenalty = r.RepetitionPenalty ?? s.RepetitionPenalty,
            Seed = r.Seed ?? (engine.Settings.SeedGiven ? s.Seed : (ulong)Random.Shared.NextInt64()),
        };
    }

    private IReadOnlyDictionary<int, float> Bias(ModelRequest request)
    {
        foreach (var (id, _) in request.LogitBias)
            if ((uint)id >= (uint)engine.Tokenizer.VocabSize)
                throw ApiException.Wrong("logit_bias", $"there is no token {id}; ids go from 0 to {engine.Tokenizer.VocabSize - 1}");
        foreach (var id in request.StopIds)
            if ((uint)id >= (uint)engine.Tokenizer.VocabSize)
                throw ApiException.Wrong("stop_token_ids", $"there is no token {id}; ids go from 0 to {engine.Tokenizer.VocabSize - 1}");
        return request.LogitBias;
    }
}
