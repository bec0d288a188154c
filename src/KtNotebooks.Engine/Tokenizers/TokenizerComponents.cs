using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace KtNotebooks.Tokenizers;

/// <summary>Turns the typed JSON components of a tokenizer.json into objects; an unknown type is an error that names it.</summary>
internal static class TokenizerComponents
{
    public static Normalizer? ReadNormalizer(JsonElement json)
    {
        if (json.ValueKind is JsonValueKind.Null or JsonValueKind.Undefined)
            return null;
        switch (Type(json))
        {
            case "Sequence":
                var stages = json.GetProperty("normalizers").EnumerateArray().Select(ReadNormalizer).OfType<Normalizer>().ToArray();
                return stages.Length == 0 ? null : new NormalizerSequence(stages);
            case "NFC":
                return new UnicodeNormalizer(NormalizationForm.FormC);
            case "NFD":
                return new UnicodeNormalizer(NormalizationForm.FormD);
            case "NFKC":
                return new UnicodeNormalizer(NormalizationForm.FormKC);
            case "NFKD":
                return new UnicodeNormalizer(NormalizationForm.FormKD);
            case "Replace":
                return new ReplaceNormalizer(ReadPattern(json), json.GetProperty("content").GetString()!);
            case "Prepend":
                return new PrependNormalizer(json.GetProperty("prepend").GetString()!);
            case var type:
                throw Unknown("normalizer", type, "Sequence, NFC, NFD, NFKC, NFKD, Replace, Prepend");
        }
    }

    public static PreTokenizer ReadPreTokenizer(JsonElement json)
    {
        var stages = new List<PreTokenizer>();
        if (json.ValueKind == JsonValueKind.Object)
            AddStages(json, stages);
        if (!stages.Any(s => s is ByteLevelPreTokenizer))
            throw new NotSupportedException("the pre_tokenizer has no ByteLevel stage; only byte-level tokenizers are supported.");
        return stages.Count == 1 ? stages[0] : new PreTokenizerSequence([.. stages]);
    }

    public static void CheckDecoder(JsonElement json)
    {
        if (json.ValueKind is JsonValueKind.Null or JsonValueKind.Undefined)
            return;
        if (Type(json) == "Sequence")
        {
            foreach (var stage in json.GetProperty("decoders").EnumerateArray())
                CheckDecoder(stage);
        }
        else if (Type(json) != "ByteLevel")
        {
            throw Unknown("decoder", Type(json), "ByteLevel, Sequence");
        }
    }

    /// <summary>
    /// The special ids that a text gets before and after it when they are asked for: from a TemplateProcessing post-processor, else from
    /// add_bos_token and add_eos_token of tokenizer_config.json (DeepSeek).
    /// </summary>
    public static (int[] Before, int[] After) SpecialsAround(JsonElement json, JsonObject config, Func<string, int?> idOf)
    {
        if (FindTemplate(json) is { } template)
        {
            List<int> before = [], after = [];
            var side = before;
            foreach (var part in template.GetProperty("single").EnumerateArray())
            {
                if (part.TryGetProperty("SpecialToken", out var special))
                    side.AddRange(template.GetProperty("special_tokens").GetProperty(special.GetProperty("id").GetString()!).GetProperty("ids").EnumerateArray().Select(e => e.GetInt32()));
                else
                    side = after;
            }
            return ([.. before], [.. after]);
        }
        return (FromConfig("add_bos_token", "bos_token"), FromConfig("add_eos_token", "eos_token"));

        int[] FromConfig(string flag, string token) =>
            config[flag] is JsonValue value && value.TryGetValue<bool>(out var on) && on && TokenizerJson.TokenName(config, token) is { } name && idOf(name) is int id ? [id] : [];
    }

    private static JsonElement? FindTemplate(JsonElement json)
    {
        if (json.ValueKind != JsonValueKind.Object)
            return null;
        return Type(json) switch
        {
            "TemplateProcessing" => json,
            "Sequence" => json.GetProperty("processors").EnumerateArray().Select(FindTemplate).FirstOrDefault(t => t is not null),
            "ByteLevel" => null, // only trims offsets
            var type => throw Unknown("post_processor", type, "ByteLevel, TemplateProcessing, Sequence"),
        };
    }

    private static void AddStages(JsonElement json, List<PreTokenizer> stages)
    {
        switch (Type(json))
        {
            case "Sequence":
                foreach (var stage in json.GetProperty("pretokenizers").EnumerateArray())
                    AddStages(stage, stages);
                break;
            case "Split":
                var behavior = json.GetProperty("behavior").GetString();
                if (!Enum.TryParse<SplitBehavior>(behavior, out var parsed))
                    throw Unknown("split behavior", behavior, string.Join(", ", Enum.GetNames<SplitBehavior>()));
                stages.Add(new Split(ReadPattern(json), parsed, Flag(json, "invert", otherwise: false)));
                break;
            case "Digits":
                var each = Flag(json, "individual_digits", otherwise: false);
                stages.Add(new Split(Pattern.Parse(@"\p{N}"), each ? SplitBehavior.Isolated : SplitBehavior.Contiguous, invert: false));
                break;
            case "ByteLevel":
                stages.Add(new ByteLevelPreTokenizer(Flag(json, "add_prefix_space", otherwise: true), Flag(json, "use_regex", otherwise: true)));
                break;
            case var type:
                throw Unknown("pre_tokenizer", type, "Sequence, Split, Digits, ByteLevel");
        }
    }

    private static Pattern ReadPattern(JsonElement json)
    {
        var pattern = json.GetProperty("pattern");
        if (pattern.TryGetProperty("Regex", out var regex))
            return Pattern.Parse(regex.GetString()!);
        if (pattern.TryGetProperty("String", out var text) && text.GetString() is { Length: > 0 } literal)
            return Pattern.Literal(literal);
        throw new InvalidDataException($"a pattern must be {{\"Regex\": …}} or {{\"String\": …}} and not empty, but is {pattern.GetRawText()}.");
    }

    private static string? Type(JsonElement json) => json.GetProperty("type").GetString();

    private static bool Flag(JsonElement json, string name, bool otherwise) => json.TryGetProperty(name, out var value) ? value.GetBoolean() : otherwise;

    private static NotSupportedException Unknown(string kind, string? name, string known) => new($"unknown {kind} '{name}'. Known: {known}.");
}
