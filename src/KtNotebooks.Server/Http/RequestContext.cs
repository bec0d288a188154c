using System.Buffers;
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using System.Text.Unicode;

using Microsoft.AspNetCore.Http;

namespace KtNotebooks.Server.Http;

/// <summary>One request of a client while it is handled.</summary>
internal sealed class RequestContext : IAsyncDisposable
{
    private static readonly JsonDocumentOptions Strict = new() { MaxDepth = BodyFault.MostLevels, AllowDuplicateProperties = false };

    private readonly ApiSettings _settings;
    private readonly CancellationTokenSource _cancel;
    private JsonDocument? _body;

    public RequestContext(HttpContext http, ApiSettings settings, string id)
    {
        (Http, Id, _settings) = (http, id, settings);
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

    /// <summary>What was started for it, for the log: one for each prompt.</summary>
    public List<Reply> Replies { get; } = [];

    /// <summary>The body; null before it was read.</summary>
    public JsonElement? Body => _body?.RootElement;

    /// <exception cref="ApiException">It is no JSON.</exception>
    public async Task<JsonElement> ReadAsync()
    {
        if (!Http.Request.HasJsonContentType())
            throw new ApiException(415, "the body must be JSON, with the header Content-Type: application/json", null, "unsupported_media_type");
        if (Http.Request.Headers.ContentEncoding.ToString() is { Length: > 0 } form && !form.Equals("identity", StringComparison.OrdinalIgnoreCase))
            throw new ApiException(415, "the body must come as it is, without Content-Encoding", null, "unsupported_media_type");
        RequireSmall(Http.Request.ContentLength ?? 0);
        while (true)
        {
            var read = await Http.Request.BodyReader.ReadAsync(Cancel);
            var length = read.Buffer.Length;
            if (read.IsCompleted && length <= _settings.MaxBody)
            {
                var bytes = read.Buffer.ToArray(); // a copy: the buffer is not ours to keep
                Http.Request.BodyReader.AdvanceTo(read.Buffer.End); // whatever is thrown below, the reading is over
                _body = Parse(bytes);
                return _body.RootElement;
            }
            Http.Request.BodyReader.AdvanceTo(read.Buffer.Start, read.Buffer.End);
            RequireSmall(length);
        }
    }

    public async Task<Reply> StartAsync(ModelEngine engine, ModelRequest request)
    {
        if (request.NoEffects.Count > 0) Http.Response.Headers[NoEffect.Header] = string.Join(", ", request.NoEffects.Select(n => n.Field));
        var reply = await engine.StartAsync(request);
        Replies.Add(reply);
        return reply;
    }

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

    private void RequireSmall(long length)
    {
        if (length > _settings.MaxBody)
            throw new ApiException(413, $"the body is larger than {_settings.MaxBody:N0} bytes; the key api_max_body_mb allows more", null, "body_too_large");
    }

    private static JsonDocument Parse(byte[] bytes)
    {
        if (bytes.Length == 0) throw new ApiException(400, "the body is empty; it must be a JSON object");
        if (!Utf8.IsValid(bytes)) throw new ApiException(400, "the body is not UTF-8", null, "invalid_json");
        try
        {
            var document = JsonDocument.Parse(bytes, Strict);
            if (bytes.AsSpan().IndexOf("\\ud"u8) >= 0 || bytes.AsSpan().IndexOf("\\uD"u8) >= 0) RequireCharacters(document.RootElement, "");
            return document;
        }
        catch (JsonException error)
        {
            throw new ApiException(400, BodyFault.Of(bytes)
                ?? $"the body is no valid JSON (line {(error.LineNumber ?? 0) + 1}, byte {(error.BytePositionInLine ?? 0) + 1})", null, "invalid_json");
        }
        catch (InvalidOperationException)
        {
            throw new ApiException(400, "the body holds half of a surrogate pair, which is no character", null, "invalid_json");
        }
    }

    /// <summary>Escapes can spell halves of characters, which nothing else can read.</summary>
    private static void RequireCharacters(JsonElement value, string path)
    {
        switch (value.ValueKind)
        {
            case JsonValueKind.Object:
                foreach (var field in value.EnumerateObject()) RequireCharacters(field.Value, path.Length == 0 ? field.Name : $"{path}.{field.Name}");
                break;
            case JsonValueKind.Array:
                foreach (var (item, i) in value.EnumerateArray().Select((v, i) => (v, i))) RequireCharacters(item, $"{path}[{i}]");
                break;
            case JsonValueKind.String:
                try
                {
                    value.GetString();
                }
                catch (InvalidOperationException)
                {
                    throw ApiException.Wrong(path, "holds half of a surrogate pair, which is no character");
                }
                break;
        }
    }
}
