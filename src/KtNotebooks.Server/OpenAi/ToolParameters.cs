using System.Text.Json;
using System.Text.Json.Nodes;

namespace KtNotebooks.Server.OpenAi;

/// <summary>The JSON schema of a tool's arguments, as templates can tell it: an object, with `properties` at its own level.</summary>
internal static class ToolParameters
{
    /// <summary>What a client gave, with a `$ref` at its head looked up and `properties` where there are none.</summary>
    /// <exception cref="ArgumentException">It is of something else than an object, or its `$ref` leads nowhere; the message names the keyword.</exception>
    public static JsonElement Complete(JsonElement? schema)
    {
        var all = schema is { } given ? JsonObject.Create(given.Clone())! : [];
        foreach (var (name, value) in Head(all))
            if (!all.ContainsKey(name)) all[name] = value?.DeepClone();
        all.Remove("$ref");
        if (!MeansObject(all["type"])) throw new ArgumentException($"type must be object, but is {all["type"]!.ToJsonString()}");
        all.TryAdd("type", "object");
        if (all["properties"] is null) all["properties"] = new JsonObject();
        if (all["properties"] is not JsonObject) throw new ArgumentException("properties must be an object");
        using var document = JsonDocument.Parse(all.ToJsonString());
        return document.RootElement.Clone();
    }

    /// <summary>What `$ref` at the head names: generators write `{"$ref": "#/$defs/Arguments", "$defs": …}`.</summary>
    private static JsonObject Head(JsonObject all)
    {
        var place = all;
        for (var steps = 0; place.TryGetPropertyValue("$ref", out var reference); steps++)
        {
            if (steps > 50) throw new ArgumentException("$ref refers to itself");
            if (reference is not JsonValue text || !text.TryGetValue<string>(out var path) || !path.StartsWith("#/", StringComparison.Ordinal))
                throw new ArgumentException("$ref must name a place in the schema itself: #/$defs/NAME");
            JsonNode? found = all;
            foreach (var step in path.Split('/').Skip(1)) found = (found as JsonObject)?[step];
            place = found as JsonObject ?? throw new ArgumentException($"there is no {path}");
        }
        return place;
    }

    private static bool MeansObject(JsonNode? type) => type switch
    {
        null => true,
        JsonArray some => some.Any(t => t is JsonValue word && word.TryGetValue<string>(out var name) && name == "object"),
        JsonValue word => word.TryGetValue<string>(out var name) && name == "object",
        _ => false,
    };
}
