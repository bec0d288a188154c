using System.Text.Json;

namespace KtNotebooks.Server.Http;

/// <summary>What is wrong with a body that is JSON of a kind that is not taken, in our own words: too many levels, or a key twice.</summary>
internal static class BodyFault
{
    /// <summary>Objects and lists in each other.</summary>
    public const int MostLevels = 64;

    /// <summary>null: neither, so it is no JSON at all.</summary>
    public static string? Of(ReadOnlySpan<byte> body)
    {
        var reader = new Utf8JsonReader(body, new JsonReaderOptions { MaxDepth = int.MaxValue });
        var keys = new Stack<HashSet<string>>();
        try
        {
            while (reader.Read())
            {
                if (reader.TokenType is JsonTokenType.StartObject or JsonTokenType.StartArray && reader.CurrentDepth >= MostLevels)
                    return $"the body has more than {MostLevels} objects and lists in each other (byte {reader.TokenStartIndex + 1})";
                if (reader.TokenType == JsonTokenType.StartObject) keys.Push(new HashSet<string>(StringComparer.Ordinal));
                else if (reader.TokenType == JsonTokenType.EndObject) keys.Pop();
                else if (reader.TokenType == JsonTokenType.PropertyName && reader.GetString() is var key && !keys.Peek().Add(key!))
                    return $"the key '{JsonFields.Cut(key!)}' stands twice in one object (byte {reader.TokenStartIndex + 1})";
            }
        }
        catch (Exception error) when (error is JsonException or InvalidOperationException)
        {
            return null;
        }
        return null;
    }
}
