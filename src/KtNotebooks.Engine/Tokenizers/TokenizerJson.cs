using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace KtNotebooks.Tokenizers;

/// <summary>
/// Hugging Face's tokenizer.json and tokenizer_config.json: reading and writing. Components that are only kept (post_processor, decoder)
/// are written back as they were read.
/// </summary>
internal static class TokenizerJson
{
    public const string FileName = "tokenizer.json";
    public const string ConfigName = "tokenizer_config.json";

    /// <summary>Far above every real vocabulary; keeps a wrong id from asking for gigabytes.</summary>
    private const int MaxId = 1 << 24;

    private static readonly string[] ComponentNames = ["normalizer", "pre_tokenizer", "post_processor", "decoder"];

    private static readonly JsonWriterOptions WriterOptions = new() { Indented = true, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    public static TokenizerParts Read(string path)
    {
        var file = Directory.Exists(path) ? Path.Combine(path, FileName) : path;
        if (!File.Exists(file))
            throw new FileNotFoundException($"There is no tokenizer at '{file}'. A model folder holds {FileName}; give that folder or the file.", file);
        using var document = Parse(file);
        try
        {
            var root = document.RootElement;
            Expect(root.ValueKind == JsonValueKind.Object, "it is not a JSON object");
            var components = ComponentNames.Where(n => root.TryGetProperty(n, out _)).ToDictionary(n => n, n => root.GetProperty(n).Clone());
            var model = ReadModel(root.TryGetProperty("model", out var m) ? m : throw Wrong("it has no 'model'"));
            var added = ReadAdded(root, model);
            TokenizerComponents.CheckDecoder(components.GetValueOrDefault("decoder"));
            var config = ReadConfig(Path.Combine(Path.GetDirectoryName(file)!, ConfigName));
            var ids = added.ToDictionary(t => t.Content, t => t.Id, StringComparer.Ordinal);
            var (before, after) = TokenizerComponents.SpecialsAround(components.GetValueOrDefault("post_processor"), config, name => ids.TryGetValue(name, out var id) ? id : model.IdOf(name));
            return new TokenizerParts(
                model, added, TokenizerComponents.ReadNormalizer(components.GetValueOrDefault("normalizer")),
                TokenizerComponents.ReadPreTokenizer(components.GetValueOrDefault("pre_tokenizer")), before, after, components, config);
        }
        catch (InvalidDataException e)
        {
            throw new InvalidDataException($"{file}: {e.Message}", e);
        }
        catch (NotSupportedException e)
        {
            throw new NotSupportedException($"{file}: {e.Message}", e);
        }
        catch (Exception e) when (e is InvalidOperationException or KeyNotFoundException or FormatException or ArgumentException)
        {
            throw new InvalidDataException($"{file}: not a tokenizer in Hugging Face's layout ({e.Message})", e);
        }
    }

    public static void Write(TokenizerParts parts, string folder)
    {
        Directory.CreateDirectory(folder);
        WriteWhole(Path.Combine(folder, FileName), writer => WriteTokenizer(parts, writer));
        WriteWhole(Path.Combine(folder, ConfigName), writer => parts.Config.WriteTo(writer));
    }

    /// <summary>The text of bos_token and the like, which may be a string, an object with 'content', or null.</summary>
    public static string? TokenName(JsonObject config, string key) => config[key] switch
    {
        JsonValue value when value.TryGetValue<string>(out var text) => text,
        JsonObject token => token["content"]?.GetValue<string>(),
        _ => null,
    };

    private static JsonDocument Parse(string file)
    {
        try
        {
            return JsonDocument.Parse(File.ReadAllBytes(file));
        }
        catch (JsonException e)
        {
            throw new InvalidDataException($"{file}: not valid JSON at line {e.LineNumber + 1}, byte {e.BytePositionInLine + 1}. The file may be cut off; fetch it again.", e);
        }
    }

    private static BpeModel ReadModel(JsonElement model)
    {
        var type = model.TryGetProperty("type", out var t) ? t.GetString() : "BPE";
        if (type != "BPE")
            throw new NotSupportedException($"the model is of type '{type}'; only 'BPE' (byte-level) is supported.");
        foreach (var affix in (string[])["continuing_subword_prefix", "end_of_word_suffix"])
        {
            if (model.TryGetProperty(affix, out var value) && value.ValueKind == JsonValueKind.String && value.GetString() != "")
                throw new NotSupportedException($"the model sets '{affix}', which byte-level BPE does not use.");
        }

        var vocab = model.GetProperty("vocab");
        foreach (var entry in vocab.EnumerateObject())
            Expect(entry.Value.TryGetInt32(out var id) && (uint)id < MaxId, $"the token '{entry.Name}' has the id {entry.Value.GetRawText()}; expected 0 to {MaxId - 1}");
        var tokens = new string?[vocab.EnumerateObject().Select(p => p.Value.GetInt32() + 1).DefaultIfEmpty(0).Max()];
        foreach (var entry in vocab.EnumerateObject())
        {
            ref var token = ref tokens[entry.Value.GetInt32()];
            Expect(token is null, $"the id {entry.Value.GetInt32()} is given to two tokens, '{token}' and '{entry.Name}'");
            token = entry.Name;
        }
        var ids = new Dictionary<string, int>(tokens.Length, StringComparer.Ordinal);
        for (var id = 0; id < tokens.Length; id++)
        {
            if (tokens[id] is { } token)
                ids[token] = id;
        }

        var merges = new List<(int, int, int)>();
        foreach (var entry in model.GetProperty("merges").EnumerateArray())
        {
            string[] pair = entry.ValueKind == JsonValueKind.Array
                ? [.. entry.EnumerateArray().Select(e => e.GetString() ?? "")]
                : (entry.GetString() ?? "").Split(' ');
            Expect(pair.Length == 2, $"merge {merges.Count} is {entry.GetRawText()}; expected two tokens");
            merges.Add((Id(pair[0]), Id(pair[1]), Id(pair[0] + pair[1])));
        }
        return new BpeModel(tokens, merges, model.TryGetProperty("ignore_merges", out var ignore) && ignore.ValueKind == JsonValueKind.True);

        int Id(string token) => ids.TryGetValue(token, out var id) ? id : throw Wrong($"merge {merges.Count} needs the token '{token}', which is not in the vocabulary");
    }

    private static AddedToken[] ReadAdded(JsonElement root, BpeModel model)
    {
        if (!root.TryGetProperty("added_tokens", out var list) || list.ValueKind != JsonValueKind.Array)
            return [];
        var added = list.EnumerateArray().Select(e =>
        {
            var content = e.GetProperty("content").GetString() ?? "";
            bool Flag(string name) => e.TryGetProperty(name, out var value) && value.ValueKind == JsonValueKind.True;
            return new AddedToken(model.IdOf(content) ?? e.GetProperty("id").GetInt32(), content, Flag("special"), Flag("single_word"), Flag("lstrip"), Flag("rstrip"), Flag("normalized"));
        }).OrderBy(t => t.Id).ToArray();
        foreach (var token in added)
            Expect((uint)token.Id < MaxId, $"the added token '{token.Content}' has the id {token.Id}; expected 0 to {MaxId - 1}");
        return added;
    }

    private static JsonObject ReadConfig(string file)
    {
        if (!File.Exists(file))
            return [];
        using var document = Parse(file);
        return JsonObject.Create(document.RootElement.Clone()) ?? throw Wrong($"{ConfigName} is not a JSON object");
    }

    private static void WriteTokenizer(TokenizerParts parts, Utf8JsonWriter writer)
    {
        writer.WriteStartObject();
        writer.WriteString("version", "1.0");
        writer.WriteNull("truncation");
        writer.WriteNull("padding");
        writer.WriteStartArray("added_tokens");
        foreach (var token in parts.Added)
        {
            writer.WriteStartObject();
            writer.WriteNumber("id", token.Id);
            writer.WriteString("content", token.Content);
            writer.WriteBoolean("single_word", token.SingleWord);
            writer.WriteBoolean("lstrip", token.LStrip);
            writer.WriteBoolean("rstrip", token.RStrip);
            writer.WriteBoolean("normalized", token.Normalized);
            writer.WriteBoolean("special", token.Special);
            writer.WriteEndObject();
        }
        writer.WriteEndArray();
        foreach (var name in ComponentNames)
        {
            writer.WritePropertyName(name);
            if (parts.Components.TryGetValue(name, out var component))
                component.WriteTo(writer);
            else
                writer.WriteNullValue();
        }
        writer.WriteStartObject("model");
        writer.WriteString("type", "BPE");
        foreach (var name in (string[])["dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"])
            writer.WriteNull(name);
        writer.WriteBoolean("fuse_unk", false);
        writer.WriteBoolean("byte_fallback", false);
        writer.WriteBoolean("ignore_merges", parts.Model.IgnoreMerges);
        writer.WriteStartObject("vocab");
        for (var id = 0; id < parts.Model.Tokens.Length; id++)
        {
            if (parts.Model.Tokens[id] is { } token)
                writer.WriteNumber(token, id);
        }
        writer.WriteEndObject();
        writer.WriteStartArray("merges");
        foreach (var (left, right, _) in parts.Model.Merges)
            writer.WriteStringValue($"{parts.Model.Tokens[left]} {parts.Model.Tokens[right]}");
        writer.WriteEndArray();
        writer.WriteEndObject();
        writer.WriteEndObject();
    }

    private static void WriteWhole(string file, Action<Utf8JsonWriter> write)
    {
        var temporary = file + ".tmp";
        try
        {
            using (var stream = File.Create(temporary))
            using (var writer = new Utf8JsonWriter(stream, WriterOptions))
                write(writer);
            File.Move(temporary, file, overwrite: true);
        }
        finally
        {
            File.Delete(temporary);
        }
    }

    private static void Expect(bool condition, string otherwise)
    {
        if (!condition)
            throw Wrong(otherwise);
    }

    private static InvalidDataException Wrong(string what) => new(what + ".");
}
