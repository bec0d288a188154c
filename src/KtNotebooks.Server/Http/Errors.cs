using System.Text.Json;

using KtNotebooks.Server.Anthropic;
using KtNotebooks.Server.OpenAi;

using Microsoft.AspNetCore.Http;

namespace KtNotebooks.Server.Http;

/// <summary>What goes wrong, as a client hears it.</summary>
internal static class Errors
{
    /// <summary>The client's own id of its request, where it is one that may stand in a log; else a new one.</summary>
    public static string IdOf(HttpRequest request)
    {
        var given = request.Headers["x-request-id"].ToString();
        return given.Length is > 0 and <= 64 && given.All(c => char.IsAsciiLetterOrDigit(c) || c is '-' or '_' or '.') ? given : $"req_{Guid.NewGuid():N}";
    }

    public static ApiException Of(Exception error, TimeSpan timeout) => error switch
    {
        ApiException known => known,
        OperationCanceledException => new ApiException(504, $"the answer took longer than {timeout.TotalSeconds:F0} s", null, "timeout"),
        BadHttpRequestException { StatusCode: StatusCodes.Status413PayloadTooLarge } => new ApiException(413, "the body is too large", null, "body_too_large"),
        BadHttpRequestException bad => new ApiException(bad.StatusCode, "the body could not be read", null, "bad_request"),
        _ => new ApiException(500, "a fault in the server; its log says which") { Cause = error },
    };

    /// <summary>Tells it: as the answer, or as an event where the answer has begun.</summary>
    public static async Task Write(RequestContext c, ApiException error)
    {
        try
        {
            var response = c.Http.Response;
            var anthropic = c.Http.Request.Path.StartsWithSegments("/v1/messages", StringComparison.Ordinal);
            if (response.HasStarted || c.Events.HasBegun)
            {
                WriteEvent(c, error, anthropic);
                await c.Events.FlushAsync(c.Http.RequestAborted);
                return;
            }
            response.StatusCode = error.Status;
            if (error.RetryAfter is { } seconds) response.Headers.RetryAfter = seconds.ToString(System.Globalization.CultureInfo.InvariantCulture);
            if (error.Status == 401) response.Headers.WWWAuthenticate = "Bearer";
            response.ContentType = "application/json; charset=utf-8";
            await response.WriteAsync(Text(c, error, anthropic), c.Http.RequestAborted);
        }
        catch (Exception gone) when (gone is OperationCanceledException or IOException)
        {
            return; // nobody is there to hear it
        }
    }

    private static void WriteEvent(RequestContext c, ApiException error, bool anthropic)
    {
        if (anthropic)
        {
            c.Events.Write("error", Anthropic(c, error), MessagesJson.Wire.MessageErrorBody);
            return;
        }
        if (c.Http.Request.Path.StartsWithSegments("/v1/responses", StringComparison.Ordinal))
        {
            c.Events.Write("error", new ResponseEvent("error", int.MaxValue) { Message = error.Message, Code = error.Code ?? error.Type },
                ResponsesJson.Wire.ResponseEvent);
            return;
        }
        c.Events.Write(null, Body(error), ChatJson.Wire.ErrorBody);
        c.Events.WriteText("[DONE]");
    }

    private static string Text(RequestContext c, ApiException error, bool anthropic) => anthropic
        ? JsonSerializer.Serialize(Anthropic(c, error), MessagesJson.Wire.MessageErrorBody) : JsonSerializer.Serialize(Body(error), ChatJson.Wire.ErrorBody);

    private static ErrorBody Body(ApiException error) => new(new ErrorText(error.Message, error.Type, error.Param, error.Code));

    private static MessageErrorBody Anthropic(RequestContext c, ApiException error) =>
        new("error", new MessageError(error.AnthropicType, error.Message), c.Id);
}
