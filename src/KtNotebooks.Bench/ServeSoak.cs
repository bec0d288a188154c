using System.Diagnostics;
using System.Net;
using System.Net.Http.Headers;
using System.Text;
using System.Text.Json.Nodes;

using KtNotebooks.Server;

namespace KtNotebooks.Bench;

/// <summary>What became of many requests of mixed kinds.</summary>
/// <param name="Requests">Sent.</param>
/// <param name="Answered">Whole answers.</param>
/// <param name="Refused">Told why not, with a 4xx.</param>
/// <param name="Left">Whose client went on the way, as it was told to.</param>
/// <param name="Failed">Anything else, the first ones in words; nothing, or the server is at fault.</param>
/// <param name="Seconds">All of it.</param>
/// <param name="HeapMb">Managed memory after a full collection, at every tenth of the way.</param>
/// <param name="ResidentMb">Of the process, then.</param>
public sealed record SoakResult(int Requests, int Answered, int Refused, int Left, IReadOnlyList<string> Failed, double Seconds, IReadOnlyList<double> HeapMb,
    IReadOnlyList<double> ResidentMb)
{
    /// <summary>Managed memory of the last tenth against that of the third: what comes before fills caches and pools.</summary>
    public double HeapGrowth => (HeapMb[^1] / HeapMb[Math.Min(2, HeapMb.Count - 1)]) - 1;

    public double ResidentGrowth => (ResidentMb[^1] / ResidentMb[Math.Min(2, ResidentMb.Count - 1)]) - 1;
}

/// <summary>
/// `kt bench serve --soak N`: requests of every endpoint, streamed and whole, right and wrong, some of whose clients leave in the middle, so many at once.
/// Every one must be answered or refused, and memory must stay as it is.
/// </summary>
public static class ServeSoak
{
    private const int AtOnce = 32, Tenths = 10;

    private static readonly (string Path, Func<string, int, string> Body, Expected Expected)[] Kinds =
    [
        ("/v1/chat/completions", (m, i) => Chat(m, i, """, "max_tokens":8"""), Expected.Answer),
        ("/v1/chat/completions", (m, i) => Chat(m, i, """, "max_tokens":24, "stream":true, "stream_options":{"include_usage":true}"""), Expected.Answer),
        ("/v1/chat/completions", (m, i) => Chat(m, i, """, "max_tokens":12, "n":3, "seed":5, "logprobs":true, "top_logprobs":3"""), Expected.Answer),
        ("/v1/chat/completions", (m, i) => Chat(m, i, """, "max_tokens":40, "response_format":{"type":"json_object"}"""), Expected.Answer),
        ("/v1/completions", (m, i) => $$"""{"model":"{{m}}","prompt":["Number {{i}} is","and {{i + 1}}"],"max_tokens":10,"stop":["."]}""", Expected.Answer),
        ("/v1/completions", (m, i) => $$"""{"model":"{{m}}","prompt":"Number {{i}}","max_tokens":200,"stream":true}""", Expected.Leave),
        ("/v1/responses", (m, i) => $$"""{"model":"{{m}}","input":"What is {{i}}?","max_output_tokens":16,"stream":true}""", Expected.Answer),
        ("/v1/messages", (m, i) => $$"""{"model":"{{m}}","max_tokens":16,"stream":true,"messages":[{"role":"user","content":"Say {{i}}"}]}""", Expected.Answer),
        ("/v1/messages/count_tokens", (m, i) => $$"""{"model":"{{m}}","messages":[{"role":"user","content":"Say {{i}}"}]}""", Expected.Answer),
        ("/tokenize", (m, i) => $$"""{"model":"{{m}}","prompt":"text number {{i}}"}""", Expected.Answer),
        ("/v1/chat/completions", (m, i) => Chat("nobody", i, ""), Expected.Refusal),
        ("/v1/chat/completions", (m, i) => Chat(m, i, """, "temperature":-1"""), Expected.Refusal),
        ("/v1/completions", (m, i) => $$"""{"model":"{{m}}","prompt":[{{i}},""", Expected.Refusal),
        ("/v1/chat/completions", (m, i) => Chat(m, i, """, "max_tokens":300"""), Expected.Leave),
    ];

    private enum Expected
    {
        Answer,
        Refusal,
        Leave,
    }

    /// <summary>Asks a server of its own, on a free port of the loopback.</summary>
    /// <param name="engine">Loaded; not owned.</param>
    /// <param name="requests">How many in all.</param>
    /// <param name="note">Told how far it has come.</param>
    /// <param name="cancel">Between two requests.</param>
    public static async Task<SoakResult> RunAsync(ModelEngine engine, int requests, Action<string>? note = null, CancellationToken cancel = default)
    {
        ArgumentNullException.ThrowIfNull(engine);
        ArgumentOutOfRangeException.ThrowIfLessThan(requests, Tenths, "--soak");
        string[] models = [.. engine.Models.Select(m => m.Name)];
        await using var server = await ApiServer.StartAsync(engine, new ApiSettings { Port = 0 });
        using var http = new HttpClient(new SocketsHttpHandler { MaxConnectionsPerServer = AtOnce }) { BaseAddress = server.Url };
        var watch = Stopwatch.StartNew();
        List<double> heap = [], resident = [];
        List<string> failed = [];
        int answered = 0, refused = 0, left = 0;
        for (var tenth = 0; tenth < Tenths; tenth++)
        {
            var (from, to) = ((int)((long)requests * tenth / Tenths), (int)((long)requests * (tenth + 1) / Tenths));
            await Parallel.ForEachAsync(Enumerable.Range(from, to - from), new ParallelOptions { MaxDegreeOfParallelism = AtOnce, CancellationToken = cancel },
                async (i, stop) =>
                {
                    var (path, body, expected) = Kinds[i % Kinds.Length];
                    var wrong = await AskAsync(http, path, body(models[i / Kinds.Length % models.Length], i), expected, stop);
                    if (wrong is not null)
                        lock (failed) failed.Add($"request {i}, {path}: {wrong}");
                    else if (expected == Expected.Answer) Interlocked.Increment(ref answered);
                    else if (expected == Expected.Refusal) Interlocked.Increment(ref refused);
                    else Interlocked.Increment(ref left);
                });
            for (var wait = 0; engine.Active > 0 && wait < 500; wait++) await Task.Delay(10, cancel); // those whose clients have left
            if (engine.Active > 0) failed.Add($"{engine.Active} requests whose clients have left are still at work");
            GC.Collect(2, GCCollectionMode.Forced, blocking: true, compacting: true);
            heap.Add(GC.GetTotalMemory(forceFullCollection: true) / 1e6);
            resident.Add(Environment.WorkingSet / 1e6);
            note?.Invoke($"{to:N0} of {requests:N0}: {heap[^1]:F1} MB managed, {resident[^1]:F0} MB resident");
        }
        return new SoakResult(requests, answered, refused, left, failed, watch.Elapsed.TotalSeconds, heap, resident);
    }

    private static string Chat(string model, int i, string more) =>
        $$"""{"model":"{{model}}","messages":[{"role":"user","content":"What is {{i}} plus {{i % 7}}?"}]{{more}}}""";

    /// <summary>null: it went as it should.</summary>
    private static async Task<string?> AskAsync(HttpClient http, string path, string body, Expected expected, CancellationToken cancel)
    {
        using var leave = CancellationTokenSource.CreateLinkedTokenSource(cancel);
        using var request = new HttpRequestMessage(HttpMethod.Post, path)
        {
            Content = new ByteArrayContent(Encoding.UTF8.GetBytes(body)) { Headers = { ContentType = new MediaTypeHeaderValue("application/json") } },
        };
        if (expected == Expected.Leave) leave.CancelAfter(15);
        try
        {
            using var response = await http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, leave.Token);
            var text = await response.Content.ReadAsStringAsync(leave.Token);
            if (expected == Expected.Refusal)
                return (int)response.StatusCode is >= 400 and < 500 && JsonNode.Parse(text)?["error"]?["message"] is not null ? null
                    : $"{(int)response.StatusCode} {text}";
            if (response.StatusCode != HttpStatusCode.OK) return $"{(int)response.StatusCode} {text}";
            return expected == Expected.Leave || IsWhole(response, text) ? null : $"it ended early: {text[Math.Max(0, text.Length - 200)..]}";
        }
        catch (OperationCanceledException) when (expected == Expected.Leave && !cancel.IsCancellationRequested)
        {
            return null;
        }
        catch (Exception error) when (error is HttpRequestException or IOException)
        {
            return error.Message;
        }
    }

    private static bool IsWhole(HttpResponseMessage response, string text)
    {
        if (response.Content.Headers.ContentType?.MediaType != "text/event-stream") return JsonNode.Parse(text) is JsonObject;
        return !text.Contains("\"error\":{", StringComparison.Ordinal) && (text.EndsWith("data: [DONE]\n\n", StringComparison.Ordinal)
            || text.Contains("event: message_stop", StringComparison.Ordinal) || text.Contains("event: response.completed", StringComparison.Ordinal)
            || text.Contains("event: response.incomplete", StringComparison.Ordinal));
    }
}
