using System.Security.Cryptography;
using System.Text;
using System.Text.RegularExpressions;

namespace KtNotebooks.Server.Http;

/// <summary>GET /: a page to talk with base and adapters side by side. One file, nothing from the network; only its own script and style may act.</summary>
internal sealed partial class PageEndpoint
{
    private readonly byte[] _page;
    private readonly string _policy;

    public PageEndpoint()
    {
        using var stream = typeof(PageEndpoint).Assembly.GetManifestResourceStream("chat.html")!;
        using var reader = new StreamReader(stream);
        var text = reader.ReadToEnd().ReplaceLineEndings("\n");
        _page = Encoding.UTF8.GetBytes(text);
        string Of(Regex part) => Convert.ToBase64String(SHA256.HashData(Encoding.UTF8.GetBytes(part.Match(text).Groups[1].Value)));
        _policy = $"default-src 'none'; connect-src 'self'; img-src data:; script-src 'sha256-{Of(Script())}'; style-src 'sha256-{Of(Style())}'; "
            + "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    }

    public async Task Handle(RequestContext c)
    {
        var response = c.Http.Response;
        response.Headers.ContentSecurityPolicy = _policy;
        response.Headers.CacheControl = "no-cache";
        response.ContentType = "text/html; charset=utf-8";
        await response.Body.WriteAsync(_page, c.Cancel);
    }

    [GeneratedRegex("<script>(.*?)</script>", RegexOptions.Singleline)]
    private static partial Regex Script();

    [GeneratedRegex("<style>(.*?)</style>", RegexOptions.Singleline)]
    private static partial Regex Style();
}
