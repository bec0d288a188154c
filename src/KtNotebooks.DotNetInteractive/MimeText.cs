using System.Text.Json.Nodes;

namespace KtNotebooks.DotNetInteractive;

/// <summary>A form of a bundle as .NET Interactive carries it: text, binary ones as base64, JSON as it is written.</summary>
internal static class MimeText
{
    internal static string Of(object value) => value switch
    {
        byte[] bytes => Convert.ToBase64String(bytes),
        JsonNode node => node.ToJsonString(),
        _ => value.ToString()!,
    };
}
