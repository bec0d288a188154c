using System.Buffers;
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;

using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Http.Features;

namespace KtNotebooks.Server.Http;

/// <summary>Server-sent events. Their header goes out with the first, so that what is refused before still has a status of its own.</summary>
internal sealed class EventWriter(HttpContext context) : IAsyncDisposable
{
    private readonly Utf8JsonWriter _json = new(context.Response.BodyWriter, new JsonWriterOptions
    {
        Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
        SkipValidation = true,
    });

    private bool _begun;

    /// <summary>Something has gone out: an error is an event now.</summary>
    public bool HasBegun => _begun;

    /// <summary>Writes an event; it goes out with <see cref="FlushAsync"/>.</summary>
    /// <param name="name">Of the event; null: it has none.</param>
    public void Write<T>(string? name, T data, JsonTypeInfo<T> type)
    {
        Begin();
        if (name is not null) Text($"event: {name}\n");
        Bytes("data: "u8);
        _json.Reset();
        JsonSerializer.Serialize(_json, data, type);
        _json.Flush();
        Bytes("\n\n"u8);
    }

    /// <summary>An event without JSON.</summary>
    public void WriteText(string text)
    {
        Begin();
        Text($"data: {text}\n\n");
    }

    /// <summary>Sends what was written. Waits while the client does not read.</summary>
    public async Task FlushAsync(CancellationToken cancel)
    {
        Begin();
        await context.Response.BodyWriter.FlushAsync(cancel);
    }

    public ValueTask DisposeAsync() => _json.DisposeAsync();

    private void Begin()
    {
        if (_begun) return;
        _begun = true;
        context.Features.Get<IHttpResponseBodyFeature>()?.DisableBuffering();
        context.Response.ContentType = "text/event-stream; charset=utf-8";
        context.Response.Headers.CacheControl = "no-cache";
        context.Response.Headers["X-Accel-Buffering"] = "no"; // proxies that gather
    }

    private void Bytes(ReadOnlySpan<byte> bytes) => context.Response.BodyWriter.Write(bytes);

    private void Text(string text) => context.Response.BodyWriter.Write(System.Text.Encoding.UTF8.GetBytes(text));
}
