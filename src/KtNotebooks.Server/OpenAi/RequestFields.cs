using System.Globalization;
using System.Text.Json;

using KtNotebooks.Data;
using KtNotebooks.Server.Http;

namespace KtNotebooks.Server.OpenAi;

/// <summary>The fields that OpenAI's endpoints share, and those that vLLM and LLaMA-Factory have beside them.</summary>
internal static class RequestFields
{
    public const int MostStops = 16, MostAnswers = 128, MostLikeliest = 20;

    /// <summary>temperature, top_p, top_k, min_p, the penalties, seed, do_sample, stop, stop_token_ids, logit_bias, n, user.</summary>
    public static ModelRequest ReadSampling(JsonFields f, ModelRequest request)
    {
        var user = f.Text("user");
        return request with
        {
            Temperature = f.Number("temperature", SamplingRange.Temperature),
            TopP = f.Number("top_p", SamplingRange.TopP),
            TopK = f.Int("top_k", (int)SamplingRange.TopK.Least) is { } k ? Math.Max(k, 0) : null,
            MinP = f.Number("min_p", SamplingRange.MinP),
            PresencePenalty = f.Number("presence_penalty", SamplingRange.Penalty),
            FrequencyPenalty = f.Number("frequency_penalty", SamplingRange.Penalty),
            RepetitionPenalty = f.Number("repetition_penalty", SamplingRange.RepetitionPenalty),
            DoSample = f.Flag("do_sample"),
            Seed = Seed(f),
            Stops = Stops(f, "stop"),
            StopIds = Ids(f, "stop_token_ids"),
            LogitBias = Bias(f),
            N = f.Int("n", 1, MostAnswers) ?? 1,
            User = f.Text("safety_identifier") ?? user,
            IgnoreEnd = f.Flag("ignore_eos") ?? false,
        };
    }

    /// <summary>Fields of vLLM's that are on in every request of its clients, and its own names for JSON of a schema.</summary>
    public static ModelRequest ReadVllm(JsonFields f, ModelRequest request)
    {
        f.Refuse("skip_special_tokens", "special tokens are no part of an answer's text", "true");
        f.Refuse("spaces_between_special_tokens", "special tokens are no part of an answer's text", "true", "false");
        f.Refuse("include_reasoning", "a thought is told apart; chat_template_kwargs: {\"enable_thinking\": false} keeps a model from one", "true");
        f.Refuse("priority", "requests are taken in their order", "0");
        var outputs = f.Object("structured_outputs");
        var schema = f.Any("guided_json") ?? outputs?.Any("json");
        outputs?.Finish();
        if (schema is null) return request;
        if (request.Json || request.Schema is not null) throw ApiException.Wrong("response_format", "says a form beside vLLM's own field for one");
        return request with { Schema = schema.Value.Clone() };
    }

    public static IReadOnlyList<string> Stops(JsonFields f, string name) => Stops(f.Texts(name, MostStops), f.At(name));

    /// <exception cref="ApiException">One is empty, or there are too many.</exception>
    public static IReadOnlyList<string> Stops(IReadOnlyList<string> stops, string at) =>
        stops.Contains("") ? throw ApiException.Wrong(at, "a stop text must not be empty")
        : stops.Count > MostStops ? throw ApiException.Wrong(at, $"may have {MostStops} entries, but has {stops.Count}") : stops;

    /// <summary>Fields of OpenAI's that are about its own service: those that change no answer are hints without effect.</summary>
    public static void ReadServiceFields(JsonFields f, List<NoEffect> hints)
    {
        if (f.Word("service_tier", "auto", "default", "flex", "scale", "priority") is not (null or "auto" or "default"))
            hints.Add(new NoEffect("service_tier", "there is one: requests are taken in their order"));
        if (f.Flag("store") == true) hints.Add(new NoEffect("store", "answers are not kept"));
        if (f.Text("prompt_cache_key") is not null) hints.Add(new NoEffect("prompt_cache_key", "what begins alike is found without it"));
        if (f.Word("prompt_cache_retention", "in_memory", "in-memory", "24h") is not null)
            hints.Add(new NoEffect("prompt_cache_retention", "prompts are kept while there is room"));
    }

    /// <summary>reasoning_effort: a model thinks or does not, so `none` turns it off and every other degree turns it on.</summary>
    /// <exception cref="ApiException">A degree is asked of a model that does not think.</exception>
    public static bool? ReadEffort(JsonFields f, string name, Template template, List<NoEffect> hints)
    {
        if (f.Word(name, "none", "minimal", "low", "medium", "high", "xhigh") is not { } effort) return null;
        if (effort == "none") return false;
        if (template.Thinking is null)
            throw ApiException.Unsupported(f.At(name), $"'{effort}': the template '{template.Name}' is of a model that does not think; "
                + "leave it out or say 'none'");
        hints.Add(new NoEffect(f.At(name), "it turns thinking on; which degree it says has no effect"));
        return true;
    }

    /// <summary>response_format of chat, text.format of responses: what `type` says, and where the schema lies.</summary>
    public static ModelRequest ReadFormat(JsonFields? format, ModelRequest request, Func<JsonFields, JsonFields> schemaOf)
    {
        if (format is null) return request;
        switch (format.RequiredText("type"))
        {
            case "text":
                format.Finish();
                return request;
            case "json_object":
                format.Finish();
                return request with { Json = true };
            case "json_schema":
                var holder = schemaOf(format);
                holder.RequiredText("name");
                holder.Text("description");
                holder.Flag("strict"); // the schema holds, whatever it says
                var schema = holder.Required("schema");
                holder.Finish();
                format.Finish();
                return request with { Schema = schema.Clone() };
            default:
                throw ApiException.Wrong(format.At("type"), "must be one of text, json_object, json_schema");
        }
    }

    /// <summary>A tool's function: name, description, parameters, strict.</summary>
    public static Tool ReadTool(JsonFields function, string parameters = "parameters")
    {
        var name = function.RequiredText("name");
        var description = function.Text("description");
        var schema = function.Any(parameters);
        if (schema is { ValueKind: not JsonValueKind.Object }) throw function.Type(parameters, "an object", schema.Value);
        return ToolOf(name, function.At("name"), description, schema, function.At(parameters), function.Flag("strict") ?? false);
    }

    /// <summary>A tool as templates describe it: its parameters are an object with properties.</summary>
    /// <exception cref="ApiException">Its name has other characters, or its parameters are no object.</exception>
    public static Tool ToolOf(string name, string nameAt, string? description, JsonElement? schema, string schemaAt, bool strict = false)
    {
        if (name.Length is 0 or > 64 || name.Any(c => !char.IsAsciiLetterOrDigit(c) && c is not ('_' or '-' or '.')))
            throw ApiException.Wrong(nameAt, "must have 1 to 64 letters, digits, _, - or .");
        try
        {
            return new Tool(name, description, ToolParameters.Complete(schema), strict);
        }
        catch (ArgumentException error)
        {
            throw ApiException.Wrong(schemaAt, $"the parameters of the tool '{name}': {error.Message}");
        }
    }

    /// <exception cref="ApiException">Two have one name.</exception>
    public static IReadOnlyList<Tool> Distinct(IReadOnlyList<Tool> tools, string at)
    {
        if (tools.GroupBy(t => t.Name).FirstOrDefault(g => g.Count() > 1) is { } twice) throw ApiException.Wrong(at, $"two tools are named '{twice.Key}'");
        return tools;
    }

    /// <summary>The name of a tool that must be called.</summary>
    public static string Known(string name, IReadOnlyList<Tool> tools, string at) => tools.Any(t => t.Name == name) ? name
        : throw ApiException.Wrong(at, $"there is no tool '{name}'");

    private static ulong? Seed(JsonFields f)
    {
        if (f.Any("seed") is not { } value) return null;
        if (value.ValueKind != JsonValueKind.Number || !value.TryGetInt64(out var seed)) throw f.Type("seed", "a whole number of 64 bits", value);
        return unchecked((ulong)seed);
    }

    private static IReadOnlyList<int> Ids(JsonFields f, string name) => [.. f.List(name, MostStops).Select(v =>
        v.Value.ValueKind == JsonValueKind.Number && v.Value.TryGetInt32(out var id) ? id : throw ApiException.Wrong(v.Path, "must be a token's number"))];

    private static Dictionary<int, float> Bias(JsonFields f)
    {
        if (f.Any("logit_bias") is not { } map) return [];
        if (map.ValueKind != JsonValueKind.Object) throw f.Type("logit_bias", "an object", map);
        Dictionary<int, float> bias = [];
        foreach (var entry in map.EnumerateObject())
        {
            if (!int.TryParse(entry.Name, NumberStyles.None, CultureInfo.InvariantCulture, out var id))
                throw ApiException.Wrong("logit_bias", "its keys must be numbers of tokens");
            if (entry.Value.ValueKind != JsonValueKind.Number || !entry.Value.TryGetDouble(out var value) || Math.Abs(value) > 100)
                throw ApiException.Wrong($"logit_bias.{id}", "must be a number from -100 to 100");
            bias[id] = (float)value;
        }
        return bias;
    }
}
