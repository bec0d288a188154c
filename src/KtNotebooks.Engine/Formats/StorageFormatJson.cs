using System.Text.Json;
using System.Text.Json.Serialization;

namespace KtNotebooks.Formats;

/// <summary>A format in JSON is its name; in files of before it was an object, in capitals.</summary>
internal sealed class StorageFormatJson : JsonConverter<StorageFormat>
{
    public override StorageFormat Read(ref Utf8JsonReader reader, Type type, JsonSerializerOptions options)
    {
        var name = reader.TokenType == JsonTokenType.String ? reader.GetString()! : throw new JsonException("a format must be a name");
        return StorageFormat.All.FirstOrDefault(f => f.Name.Equals(name, StringComparison.OrdinalIgnoreCase))
            ?? throw new JsonException($"a format must be one of {string.Join(", ", StorageFormat.Names)}, but is '{name}'");
    }

    public override void Write(Utf8JsonWriter writer, StorageFormat value, JsonSerializerOptions options) => writer.WriteStringValue(value.Name);
}
