using System.Text.Encodings.Web;
using System.Text.Json;

namespace KtNotebooks.Server.OpenAi;

/// <summary>How JSON goes over the wire: names_like_this, and text that is not ASCII as it is.</summary>
internal static class WireOptions
{
    public static JsonSerializerOptions Snake() => new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
    };
}
