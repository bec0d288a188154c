using System.Diagnostics;
using System.Net.Http.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Server;
using KtNotebooks.Tokenizers;

namespace KtNotebooks.Bench;

/// <param name="Streams">Clients at once.</param>
/// <param name="Prompt">Tokens of a prompt, at least; every client has one of its own.</param>
/// <param name="Tokens">Drawn by each.</param>
/// <param name="LongPrompt">Tokens of the prompt that comes while the others draw; 0: none.</param>
public sealed record ServeBenchmarkSettings(int Streams = 64, int Prompt = 64, int Tokens = 64, int LongPrompt = 0);

/// <param name="StartMs">From the loaded model to the first answer of /health.</param>
/// <param name="FirstTokenMs">Of a request when nothing else runs: median.</param>
/// <param name="OneTokensPerSecond">One client.</param>
/// <param name="AllTokensPerSecond">All clients, on the base.</param>
/// <param name="DirectTokensPerSecond">The same requests without HTTP.</param>
/// <param name="AdaptersTokensPerSecond">All clients, base and adapters in turn; null: there are no adapters.</param>
/// <param name="SlowestGapMs">While all draw and a long prompt comes in: the longest that any of them waits for its next token.</param>
public sealed record ServeBenchmarkResult(ServeBenchmarkSettings Settings, string Device, int Models, double StartMs, double FirstTokenMs,
    double OneTokensPerSecond, double AllTokensPerSecond, double DirectTokensPerSecond, double? AdaptersTokensPerSecond, double? SlowestGapMs)
{
    /// <summary>How many times one stream's speed all have together.</summary>
    public double Times => AllTokensPerSecond / OneTokensPerSecond;

    /// <summary>Share of the time that HTTP and JSON take, with the clients on the same processors.</summary>
    public double HttpShare => 1 - (AllTokensPerSecond / DirectTokensPerSecond);
}

/// <summary>
/// `kt bench serve`: a server on a free port of this machine, and its clients in the same process. Every stream's text is compared with what the same request
/// becomes alone, so that nothing is fast by being wrong.
/// </summary>
public sealed class ServeBenchmark : IAsyncDisposable
{
    private readonly ModelEngine _engine;
    private readonly ServeBenchmarkSettings _settings;
    private readonly ApiServer _server;
    private readonly HttpClient _http;
    private readonly double _startMs;

    private ServeBenchmark(ModelEngine engine, ServeBenchmarkSettings settings, ApiServer server, HttpClient http, double startMs) =>
        (_engine, _settings, _server, _http, _startMs) = (engine, settings, server, http, startMs);

    /// <summary>Starts the server.</summary>
    /// <param name="engine">Loaded; not owned.</param>
    /// <param name="settings">What to measure.</param>
    /// <param name="cancel">Between two requests.</param>
    public static async Task<ServeBenchmark> StartAsync(ModelEngine engine, ServeBenchmarkSettings settings, CancellationToken cancel = default)
    {
        ArgumentNullException.ThrowIfNull(engine);
        ArgumentNullException.ThrowIfNull(settings);
        if (settings.Streams < 1 || settings.Prompt < 8 || settings.Tokens < 2)
            throw new ArgumentException(
                $"--streams must be at least 1, --prompt 8 and --tokens 2, but are {settings.Streams}, {settings.Prompt} and {settings.Tokens}");
        if (settings.Prompt + settings.Tokens >= engine.Model.Info.MaxPositions || settings.LongPrompt + 2 >= engine.Model.Info.MaxPositions)
            throw new ArgumentException($"the model has {engine.Model.Info.MaxPositions} positions, which is too few for these prompts and tokens");
        var watch = Stopwatch.StartNew();
        var server = await ApiServer.StartAsync(engine, new ApiSettings { Port = 0, Timeout = TimeSpan.FromHours(1) });
        var http = new HttpClient(new SocketsHttpHandler { MaxConnectionsPerServer = int.MaxValue })
        {
            BaseAddress = server.Url,
            Timeout = System.Threading.Timeout.InfiniteTimeSpan,
        };
        using var health = await http.GetAsync(new Uri("/health", UriKind.Relative), cancel);
        return new ServeBenchmark(engine, settings, server, http, watch.Elapsed.TotalMilliseconds);
    }

    /// <summary>Measures everything, one after another.</summary>
    /// <exception cref="InvalidOperationException">A stream became another text than alone.</exception>
    public async Task<ServeBenchmarkResult> RunAsync(Action<string>? note = null, CancellationToken cancel = default)
    {
        var (n, tokens) = (_settings.Streams, _settings.Tokens);
        var name = _engine.Settings.BaseName;
        note?.Invoke("warming up");
        await Task.WhenAll(Enumerable.Range(0, n).Select(i => AskAsync(name, Prompt(2000 + i), tokens, cancel)));
        note?.Invoke("the first token, alone");
        List<double> first = [];
        for (var i = 0; i < 15; i++) first.Add((await AskAsync(name, Prompt(1000 + i), 2, cancel)).FirstMs);
        note?.Invoke("one stream");
        List<string> alone = [];
        var watch = Stopwatch.StartNew();
        var ones = Math.Min(n, 6);
        for (var i = 0; i < ones; i++) alone.Add((await AskAsync(name, Prompt(i), tokens, cancel)).Text);
        var one = ones * tokens / watch.Elapsed.TotalSeconds;
        ModelEngine.ForgetPrompts(); // the same prompts come again, and shall be computed again
        note?.Invoke($"{n} streams");
        watch.Restart();
        var texts = await Task.WhenAll(Enumerable.Range(0, n).Select(i => AskAsync(name, Prompt(i), tokens, cancel)));
        var all = n * tokens / watch.Elapsed.TotalSeconds;
        for (var i = 0; i < ones; i++)
            if (texts[i].Text != alone[i])
                throw new InvalidOperationException($"stream {i} became another text among {n} than alone: their speed means nothing");
        ModelEngine.ForgetPrompts();
        note?.Invoke($"{n} streams without HTTP");
        watch.Restart();
        await Task.WhenAll(Enumerable.Range(0, n).Select(async i =>
        {
            using var reply = await _engine.StartAsync(Request(name, Prompt(i), tokens));
            await reply.ReadToEndAsync(cancel);
        }));
        var direct = n * tokens / watch.Elapsed.TotalSeconds;
        ModelEngine.ForgetPrompts();
        string[] names = [.. _engine.Models.Where(m => m.Name != _engine.Settings.ModelName).Select(m => m.Name)];
        double? mixed = null, gap = null;
        if (names.Length > 1)
        {
            note?.Invoke($"{n} streams of base and {names.Length - 1} adapters");
            watch.Restart();
            await Task.WhenAll(Enumerable.Range(0, n).Select(i => AskAsync(names[i % names.Length], Prompt(i), tokens, cancel)));
            mixed = n * tokens / watch.Elapsed.TotalSeconds;
        }
        if (_settings.LongPrompt > 0)
        {
            note?.Invoke($"a prompt of {_settings.LongPrompt} tokens among {n} streams");
            ModelEngine.ForgetPrompts();
            var streams = Enumerable.Range(0, n).Select(i => AskAsync(name, Prompt(i), tokens, cancel)).ToArray();
            await Task.Delay(TimeSpan.FromSeconds(n * tokens / all / 3), cancel);
            var late = AskAsync(name, [.. Enumerable.Range(0, _settings.LongPrompt).Select(i => Token(99, i))], 2, cancel);
            gap = (await Task.WhenAll(streams)).Max(s => s.GapMs);
            await late;
        }
        return new ServeBenchmarkResult(_settings, $"{_engine.Model.Type}, {Interop.Cpu.Variant}, {Interop.Cpu.Threads} threads", names.Length, _startMs,
            DeviceMeter.Median(first), one, all, direct, mixed, gap);
    }

    public async ValueTask DisposeAsync()
    {
        _http.Dispose();
        await _server.DisposeAsync();
    }

    private ModelRequest Request(string model, int[] prompt, int tokens) => new()
    {
        Model = model,
        Ids = prompt,
        MaxTokens = tokens,
        DoSample = false,
        LogitBias = Stops(_engine.Tokenizer).ToDictionary(stop => stop, _ => -100f),
    };

    /// <summary>A stream over HTTP: its text, when its first token came, and the longest wait between two.</summary>
    private async Task<(string Text, double FirstMs, double GapMs)> AskAsync(string model, int[] prompt, int tokens, CancellationToken cancel)
    {
        var watch = Stopwatch.StartNew();
        // The end of a text is no token here: all draw as many.
        var bias = new JsonObject();
        foreach (var stop in Stops(_engine.Tokenizer)) bias[stop.ToString(System.Globalization.CultureInfo.InvariantCulture)] = -100;
        var body = new JsonObject
        {
            ["model"] = model,
            ["prompt"] = new JsonArray([.. prompt.Select(id => JsonValue.Create(id))]),
            ["max_tokens"] = tokens,
            ["temperature"] = 0,
            ["stream"] = true,
            ["logit_bias"] = bias,
        };
        using var request = new HttpRequestMessage(HttpMethod.Post, "/v1/completions") { Content = JsonContent.Create(body) };
        using var response = await _http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, cancel);
        if (!response.IsSuccessStatusCode) throw new InvalidOperationException($"the server said {await response.Content.ReadAsStringAsync(cancel)}");
        using var reader = new StreamReader(await response.Content.ReadAsStreamAsync(cancel));
        var (text, first, last, gap) = (new System.Text.StringBuilder(), double.NaN, 0.0, 0.0);
        while (await reader.ReadLineAsync(cancel) is { } line)
        {
            if (!line.StartsWith("data: {", StringComparison.Ordinal)) continue;
            if (line.Contains("\"error\":{", StringComparison.Ordinal)) throw new InvalidOperationException($"the server said {line}");
            var now = watch.Elapsed.TotalMilliseconds;
            if (double.IsNaN(first)) first = now;
            else gap = Math.Max(gap, now - last);
            last = now;
            var from = line.IndexOf("\"text\":", StringComparison.Ordinal); // as it is escaped: it is only compared
            text.Append(line.AsSpan(from, line.IndexOf(",\"logprobs\":", StringComparison.Ordinal) - from));
        }
        return (text.ToString(), first, gap);
    }

    private int[] Prompt(int number) => [.. Enumerable.Range(0, _settings.Prompt).Select(i => Token(number, i))];

    private int Token(int number, int place)
    {
        var vocabulary = Math.Min(_engine.Tokenizer.VocabSize, _engine.Model.Info.Vocabulary);
        var id = (int)(Ops.DropoutMask.Mix(((ulong)(number + 7) << 32) ^ (ulong)place) % (ulong)vocabulary);
        return _engine.Tokenizer.IsSpecial(id) ? vocabulary / 2 : id;
    }

    private IEnumerable<int> Stops(Tokenizer tokenizer) => _engine.Template.StopIds(tokenizer).Concat(tokenizer.EosId is { } eos ? [eos] : []).Distinct();
}
