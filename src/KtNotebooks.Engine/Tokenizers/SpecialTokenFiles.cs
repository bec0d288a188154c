using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Files;

namespace KtNotebooks.Tokenizers;

/// <summary>
/// Special tokens that stand beside tokenizer.json: in tokenizer_config.json (added_tokens_decoder, bos_token …), and as older versions of transformers wrote
/// them, in added_tokens.json and special_tokens_map.json. The
/// rules are transformers': where added_tokens_decoder is there, the older files only fill gaps; what they say of a token's flags holds over tokenizer.json.
/// </summary>
internal sealed class SpecialTokenFiles
{
    private const string MapName = "special_tokens_map.json";
    private const string AddedName = "added_tokens.json";
    private const string DecoderKey = "added_tokens_decoder";
    private const string AdditionalKey = "additional_special_tokens";

    /// <summary>Tokens that must have an id where a file names them; the others (unk_token …) are used by no template.</summary>
    private static readonly string[] NamedKeys = ["bos_token", "eos_token", "pad_token"];

    private static readonly string[] OtherKeys = ["unk_token", "sep_token", "cls_token", "mask_token"];

    private readonly List<(AddedToken Token, string Source)> _tokens = [];
    private readonly List<(string Content, string Source, bool Needed)> _special = [];

    private SpecialTokenFiles(JsonObject config) => Config = config;

    /// <summary>tokenizer_config.json, with the names that stand in special_tokens_map.json alone.</summary>
    public JsonObject Config { get; }

    /// <summary>What added_tokens_decoder or added_tokens.json calls its ids.</summary>
    public IReadOnlyDictionary<int, string> DecoderNames => _tokens.GroupBy(t => t.Token.Id).ToDictionary(t => t.Key, t => t.Last().Token.Content);

    public static SpecialTokenFiles Read(string folder)
    {
        var (path, map, added) = (Path.Combine(folder, TokenizerJson.ConfigName), Path.Combine(folder, MapName), Path.Combine(folder, AddedName));
        JsonElement? config = File.Exists(path) ? JsonSource.Read(path, "a tokenizer's settings") : null;
        var files = new SpecialTokenFiles(config is { } root ? (JsonObject)JsonSource.Nodes(root)! : []);
        var decoder = config is { } c ? JsonSource.MaybeField(c, DecoderKey, JsonValueKind.Object, path) : null;
        if (decoder is { } tokens)
            foreach (var entry in tokens.EnumerateObject()) files._tokens.Add((TokenOf(entry, path), TokenizerJson.ConfigName));
        else if (File.Exists(added))
            foreach (var entry in JsonSource.Read(added, "a list of added tokens").EnumerateObject()) files._tokens.Add((AddedOf(entry, added), AddedName));
        if (File.Exists(map)) files.FillFrom(JsonSource.Read(map, "a list of special tokens"), map, overrides: decoder is null);
        files.ReadNames(path);
        return files;
    }

    /// <summary>The added tokens of the tokenizer's own file, and what these files add to them; by rising id.</summary>
    /// <param name="own">Those that it has.</param>
    /// <param name="model">Its vocabulary.</param>
    /// <param name="name">The file's name, for errors.</param>
    /// <exception cref="InvalidDataException">A token without an id, or with that of another.</exception>
    public AddedToken[] Complete(AddedToken[] own, BpeModel model, string name)
    {
        Dictionary<string, AddedToken> byContent = own.ToDictionary(t => t.Content, StringComparer.Ordinal);
        Dictionary<int, string> byId = own.ToDictionary(t => t.Id, t => t.Content);
        foreach (var (token, source) in _tokens)
        {
            var id = byContent.TryGetValue(token.Content, out var known) ? known.Id : model.IdOf(token.Content) ?? token.Id;
            var other = byId.GetValueOrDefault(id) ?? (id < model.Tokens.Length ? model.Tokens[id] : null);
            if (other is not null
                && other != token.Content) throw new InvalidDataException($"{source} gives '{token.Content}' the id {id}, which {name} gives to '{other}'");
            byContent[token.Content] = token with { Id = id };
            byId[id] = token.Content;
        }
        var places = $"{name}, {DecoderKey} of {TokenizerJson.ConfigName} and {AddedName}";
        foreach (var (content, source, needed) in _special)
        {
            if (byContent.TryGetValue(content, out var known)) byContent[content] = known with { Special = true };
            else if (model.IdOf(content) is int id) byContent[content] = new AddedToken(id, content, Special: true);
            else if (needed) throw new InvalidDataException($"{source}, but none of {places} gives that token an id");
        }
        return [.. byContent.Values.OrderBy(t => t.Id)];
    }

    /// <summary>Names of special tokens that the settings lack, or, where <paramref name="overrides"/>, has otherwise.</summary>
    private void FillFrom(JsonElement map, string path, bool overrides)
    {
        foreach (var key in (string[])[.. NamedKeys, .. OtherKeys, AdditionalKey])
        {
            if (!map.TryGetProperty(key, out var value) || value.ValueKind == JsonValueKind.Null || (!overrides && Config[key] is not null)) continue;
            if (key != AdditionalKey) NameOf(value, $"{path}: '{key}'");
            Config[key] = JsonSource.Nodes(value);
        }
    }

    private void ReadNames(string path)
    {
        foreach (var key in (string[])[.. NamedKeys, .. OtherKeys])
        {
            if (Config[key] is not { } node) continue;
            var name = NameOf(Element(node), $"{path}: '{key}'");
            if (name.Length > 0) _special.Add((name, $"'{name}' is {key}", NamedKeys.Contains(key)));
        }
        if (Config[AdditionalKey] is not { } more) return;
        if (more is not JsonArray list) throw new InvalidDataException($"{path}: '{AdditionalKey}' must be a list");
        foreach (var node in list.OfType<JsonNode>())
        {
            var name = NameOf(Element(node), $"{path}: {AdditionalKey}");
            _special.Add((name, $"'{name}' stands in {AdditionalKey}", true));
        }
    }

    /// <summary>A text, or an object with 'content'.</summary>
    private static string NameOf(JsonElement value, string where) => value.ValueKind == JsonValueKind.Object ? JsonSource.Text(value, "content", where)
        : JsonSource.Text(value, where);

    private static JsonElement Element(JsonNode node) => JsonSerializer.SerializeToElement(node);

    /// <summary>`"151643": {"content": …, "special": true …}`.</summary>
    private static AddedToken TokenOf(JsonProperty entry, string path)
    {
        var where = $"{path}: {DecoderKey} '{entry.Name}'";
        if (!int.TryParse(entry.Name, out var id) || id < 0
            || id >= TokenizerJson.MaxId) throw new InvalidDataException($"{where} must be an id, 0 to {TokenizerJson.MaxId - 1}");
        return TokenizerJson.ReadToken(entry.Value, id, where);
    }

    /// <summary>`"&lt;|im_end|&gt;": 151645`. Whether it is special, other files say.</summary>
    private static AddedToken AddedOf(JsonProperty entry, string path) => entry.Value.ValueKind == JsonValueKind.Number && entry.Value.TryGetInt32(out var id)
        && id >= 0 && id < TokenizerJson.MaxId
        ? new AddedToken(id, entry.Name, Special: false)
            : throw new InvalidDataException($"{path}: '{entry.Name}' must have an id, 0 to {TokenizerJson.MaxId - 1}, but has {entry.Value.GetRawText()}");
}
