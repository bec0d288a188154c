using System.Reflection;
using System.Text.Json;
using System.Text.Json.Serialization;

using Microsoft.DotNet.Interactive.Connection;

namespace KtNotebooks.DotNetInteractive;

/// <summary>
/// .NET Interactive's Jupyter front (1.0.712001) writes every form but application/json as a string, also those that are JSON themselves, and front ends that
/// draw Plotly's figures want them as they are. So the writer of a message's data is taught to write what is called …+json as JSON. (VS Code's
/// own protocol carries texts, which its renderers parse; there this changes nothing.)
/// </summary>
internal static class JupyterFront
{
    private const BindingFlags Any = BindingFlags.NonPublic | BindingFlags.Instance;

    /// <summary>Whether forms that are JSON reach the front end as such.</summary>
    internal static bool SendsJson { get; } = TryAdd(Serializer.JsonSerializerOptions, new DataConverter());

    /// <summary>
    /// Options that have been used are locked, and what they have looked up is kept; both are undone where this runtime has the fields that do it. Where it has
    /// others, charts come as pictures only, as they did.
    /// </summary>
    internal static bool TryAdd(JsonSerializerOptions options, JsonConverter converter)
    {
        var type = typeof(JsonSerializerOptions);
        if (type.GetField("_isReadOnly", Any) is not { } locked || type.GetField("_cachingContext", Any) is not { } kept
            || type.GetMethod("ClearCaches", Any, []) is not { } forget)
            return false;
        // A message that is being written meanwhile locks them again.
        for (var tries = 0; tries < 100; tries++)
        {
            locked.SetValue(options, false);
            try
            {
                options.Converters.Insert(0, converter);
            }
            catch (InvalidOperationException)
            {
                continue;
            }
            forget.Invoke(options, null);
            kept.SetValue(options, null);
            options.MakeReadOnly();
            return true;
        }
        return false;
    }

    /// <summary>The data of a message: a form by each MIME type.</summary>
    private sealed class DataConverter : JsonConverter<IReadOnlyDictionary<string, object?>>
    {
        public override IReadOnlyDictionary<string, object?>? Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options) =>
            JsonSerializer.Deserialize<Dictionary<string, object?>>(ref reader, options);

        public override void Write(Utf8JsonWriter writer, IReadOnlyDictionary<string, object?> value, JsonSerializerOptions options)
        {
            writer.WriteStartObject();
            foreach (var (name, form) in value)
            {
                writer.WritePropertyName(name);
                if (form is string text && name.EndsWith("+json", StringComparison.Ordinal) && Parse(text) is { } json) json.WriteTo(writer);
                else JsonSerializer.Serialize(writer, form, form?.GetType() ?? typeof(object), options);
            }
            writer.WriteEndObject();
        }

        private static JsonElement? Parse(string text)
        {
            try
            {
                return JsonElement.Parse(text);
            }
            catch (JsonException)
            {
                return null;
            }
        }
    }
}
