using System.Buffers;
using System.Diagnostics;
using System.Globalization;
using System.Net.Http.Headers;
using System.Text;

namespace KtNotebooks.Bench;

/// <summary>What a client saw of one streamed answer.</summary>
/// <param name="Text">As it was escaped: it is only compared.</param>
/// <param name="FirstMs">When the first token came.</param>
/// <param name="LastMs">When the last one came.</param>
/// <param name="GapMs">The longest wait between two.</param>
internal readonly record struct StreamedAnswer(string Text, double FirstMs, double LastMs, double GapMs);

/// <summary>
/// A client of `kt bench serve`: streams of /v1/completions over HTTP. It runs on the server's processors, so it does no more than it must: the bytes of an
/// answer are searched, not parsed.
/// </summary>
internal sealed class ServeClient : IDisposable
{
    private readonly HttpClient _http;

    public ServeClient(Uri server) => _http = new HttpClient(new SocketsHttpHandler { MaxConnectionsPerServer = int.MaxValue })
    {
        BaseAddress = server,
        Timeout = Timeout.InfiniteTimeSpan,
    };

    /// <summary>The body of a request for exactly so many greedy tokens: ends of texts (<paramref name="stops"/>) are not drawn.</summary>
    public static byte[] Body(string model, IEnumerable<int> prompt, int tokens, IEnumerable<int> stops) => Encoding.UTF8.GetBytes(string.Create(
        CultureInfo.InvariantCulture,
        $$"""
        {"model":"{{model}}","prompt":[{{string.Join(',', prompt)}}],"max_tokens":{{tokens}},"temperature":0,"stream":true,"logit_bias":{
        """) + $"{string.Join(',', stops.Select(s => $"\"{s}\":-100"))}}}}}");

    public async Task WaitAsync(CancellationToken cancel)
    {
        using var health = await _http.GetAsync(new Uri("/health", UriKind.Relative), cancel);
        health.EnsureSuccessStatusCode();
    }

    /// <exception cref="InvalidOperationException">The server refused, or failed on the way.</exception>
    public async Task<StreamedAnswer> AskAsync(byte[] body, CancellationToken cancel)
    {
        var watch = Stopwatch.StartNew();
        using var request = new HttpRequestMessage(HttpMethod.Post, "/v1/completions")
        {
            Content = new ByteArrayContent(body) { Headers = { ContentType = new MediaTypeHeaderValue("application/json") } },
        };
        using var response = await _http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, cancel);
        if (!response.IsSuccessStatusCode) throw new InvalidOperationException($"the server said {await response.Content.ReadAsStringAsync(cancel)}");
        await using var stream = await response.Content.ReadAsStreamAsync(cancel);
        var (text, first, last, gap, held) = (new StringBuilder(), double.NaN, 0.0, 0.0, 0);
        var buffer = ArrayPool<byte>.Shared.Rent(1 << 15);
        try
        {
            while (await stream.ReadAsync(buffer.AsMemory(held), cancel) is > 0 and var read)
            {
                var end = held + read;
                if (Events(buffer.AsSpan(0, end), text, out var used))
                {
                    var now = watch.Elapsed.TotalMilliseconds;
                    if (double.IsNaN(first)) first = now;
                    else gap = Math.Max(gap, now - last);
                    last = now;
                }
                buffer.AsSpan(used, end - used).CopyTo(buffer);
                held = end - used;
            }
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(buffer);
        }
        return new StreamedAnswer(text.ToString(), first, last, gap);
    }

    public void Dispose() => _http.Dispose();

    /// <summary>Takes whole events from the bytes; whether any had a token.</summary>
    private static bool Events(ReadOnlySpan<byte> bytes, StringBuilder text, out int used)
    {
        used = 0;
        var any = false;
        while (bytes[used..].IndexOf("\n\n"u8) is >= 0 and var end)
        {
            var line = bytes.Slice(used, end);
            used += end + 2;
            if (!line.StartsWith("data: {"u8)) continue;
            if (line.StartsWith("data: {\"error\":"u8)) throw new InvalidOperationException($"the server said {Encoding.UTF8.GetString(line)}");
            var from = line.IndexOf("\"text\":"u8);
            if (from < 0) continue;
            any = true;
            text.Append(Encoding.UTF8.GetString(line[from..(from + line[from..].IndexOf(",\"logprobs\":"u8))]));
        }
        return any;
    }
}
