using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Unicode;

namespace KtNotebooks.Files;

/// <summary>
/// JSON files that are read whole: config.json, an index, a tokenizer, an adapter's settings. Errors name file, line and, where something is missing, what
/// was wanted.
/// </summary>
public static class JsonSource
{
    /// <summary>The deepest nesting taken.</summary>
    public const int Depth = 64;

    /// <summary>The root, which lives on its own.</summary>
    /// <param name="path">The file.</param>
    /// <param name="what">What it is, for errors: "a model's config.json".</param>
    /// <param name="kind">What the root must be; null: anything.</param>
    /// <exception cref="FileNotFoundException">Nothing is there.</exception>
    /// <exception cref="InvalidDataException">No file, not JSON, or another root; file and line are named.</exception>
    public static JsonElement Read(string path, string what, JsonValueKind? kind = JsonValueKind.Object)
    {
        var root = Parse(RegularFile.ReadAllBytes(path, what), path);
        if (kind is { } wanted && root.ValueKind != wanted) throw new InvalidDataException($"{path}: must be a JSON {Name(wanted)}, but is {Named(root)}");
        return root;
    }

    /// <summary>The same as nodes, for files that are changed and written again. Of a key that stands twice the last counts, as everywhere.</summary>
    public static JsonObject ReadNodes(string path, string what) => (JsonObject)Nodes(Read(path, what))!;

    /// <summary>The line on which a key stands: the names of the objects around it, outermost first, then its own. 0: it is not there.</summary>
    public static long LineOf(string path, IReadOnlyList<string> keys)
    {
        var bytes = Utf8Text.Of(RegularFile.ReadAllBytes(path), path).Span;
        var reader = new Utf8JsonReader(bytes);
        var open = new List<string>();
        while (reader.Read())
        {
            if (reader.TokenType != JsonTokenType.PropertyName) continue;
            open.RemoveRange(Math.Min(open.Count, reader.CurrentDepth - 1), Math.Max(0, open.Count - (reader.CurrentDepth - 1)));
            open.Add(reader.GetString()!);
            if (open.SequenceEqual(keys)) return bytes[..(int)reader.TokenStartIndex].Count((byte)'\n') + 1;
        }
        return 0;
    }

    /// <summary>The same of bytes that are there already; the name stands in errors where a path would.</summary>
    public static JsonElement Parse(ReadOnlyMemory<byte> bytes, string name)
    {
        // Invalid bytes are told with their line; UTF-16, with or without a mark, is Utf8Text's.
        var text = bytes.Span is [0xFE or 0xFF or 0, ..] or [_, 0, ..] || Utf8.IsValid(bytes.Span) ? Utf8Text.Of(bytes, name) : bytes;
        if (BadText(text.Span) is var (line, what)) throw new InvalidDataException($"{name}:{line}: {what}");
        if (text.Span.IndexOfAnyExcept(" \t\r\n"u8) < 0)
            throw new InvalidDataException($"{name}: is empty, and must hold JSON; a file that was cut off? Fetch or write it again");
        try
        {
            using var document = JsonDocument.Parse(text, new JsonDocumentOptions { MaxDepth = Depth });
            return document.RootElement.Clone();
        }
        catch (JsonException error)
        {
            throw new InvalidDataException($"{name}:{error.LineNumber + 1}: not valid JSON: {Reason(error)}");
        }
    }

    /// <summary>A value as nodes. .NET's own conversion fails later, and without a place, where a key stands twice.</summary>
    public static JsonNode? Nodes(JsonElement value)
    {
        switch (value.ValueKind)
        {
            case JsonValueKind.Object:
                var block = new JsonObject();
                foreach (var property in value.EnumerateObject()) block[property.Name] = Nodes(property.Value);
                return block;
            case JsonValueKind.Array: return new JsonArray([.. value.EnumerateArray().Select(Nodes)]);
            case JsonValueKind.Null or JsonValueKind.Undefined: return null;
            default: return JsonValue.Create(value);
        }
    }

    /// <summary>A field that must be there and of a kind.</summary>
    /// <param name="where">What the object is, as the error begins: file and path in it.</param>
    /// <exception cref="InvalidDataException">It is missing, or of another kind.</exception>
    public static JsonElement Field(JsonElement parent, string key, JsonValueKind kind, string where) =>
        MaybeField(parent, key, kind, where) ?? throw new InvalidDataException($"{where}: has no '{key}'");

    /// <summary>The same; null where it is missing or null.</summary>
    public static JsonElement? MaybeField(JsonElement parent, string key, JsonValueKind kind, string where)
    {
        if (parent.ValueKind != JsonValueKind.Object) throw new InvalidDataException($"{where}: must be an object, but is {Named(parent)}");
        if (!parent.TryGetProperty(key, out var value) || value.ValueKind == JsonValueKind.Null) return null;
        return value.ValueKind == kind ? value : throw new InvalidDataException($"{where}: '{key}' must be {WithArticle(kind)}, but is {Named(value)}");
    }

    /// <summary>A text that must be there.</summary>
    public static string Text(JsonElement parent, string key, string where) => Text(Field(parent, key, JsonValueKind.String, where), $"{where}: '{key}'");

    /// <summary>What a text value says.</summary>
    /// <exception cref="InvalidDataException">No text.</exception>
    public static string Text(JsonElement value, string where) => value.ValueKind == JsonValueKind.String ? value.GetString()!
        : throw new InvalidDataException($"{where} must be a text, but is {Named(value)}");

    /// <summary>
    /// What .NET's parser lets through and then fails at when a text is asked for: bytes that are not UTF-8, and escapes of half a character. Null where all
    /// texts can be read.
    /// </summary>
    public static (int Line, string What)? BadText(ReadOnlySpan<byte> bytes)
    {
        if (!Utf8.IsValid(bytes)) return (LineOf(bytes, FirstInvalid(bytes)), "not UTF-8; save it as UTF-8");
        if (bytes.IndexOf("\\ud"u8) < 0 && bytes.IndexOf("\\uD"u8) < 0) return null;
        var reader = new Utf8JsonReader(bytes, new JsonReaderOptions { MaxDepth = Depth });
        try
        {
            while (reader.Read())
                if (reader.TokenType is JsonTokenType.String or JsonTokenType.PropertyName && reader.ValueIsEscaped) reader.GetString();
        }
        catch (JsonException)
        {
            return null; // the parser names it
        }
        catch (InvalidOperationException)
        {
            return (LineOf(bytes, (int)reader.TokenStartIndex), "a text holds half a character: one of \\uD800 to \\uDFFF without its partner");
        }
        return null;
    }

    private static int LineOf(ReadOnlySpan<byte> bytes, int at) => bytes[..at].Count((byte)'\n') + 1;

    private static int FirstInvalid(ReadOnlySpan<byte> bytes)
    {
        for (var at = 0; at < bytes.Length;)
        {
            if (Rune.DecodeFromUtf8(bytes[at..], out _, out var used) != System.Buffers.OperationStatus.Done) return at;
            at += used;
        }
        return bytes.Length;
    }

    /// <summary>A whole number that must be there.</summary>
    public static long Whole(JsonElement parent, string key, string where) => Field(parent, key, JsonValueKind.Number, where).TryGetInt64(out var value)
        ? value : throw new InvalidDataException($"{where}: '{key}' must be a whole number, but is {parent.GetProperty(key).GetRawText()}");

    /// <summary>True or false, or <paramref name="missing"/>.</summary>
    public static bool Flag(JsonElement parent, string key, bool missing, string where)
    {
        if (parent.ValueKind != JsonValueKind.Object || !parent.TryGetProperty(key, out var value) || value.ValueKind == JsonValueKind.Null) return missing;
        return value.ValueKind is JsonValueKind.True or JsonValueKind.False ? value.GetBoolean()
            : throw new InvalidDataException($"{where}: '{key}' must be true or false, but is {Named(value)}");
    }

    /// <summary>What .NET's reader found, in words for whoever wrote the file; without its place, which counts lines from zero.</summary>
    public static string Reason(JsonException error)
    {
        ArgumentNullException.ThrowIfNull(error);
        var found = error.Message.StartsWith('\'') && error.Message.IndexOf('\'', 2) is > 0 and var end ? error.Message[..(end + 1)] : "this";
        foreach (var (part, words) in Reasons)
            if (error.Message.Contains(part, StringComparison.Ordinal)) return words.Replace("{0}", found, StringComparison.Ordinal);
        return "it cannot be read on from here";
    }

    /// <summary>A part of .NET's sentence, and ours.</summary>
    private static readonly (string Part, string Words)[] Reasons =
    [
        ("invalid start of a value", "{0} cannot begin a value: a text (in double quotes), a number, true, false, null, { or [ is expected"),
        ("invalid start of a property name", "{0} cannot begin a name: a name in double quotes is expected"),
        ("invalid after a value", "{0} cannot follow a value: a comma, } or ] is expected"),
        ("invalid after a property name", "{0} cannot follow a name: a colon is expected"),
        ("invalid after a single JSON value", "{0} stands behind the end: a file is one value"),
        ("trailing comma", "a comma before the closing bracket"),
        ("Expected end of string", "the file ends inside a text"),
        ("open JSON object or array that should be closed", "the file ends before a { or [ is closed"),
        ("does not contain any JSON tokens", "there is nothing in it"),
        ("invalid escapable character", "\\ cannot stand before {0} in a text"),
        ("invalid within a JSON string", "{0} cannot stand in a text as it is: write it with a backslash"),
        ("invalid end of a number", "{0} cannot end a number, or the file ends there"),
        ("maximum configured depth", "lists and objects are nested too deep"),
        ("UTF-8", "bytes that are no UTF-8"),
    ];

    /// <summary>"a list", "a text", "null" …, for errors.</summary>
    public static string Named(JsonElement value) => value.ValueKind is JsonValueKind.Null or JsonValueKind.True or JsonValueKind.False ? value.GetRawText()
        : WithArticle(value.ValueKind);

    private static string WithArticle(JsonValueKind kind) => kind == JsonValueKind.Object ? "an object" : $"a {Name(kind)}";

    private static string Name(JsonValueKind kind) => kind switch
    {
        JsonValueKind.Object => "object",
        JsonValueKind.Array => "list",
        JsonValueKind.String => "text",
        JsonValueKind.Number => "number",
        _ => kind.ToString().ToLowerInvariant(),
    };
}
