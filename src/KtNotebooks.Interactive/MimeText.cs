using System.Text.Json.Nodes;

namespace KtNotebooks.Interactive;

/// <summary>A form of a bundle as hosts carry it that know texts only: binary ones as base64.</summary>
internal static class MimeText
{
    internal static string Of(object value) => value switch
    {
        byte[] bytes => Convert.ToBase64String(bytes),
        JsonNode json => json.ToJsonString(),
        _ => value.ToString()!,
    };
}
