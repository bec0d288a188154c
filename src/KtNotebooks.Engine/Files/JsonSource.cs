using System.Text.Json;

namespace KtNotebooks.Files;

/// <summary>JSON files that are read whole: config.json, an index, a tokenizer, an adapter's settings. Errors name file, line and, where something is missing, what was wanted.</summary>
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
        var text = Utf8Text.Of(bytes, name);
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

    /// <summary>.NET's reason without its place, which counts lines from zero.</summary>
    public static string Reason(JsonException error)
    {
        ArgumentNullException.ThrowIfNull(error);
        var at = error.Message.IndexOf(" LineNumber:", StringComparison.Ordinal);
        return (at < 0 ? error.Message : error.Message[..at]).TrimEnd('.');
    }

    /// <summary>"a list", "a text", "null" …, for errors.</summary>
    public static string Named(JsonElement value) => value.ValueKind is JsonValueKind.Null or JsonValueKind.True or JsonValueKind.False ? value.GetRawText() : $"a {Name(value.ValueKind)}";

    private static string Name(JsonValueKind kind) => kind switch
    {
        JsonValueKind.Object => "object",
        JsonValueKind.Array => "list",
        JsonValueKind.String => "text",
        JsonValueKind.Number => "number",
        _ => kind.ToString().ToLowerInvariant(),
    };
}
