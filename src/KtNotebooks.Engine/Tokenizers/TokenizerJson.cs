using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Files;
using KtNotebooks.Interop;

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
    public const int MaxId = 4_000_000;

    /// <summary>How a tokenizer of another form becomes a tokenizer.json.</summary>
    public const string HowToSave = "Save it anew with transformers: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) writes tokenizer.json";

    private static readonly string[] ComponentNames = ["normalizer", "pre_tokenizer", "post_processor", "decoder"];

    private static readonly JsonWriterOptions WriterOptions = new() { Indented = true, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    public static TokenizerParts Read(string path)
    {
        path = HubCache.Resolve(path, whole: false);
        var file = Directory.Exists(path) ? Path.Combine(path, FileName) : path;
        if (Path.GetFileName(file) == TikTokenFile.FileName) return Named(file, () => TikTokenFile.Read(file));
        if (FileKinds.Of(file) == FileKind.None && new FileInfo(file).LinkTarget is null)
        {
            var other = Path.Combine(path, TikTokenFile.FileName);
            return File.Exists(other) ? Named(other, () => TikTokenFile.Read(other)) : throw Missing(path, file);
        }
        var root = JsonSource.Read(file, "a tokenizer");
        return Named(file, () => Parts(root, file));
    }

    private static TokenizerParts Parts(JsonElement root, string file)
    {
        var components = ComponentNames.Where(n => root.TryGetProperty(n, out _)).ToDictionary(n => n, n => root.GetProperty(n));
        var model = ReadModel(root.TryGetProperty("model", out var m) ? m : throw Wrong("it has no 'model'"));
        var beside = SpecialTokenFiles.Read(Path.GetDirectoryName(Path.GetFullPath(file))!);
        var added = beside.Complete(ReadAdded(root, model), model, Path.GetFileName(file));
        TokenizerComponents.CheckDecoder(components.GetValueOrDefault("decoder"));
        var ids = added.ToDictionary(t => t.Content, t => t.Id, StringComparer.Ordinal);
        int? IdOf(string name) => ids.TryGetValue(name, out var id) ? id : model.IdOf(name);
        var (before, after) = TokenizerComponents.SpecialsAround(components.GetValueOrDefault("post_processor"), beside.Config, IdOf);
        foreach (var id in (int[])[.. before, .. after])
            Expect(ids.ContainsValue(id) || (id >= 0 && id < model.Tokens.Length && model.Tokens[id] is not null),
                $"the post_processor puts the id {id} around texts, which is no token");
        return new TokenizerParts(
            file, model, added, TokenizerComponents.ReadNormalizer(components.GetValueOrDefault("normalizer")),
            TokenizerComponents.ReadPreTokenizer(components.GetValueOrDefault("pre_tokenizer")), before, after, components, beside.Config);
    }

    /// <summary>Puts the file's name before errors that lack it.</summary>
    private static T Named<T>(string file, Func<T> read)
    {
        try
        {
            return read();
        }
        catch (InvalidDataException e)
        {
            throw new InvalidDataException(WithFile(file, e.Message), e);
        }
        catch (NotSupportedException e)
        {
            throw new NotSupportedException(WithFile(file, e.Message), e);
        }
    }

    private static string WithFile(string file, string message) => message.StartsWith(Path.GetDirectoryName(file) ?? file, StringComparison.Ordinal)
        && file.Contains('/', StringComparison.Ordinal) ? message : $"{file}: {message}";

    private static FileNotFoundException Missing(string path, string file)
    {
        var folder = Directory.Exists(path) ? path : Path.GetDirectoryName(Path.GetFullPath(file))!;
        bool There(string name) => File.Exists(Path.Combine(folder, name));
        var instead = There("qwen.tiktoken")
            ? " qwen.tiktoken there belongs to the first Qwen models, whose tokenizer is not read; Qwen2 and later have tokenizer.json."
            : There("tokenizer.model") ? " tokenizer.model there is SentencePiece's, and only byte-level BPE is read."
            : There("vocab.json") ? $" vocab.json there is the old form. {HowToSave}."
            : "";
        return new FileNotFoundException($"There is no tokenizer at '{file}'. A model folder holds {FileName} or {TikTokenFile.FileName}; "
            + $"give that folder or the file.{instead}{HubCache.Hint(folder)}", file);
    }

    public static void Write(TokenizerParts parts, string folder)
    {
        Write(Path.Combine(folder, FileName), writer => WriteTokenizer(parts, writer));
        Write(Path.Combine(folder, ConfigName), writer => parts.Config.WriteTo(writer));
    }

    /// <summary>The text of bos_token and the like, which may be a string, an object with 'content', or null.</summary>
    public static string? TokenName(JsonObject config, string key) => config[key] switch
    {
        JsonValue value when value.TryGetValue<string>(out var text) => text,
        JsonObject token => token["content"] is JsonValue content && content.TryGetValue<string>(out var inner) ? inner : null,
        _ => null,
    };

    /// <summary>One added token of any file.</summary>
    internal static AddedToken ReadToken(JsonElement token, int id, string where)
    {
        bool Flag(string name) => JsonSource.Flag(token, name, missing: false, where);
        return new AddedToken(id, JsonSource.Text(token, "content", where), Flag("special"), Flag("single_word"), Flag("lstrip"), Flag("rstrip"),
            Flag("normalized"));
    }

    private static BpeModel ReadModel(JsonElement model)
    {
        var type = JsonSource.MaybeField(model, "type", JsonValueKind.String, "model") is { } t ? JsonSource.Text(t, "model: 'type'") : "BPE";
        if (type != "BPE")
            throw new NotSupportedException($"the model is of type '{Pattern.Short(type)}'; only 'BPE' (byte-level) is supported.");
        foreach (var affix in (string[])["continuing_subword_prefix", "end_of_word_suffix"])
        {
            if (JsonSource.MaybeField(model, affix, JsonValueKind.String, "model") is { } value && value.ToString() != "")
                throw new NotSupportedException($"the model sets '{affix}', which byte-level BPE does not use.");
        }
        if (JsonSource.MaybeField(model, "dropout", JsonValueKind.Number, "model") is { } dropout && dropout.GetDouble() != 0)
            throw new NotSupportedException($"the model sets 'dropout' to {dropout.GetRawText()}: a text would have other ids each time; only 0 is supported.");
        var tokens = ReadVocabulary(JsonSource.Field(model, "vocab", JsonValueKind.Object, "model"));
        var ids = new Dictionary<string, int>(tokens.Length, StringComparer.Ordinal);
        for (var id = 0; id < tokens.Length; id++)
        {
            if (tokens[id] is { } token)
                Expect(ids.TryAdd(token, id), $"the token '{token}' has two ids");
        }

        var merges = new List<(int, int, int)>();
        foreach (var entry in JsonSource.Field(model, "merges", JsonValueKind.Array, "model").EnumerateArray())
        {
            string[] pair = entry.ValueKind == JsonValueKind.Array
                ? [.. entry.EnumerateArray().Select(e => JsonSource.Text(e, $"merge {merges.Count}"))]
                : JsonSource.Text(entry, $"merge {merges.Count}").Split(' ');
            Expect(pair.Length == 2, $"merge {merges.Count} is {Pattern.Short(entry.GetRawText())}; expected two tokens");
            merges.Add((Id(pair[0]), Id(pair[1]), Id(pair[0] + pair[1])));
        }
        return new BpeModel(tokens, merges, JsonSource.Flag(model, "ignore_merges", missing: false, "model"));

        int Id(string token) => ids.TryGetValue(token, out var id)
            ? id : throw Wrong($"merge {merges.Count} needs the token '{token}', which is not in the vocabulary");
    }

    /// <summary>Token texts by id; holes are null.</summary>
    private static string?[] ReadVocabulary(JsonElement vocab)
    {
        var size = 0;
        foreach (var entry in vocab.EnumerateObject())
        {
            Expect(entry.Value.ValueKind == JsonValueKind.Number && entry.Value.TryGetInt32(out var id) && (uint)id < MaxId,
                $"the token '{entry.Name}' has the id {Pattern.Short(entry.Value.GetRawText())}; expected 0 to {MaxId - 1}");
            size = Math.Max(size, entry.Value.GetInt32() + 1);
        }
        Expect(size > 0, "the vocabulary is empty");
        var tokens = new string?[size];
        foreach (var entry in vocab.EnumerateObject())
        {
            ref var token = ref tokens[entry.Value.GetInt32()];
            Expect(token is null, $"the id {entry.Value.GetInt32()} is given to two tokens, '{token}' and '{entry.Name}'");
            token = entry.Name;
        }
        return tokens;
    }

    /// <summary>The added tokens; of one that stands there twice the last counts.</summary>
    private static AddedToken[] ReadAdded(JsonElement root, BpeModel model)
    {
        if (JsonSource.MaybeField(root, "added_tokens", JsonValueKind.Array, "the file") is not { } list)
            return [];
        Dictionary<string, AddedToken> added = new(StringComparer.Ordinal);
        Dictionary<int, string> names = [];
        foreach (var entry in list.EnumerateArray())
        {
            var where = $"added token {added.Count}";
            var content = JsonSource.Text(entry, "content", where);
            var given = JsonSource.Whole(entry, "id", $"the added token '{content}'");
            Expect(given is >= 0 and < MaxId, $"the added token '{content}' has the id {given}; expected 0 to {MaxId - 1}");
            var token = ReadToken(entry, model.IdOf(content) ?? (int)given, where);
            Expect(!added.TryGetValue(content, out var before) || before.Id == token.Id,
                $"the added token '{content}' has two ids, {before?.Id} and {token.Id}");
            Expect(names.TryAdd(token.Id, content) || names[token.Id] == content,
                $"the id {token.Id} is given to two added tokens, '{names[token.Id]}' and '{content}'");
            added[content] = token;
        }
        return [.. added.Values.OrderBy(t => t.Id)];
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

    private static void Write(string file, Action<Utf8JsonWriter> write) => AtomicFile.Write(file, expectedBytes: 0, stream =>
    {
        using var writer = new Utf8JsonWriter(stream, WriterOptions);
        write(writer);
    });

    private static void Expect(bool condition, string otherwise)
    {
        if (!condition)
            throw Wrong(otherwise);
    }

    private static InvalidDataException Wrong(string what) => new(what + ".");
}
