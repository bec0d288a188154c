using System.Buffers;
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;

using Microsoft.AspNetCore.Http;

namespace KtNotebooks.Server.Http;

/// <summary>One request of a client while it is handled.</summary>
internal sealed class RequestContext : IAsyncDisposable
{
    private static readonly JsonDocumentOptions Strict = new() { MaxDepth = 64, AllowDuplicateProperties = false };

    private readonly CancellationTokenSource _cancel;
    private JsonDocument? _body;

    public RequestContext(HttpContext http, ApiSettings settings, string id)
    {
        (Http, Id) = (http, id);
        _cancel = CancellationTokenSource.CreateLinkedTokenSource(http.RequestAborted);
        _cancel.CancelAfter(settings.Timeout);
        Events = new EventWriter(http);
    }

    public HttpContext Http { get; }

    /// <summary>Of the request, in the answer's header and in the log.</summary>
    public string Id { get; }

    /// <summary>The client has gone, or its time is over.</summary>
    public CancellationToken Cancel => _cancel.Token;

    public EventWriter Events { get; }

    /// <summary>What was started for it, for the log.</summary>
    public Reply? Reply { get; private set; }

    /// <summary>The body; null before it was read.</summary>
    public JsonElement? Body => _body?.RootElement;

    /// <exception cref="ApiException">It is no JSON.</exception>
    public async Task<JsonElement> ReadAsync()
    {
        if (!Http.Request.HasJsonContentType())
            throw new ApiException(415, "the body must be JSON, with the header Content-Type: application/json", null, "unsupported_media_type");
        while (true)
        {
            var read = await Http.Request.BodyReader.ReadAsync(Cancel);
            if (read.IsCompleted)
            {
                _body = Parse(read.Buffer);
                Http.Request.BodyReader.AdvanceTo(read.Buffer.End);
                return _body.RootElement;
            }
            Http.Request.BodyReader.AdvanceTo(read.Buffer.Start, read.Buffer.End);
        }
    }

    public async Task<Reply> StartAsync(ModelEngine engine, ModelRequest request) => Reply = await engine.StartAsync(request);

    public async Task WriteAsync<T>(T answer, JsonTypeInfo<T> type)
    {
        Http.Response.ContentType = "application/json; charset=utf-8";
        await JsonSerializer.SerializeAsync(Http.Response.BodyWriter, answer, type, Cancel);
    }

    public async ValueTask DisposeAsync()
    {
        _body?.Dispose();
        await Events.DisposeAsync();
        _cancel.Dispose();
    }

    private static JsonDocument Parse(ReadOnlySequence<byte> bytes)
    {
        if (bytes.IsEmpty) throw new ApiException(400, "the body is empty; it must be a JSON object");
        try
        {
            return JsonDocument.Parse(bytes.ToArray(), Strict); // a copy: the buffer is not ours to keep
        }
        catch (JsonException error)
        {
            throw new ApiException(400, $"the body is no valid JSON (line {(error.LineNumber ?? 0) + 1}, byte {(error.BytePositionInLine ?? 0) + 1})");
        }
        catch (InvalidOperationException)
        {
            throw new ApiException(400, "the body holds half of a surrogate pair, which is no character");
        }
    }
}
