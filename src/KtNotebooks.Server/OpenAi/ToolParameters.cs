using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Generation.Grammars;

namespace KtNotebooks.Server.OpenAi;

/// <summary>The JSON schema of a tool's arguments, as templates can tell it: an object, with `properties` at its own level.</summary>
internal static class ToolParameters
{
    /// <summary>What a client gave, with what `$ref` and `allOf` at its head say written out, and `properties` where there are none.</summary>
    /// <exception cref="ArgumentException">It is of something else than an object, or its `$ref` leads nowhere; the message names the keyword.</exception>
    public static JsonElement Complete(JsonElement? schema)
    {
        JsonElement? flat = schema is { } given ? AnswerGrammars.Flatten(given) : null;
        if (flat is { ValueKind: not JsonValueKind.Object }) throw new ArgumentException("nothing is of all its parts at once");
        var all = flat is { } parts ? JsonObject.Create(parts)! : [];
        if (!MeansObject(all["type"])) throw new ArgumentException($"type must be object, but is {all["type"]!.ToJsonString()}");
        all.TryAdd("type", "object");
        if (all["properties"] is null) all["properties"] = new JsonObject();
        if (all["properties"] is not JsonObject) throw new ArgumentException("properties must be an object");
        using var document = JsonDocument.Parse(all.ToJsonString());
        return document.RootElement.Clone();
    }

    private static bool MeansObject(JsonNode? type) => type switch
    {
        null => true,
        JsonArray some => some.Any(t => t is JsonValue word && word.TryGetValue<string>(out var name) && name == "object"),
        JsonValue word => word.TryGetValue<string>(out var name) && name == "object",
        _ => false,
    };
}
