using Microsoft.AspNetCore.Http;

namespace KtNotebooks.Server.Http;

/// <summary>GET /health: whether requests are taken.</summary>
internal sealed class HealthEndpoint(ModelEngine engine)
{
    public Task Handle(RequestContext c)
    {
        c.Http.Response.ContentType = "application/json; charset=utf-8";
        if (engine.IsDraining) c.Http.Response.StatusCode = StatusCodes.Status503ServiceUnavailable;
        var status = engine.IsDraining ? "draining" : "ok";
        return c.Http.Response.WriteAsync($$"""{"status":"{{status}}","running":{{engine.Running}},"waiting":{{engine.Waiting}}}""", c.Cancel);
    }
}
