using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Files;

namespace KtNotebooks.Tokenizers;

/// <summary>Turns the typed JSON components of a tokenizer.json into objects; an unknown type is an error that names it.</summary>
internal static class TokenizerComponents
{
    /// <summary>The most stages of a normalizer or a pre-tokenizer: each is a frame of the stack; real ones have up to five.</summary>
    private const int MostStages = 64;

    public static Normalizer? ReadNormalizer(JsonElement json)
    {
        if (json.ValueKind is JsonValueKind.Null or JsonValueKind.Undefined)
            return null;
        switch (Type(json))
        {
            case "Sequence":
                var stages = Stages(json, "normalizers", "normalizer").Select(ReadNormalizer).OfType<Normalizer>().ToArray();
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
                return new ReplaceNormalizer(ReadPattern(json), JsonSource.Text(json, "content", "normalizer Replace"));
            case "Prepend":
                return new PrependNormalizer(JsonSource.Text(json, "prepend", "normalizer Prepend"));
            case var type:
                throw Unknown("normalizer", type, "Sequence, NFC, NFD, NFKC, NFKD, Replace, Prepend");
        }
    }

    public static PreTokenizer ReadPreTokenizer(JsonElement json)
    {
        var stages = new List<PreTokenizer>();
        if (json.ValueKind is not (JsonValueKind.Null or JsonValueKind.Undefined))
            AddStages(json, stages);
        if (stages.Count > MostStages)
            throw new NotSupportedException($"the pre_tokenizer has {stages.Count} stages; at most {MostStages} are taken.");
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
            foreach (var stage in Stages(json, "decoders", "decoder"))
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
            foreach (var part in JsonSource.Field(template, "single", JsonValueKind.Array, Template).EnumerateArray())
            {
                if (JsonSource.MaybeField(part, "SpecialToken", JsonValueKind.Object, Template) is not { } special)
                {
                    side = after;
                    continue;
                }
                var tokens = JsonSource.Field(template, "special_tokens", JsonValueKind.Object, Template);
                var token = JsonSource.Field(tokens, JsonSource.Text(special, "id", Template), JsonValueKind.Object, $"{Template}: special_tokens");
                foreach (var id in JsonSource.Field(token, "ids", JsonValueKind.Array, Template).EnumerateArray())
                    side.Add(id.ValueKind == JsonValueKind.Number && id.TryGetInt32(out var whole) ? whole
                        : throw new InvalidDataException($"{Template}: 'ids' must be whole numbers, but has {id.GetRawText()}."));
            }
            return ([.. before], [.. after]);
        }
        return (FromConfig("add_bos_token", "bos_token"), FromConfig("add_eos_token", "eos_token"));

        int[] FromConfig(string flag, string token) =>
            config[flag] is JsonValue value && value.TryGetValue<bool>(out var on) && on && TokenizerJson.TokenName(config, token) is { } name
                && idOf(name) is int id ? [id] : [];
    }

    private const string Template = "post_processor TemplateProcessing";

    private static JsonElement[] Stages(JsonElement json, string key, string where)
    {
        var list = JsonSource.Field(json, key, JsonValueKind.Array, where);
        return list.GetArrayLength() <= MostStages ? [.. list.EnumerateArray()]
            : throw new NotSupportedException($"the {where} has {list.GetArrayLength()} stages; at most {MostStages} are taken.");
    }

    private static JsonElement? FindTemplate(JsonElement json)
    {
        if (json.ValueKind is JsonValueKind.Null or JsonValueKind.Undefined)
            return null;
        return Type(json) switch
        {
            "TemplateProcessing" => json,
            "Sequence" => Stages(json, "processors", "post_processor").Select(FindTemplate).FirstOrDefault(t => t is not null),
            "ByteLevel" => null, // only trims offsets
            var type => throw Unknown("post_processor", type, "ByteLevel, TemplateProcessing, Sequence"),
        };
    }

    private static void AddStages(JsonElement json, List<PreTokenizer> stages)
    {
        switch (Type(json))
        {
            case "Sequence":
                foreach (var stage in Stages(json, "pretokenizers", "pre_tokenizer"))
                    AddStages(stage, stages);
                break;
            case "Split":
                var behavior = JsonSource.Text(json, "behavior", "pre_tokenizer Split");
                if (!Enum.TryParse<SplitBehavior>(behavior, out var parsed) || !Enum.GetNames<SplitBehavior>().Contains(behavior))
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
        var pattern = JsonSource.Field(json, "pattern", JsonValueKind.Object, Type(json));
        if (JsonSource.MaybeField(pattern, "Regex", JsonValueKind.String, "pattern") is { } regex)
            return Pattern.Parse(regex.GetString()!);
        if (JsonSource.MaybeField(pattern, "String", JsonValueKind.String, "pattern") is { } text && text.GetString() is { Length: > 0 } literal)
            return Pattern.Literal(literal);
        throw new InvalidDataException($"a pattern must be {{\"Regex\": …}} or {{\"String\": …}} and not empty, but is {Pattern.Short(pattern.GetRawText())}.");
    }

    private static string Type(JsonElement json) => JsonSource.Text(json, "type", "a component");

    private static bool Flag(JsonElement json, string name, bool otherwise) => JsonSource.Flag(json, name, otherwise, Type(json));

    private static NotSupportedException Unknown(string kind, string name, string known) => new($"unknown {kind} '{Pattern.Short(name)}'. Known: {known}.");
}
