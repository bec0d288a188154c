namespace KtNotebooks.DotNetInteractive;

/// <summary>A form of a bundle as .NET Interactive carries it: text, binary ones as base64.</summary>
internal static class MimeText
{
    internal static string Of(object value) => value is byte[] bytes ? Convert.ToBase64String(bytes) : value.ToString()!;
}
