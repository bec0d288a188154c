using System.Security.Cryptography;
using System.Text;

using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.Primitives;

namespace KtNotebooks.Server.Http;

/// <summary>What a request must have before anything of it is read: a host that is ours, an origin that may call, a key.</summary>
internal sealed class Guard(ApiSettings settings)
{
    private readonly byte[][] _keys = [.. settings.Keys.Select(Hash)];

    /// <exception cref="ApiException">401 or 403.</exception>
    public void Check(HttpContext context, bool needsKey)
    {
        CheckHost(context.Request);
        CheckOrigin(context);
        if (needsKey && _keys.Length > 0) CheckKey(context.Request);
    }

    /// <summary>Answers a browser that asks before it calls from another page.</summary>
    public void Preflight(HttpContext context)
    {
        CheckHost(context.Request);
        CheckOrigin(context);
        context.Response.Headers.AccessControlAllowMethods = "GET, POST";
        // Whoever may call may send what it likes: OpenAI's and Anthropic's clients bring a dozen headers of their own (x-stainless-…).
        context.Response.Headers.AccessControlAllowHeaders = context.Request.Headers.AccessControlRequestHeaders is { Count: > 0 } wanted ? wanted.ToString()
            : "authorization, content-type";
        context.Response.StatusCode = StatusCodes.Status204NoContent;
    }

    /// <summary>
    /// A page on the web can make its own name point at 127.0.0.1 and then ask us as if it were of one origin (DNS rebinding); the name is in the header.
    /// </summary>
    private void CheckHost(HttpRequest request)
    {
        if (!settings.IsLoopback) return;
        if (request.Host.Host is not ("localhost" or "127.0.0.1" or "[::1]" or "::1"))
            throw new ApiException(403, "the Host header must name this machine as localhost or 127.0.0.1: so a proxy "
                + "in front must send it; or listen for others (api_host, ApiSettings.Host)", null, "host_not_allowed");
    }

    private void CheckOrigin(HttpContext context)
    {
        var origin = context.Request.Headers.Origin;
        if (StringValues.IsNullOrEmpty(origin)) return;
        var same = $"{context.Request.Scheme}://{context.Request.Host}" == origin;
        if (!same && !settings.Origins.Contains("*") && !settings.Origins.Contains(origin.ToString()))
            throw new ApiException(403, "pages of this origin may not call; the key api_cors allows some", null, "origin_not_allowed");
        if (same) return;
        context.Response.Headers.AccessControlAllowOrigin = origin;
        context.Response.Headers.AccessControlExposeHeaders = "x-request-id, request-id, retry-after, " + NoEffect.Header;
        context.Response.Headers.Vary = "Origin";
    }

    /// <summary>Every key is compared, in a time that does not depend on where they differ.</summary>
    private void CheckKey(HttpRequest request)
    {
        var given = request.Headers.Authorization.ToString() is { Length: > 7 } bearer && bearer.StartsWith("Bearer ", StringComparison.OrdinalIgnoreCase)
            ? bearer[7..].Trim() : request.Headers["x-api-key"].ToString();
        if (given.Length == 0)
            throw new ApiException(401, "a key is needed: Authorization: Bearer KEY, or x-api-key: KEY", null, "missing_api_key");
        var hash = Hash(given);
        var known = false;
        foreach (var key in _keys) known |= CryptographicOperations.FixedTimeEquals(key, hash);
        if (!known) throw new ApiException(401, "this key is not known here", null, "invalid_api_key");
    }

    private static byte[] Hash(string key) => SHA256.HashData(Encoding.UTF8.GetBytes(key));
}
