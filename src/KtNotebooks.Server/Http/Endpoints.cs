using System.Collections.Concurrent;
using System.Diagnostics;

using KtNotebooks.Server.Anthropic;
using KtNotebooks.Server.OpenAi;

using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;
using Microsoft.Extensions.Logging;

namespace KtNotebooks.Server.Http;

/// <summary>All that a client can ask for. Every endpoint goes through <see cref="Run"/>: id, guard, errors, log.</summary>
internal sealed class Endpoints(ModelEngine engine, ApiSettings settings, ILogger log) : IDisposable
{
    private readonly MetricsEndpoint _metrics = new(engine);
    private readonly Guard _guard = new(settings);
    private readonly ConcurrentDictionary<string, bool> _said = new(StringComparer.Ordinal);
    private readonly Dictionary<string, string> _methods = new(StringComparer.Ordinal);

    public void Map(IEndpointRouteBuilder routes)
    {
        var (models, tokens, adapters, messages) = (new ModelsEndpoint(engine), new TokensEndpoint(engine), new AdaptersEndpoint(engine),
            new MessagesEndpoint(engine));
        Add("POST", "/v1/chat/completions", new ChatEndpoint(engine).Handle);
        Add("POST", "/v1/completions", new CompletionsEndpoint(engine).Handle);
        Add("POST", "/v1/responses", new ResponsesEndpoint(engine).Handle);
        Add("POST", "/v1/messages", messages.Handle);
        Add("POST", "/v1/messages/count_tokens", messages.Count);
        Add("POST", "/tokenize", tokens.Tokenize);
        Add("POST", "/detokenize", tokens.Detokenize);
        Add("POST", "/v1/score/evaluation", new ScoreEndpoint(engine).Score);
        Add("POST", "/v1/load_lora_adapter", adapters.Load);
        Add("POST", "/v1/unload_lora_adapter", adapters.Unload);
        Add("GET", "/metrics", _metrics.Handle);
        Add("GET", "/v1/models", models.List);
        Add("GET", "/v1/models/{**model}", models.One);
        Add("GET", "/", new PageEndpoint().Handle, needsKey: false);
        Add("GET", "/health", new HealthEndpoint(engine).Handle, needsKey: false);
        routes.MapMethods("/{**path}", ["OPTIONS"], context => Run(context, c =>
        {
            _guard.Preflight(c.Http);
            return Task.CompletedTask;
        }, needsKey: false));

        void Add(string method, string path, Func<RequestContext, Task> handle, bool needsKey = true)
        {
            _methods[path] = method;
            routes.MapMethods(path, method == "GET" ? [method, "HEAD"] : [method], context => Run(context, handle, needsKey));
        }
    }

    public void Dispose() => _metrics.Dispose();

    /// <summary>What no endpoint is.</summary>
    public Task NotFound(HttpContext context) => Run(context, c =>
    {
        if (!_methods.TryGetValue(c.Http.Request.Path.Value ?? "", out var method))
            throw new ApiException(404, "there is no such endpoint; GET /v1/models lists the models, POST /v1/chat/completions talks with one", null,
                "not_found");
        c.Http.Response.Headers.Allow = method;
        throw new ApiException(405, $"this endpoint takes {method} alone", null, "method_not_allowed");
    }, needsKey: true);

    private async Task Run(HttpContext context, Func<RequestContext, Task> handle, bool needsKey)
    {
        var id = Errors.IdOf(context.Request);
        context.Response.Headers["x-request-id"] = context.Response.Headers["request-id"] = id;
        context.Response.Headers.XContentTypeOptions = "nosniff";
        var began = Stopwatch.GetTimestamp();
        await using var c = new RequestContext(context, settings, id);
        ApiException? failed = null;
        try
        {
            _guard.Check(context, needsKey);
            await handle(c);
        }
        catch (OperationCanceledException) when (context.RequestAborted.IsCancellationRequested)
        {
            failed = new ApiException(499, "the client has gone", null, "client_gone");
        }
#pragma warning disable CA1031 // Whatever it is, the client hears one line, and the log the rest.
        catch (Exception error)
#pragma warning restore CA1031
        {
            failed = Errors.Of(error, settings.Timeout);
            await Errors.Write(c, failed);
        }
        Log(c, failed, Stopwatch.GetElapsedTime(began));
    }

    private void Log(RequestContext c, ApiException? failed, TimeSpan took)
    {
        var status = failed?.Status ?? c.Http.Response.StatusCode;
        var what = c.Replies is [var reply, ..] all
            ? $"{reply.Model.Name}, {(all.Count > 1 ? $"{all.Count} prompts, " : "")}{all.Sum(r => r.Usage.Prompt)} tokens "
                + $"({all.Sum(r => r.Usage.Cached)} cached) -> {all.Sum(r => r.Usage.Drawn)}, first after "
                + $"{all.Min(r => r.Answers.Min(a => a.FirstToken))?.TotalMilliseconds ?? 0:F0} ms" : "";
        var endpoint = (c.Http.GetEndpoint() as RouteEndpoint)?.RoutePattern.RawText ?? "unknown path";
        if (failed is { Status: >= 500 }) log.LogError(failed.Cause, "{Id} {Status} {Endpoint}: {Message}", c.Id, status, endpoint, failed.Message);
        else if (failed?.Cause is { } cause) log.LogWarning("{Id} {Status} {Endpoint}: {Message}", c.Id, status, endpoint, cause.Message);
        else if (settings.Verbose || c.Replies.Count > 0 || failed is not null)
            log.LogInformation("{Id} {Status} {Endpoint} {What} {Took:F0} ms{Why}", c.Id, status, endpoint, what, took.TotalMilliseconds,
                failed is null ? "" : $": {failed.Code ?? failed.Type}");
        foreach (var hint in c.Replies.SelectMany(r => r.Request.NoEffects))
            if (_said.TryAdd(hint.Field, true))
                log.LogInformation("{Id} {Endpoint} {Field} has no effect here: {Why} (said once)", c.Id, endpoint, hint.Field, hint.Why);
        if (!settings.Verbose) return;
        if (c.Body is { } body) log.LogInformation("{Id} asked {Body}", c.Id, body.GetRawText());
        foreach (var answer in c.Replies.SelectMany(r => r.Answers)) log.LogInformation("{Id} answered {Text}", c.Id, answer.Text.ToString());
    }
}
