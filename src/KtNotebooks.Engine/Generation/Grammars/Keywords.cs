using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Serialization;

using KtNotebooks.Data;

namespace KtNotebooks.Generation.Grammars;

/// <summary>The keywords of one schema object; what nobody has asked for is refused by name.</summary>
/// <param name="schema">An object.</param>
/// <param name="path">Where it stands: `#/properties/age`.</param>
internal sealed class Keywords(JsonElement schema, string path)
{
    private readonly HashSet<string> _asked = new(StringComparer.Ordinal);

    public string Path => path;

    public string At(string keyword) => $"{path}/{keyword}";

    public bool Has(string keyword) => schema.TryGetProperty(keyword, out _);

    public JsonElement? Get(string keyword)
    {
        _asked.Add(keyword);
        return schema.TryGetProperty(keyword, out var value) ? value : null;
    }

    public double? Number(string keyword) => Get(keyword) is not { } value ? null
        : value.ValueKind == JsonValueKind.Number && value.TryGetDouble(out var number) && double.IsFinite(number) ? number
        : throw new ArgumentException($"{At(keyword)} must be a number");

    /// <summary>A whole number from 0 on.</summary>
    public int? Count(string keyword) => Number(keyword) is not { } number ? null
        : number >= 0 && number == Math.Floor(number) && number <= 100_000 ? (int)number
        : throw new ArgumentException($"{At(keyword)} must be a whole number from 0 to 100000");

    public void Finish(Func<string, bool> describes)
    {
        foreach (var keyword in schema.EnumerateObject())
        {
            if (_asked.Contains(keyword.Name) || describes(keyword.Name)) continue;
            var near = Nearest.Find(keyword.Name, _asked);
            throw new ArgumentException($"{At(keyword.Name)} is not supported{(near is null ? "" : $"; did you mean {near}?")}");
        }
    }

    /// <summary>The schema that `#/…` names.</summary>
    /// <exception cref="ArgumentException">There is none.</exception>
    public static JsonElement Resolve(JsonElement root, string reference, string at)
    {
        if (reference is not "#" && !reference.StartsWith("#/", StringComparison.Ordinal))
            throw new ArgumentException($"{at}: $ref '{reference}' must name a place in the schema itself: #/$defs/NAME");
        foreach (var step in reference.Split('/').Skip(1))
        {
            var name = Uri.UnescapeDataString(step).Replace("~1", "/", StringComparison.Ordinal).Replace("~0", "~", StringComparison.Ordinal);
            if (root.ValueKind != JsonValueKind.Object || !root.TryGetProperty(name, out root)) throw new ArgumentException($"{at}: there is no {reference}");
        }
        return root;
    }
}

/// <summary>JSON as models write it.</summary>
[JsonSerializable(typeof(JsonElement))]
[JsonSerializable(typeof(string))]
internal sealed partial class GrammarJson : JsonSerializerContext
{
    public static readonly GrammarJson Readable = new(new JsonSerializerOptions { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping });
}
