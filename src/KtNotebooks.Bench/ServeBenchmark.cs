using System.Diagnostics;

using KtNotebooks.Server;
using KtNotebooks.Tensors;

namespace KtNotebooks.Bench;

/// <param name="Streams">How many clients at once, one measurement after the other; one client alone is always measured.</param>
/// <param name="Prompt">Tokens of a prompt; every client has one of its own.</param>
/// <param name="Tokens">Drawn by each.</param>
/// <param name="FirstPrompt">Tokens of the prompt whose first token is timed while nothing else runs.</param>
/// <param name="LongPrompt">Tokens of the prompt that comes while the others draw; 0: none.</param>
/// <param name="Rounds">Each measurement is taken so often; the median counts.</param>
public sealed record ServeBenchmarkSettings(IReadOnlyList<int> Streams, int Prompt = 64, int Tokens = 64, int FirstPrompt = 64, int LongPrompt = 0,
    int Rounds = 3);

/// <summary>So many clients at once, on the base.</summary>
/// <param name="Http">Over HTTP, each stream a connection.</param>
/// <param name="Direct">The same requests to the engine in the same process, without HTTP and JSON.</param>
/// <param name="Mixed">Over HTTP, base and adapters in turn; null: there are no adapters.</param>
public sealed record StreamFigures(int Streams, StreamSpeed Http, StreamSpeed Direct, StreamSpeed? Mixed)
{
    /// <summary>What HTTP and JSON add to a step of the engine while all draw, the clients on the same processors included.</summary>
    public double HttpOfAStep => (Http.StepMs / Direct.StepMs) - 1;

    /// <summary>
    /// The same of everything, prompts included: over HTTP requests come one after the other, so that their prompts take more passes than when all stand
    /// there at once.
    /// </summary>
    public double HttpOfAll => (Direct.TokensPerSecond / Http.TokensPerSecond) - 1;
}

/// <param name="TokensPerSecond">Of all streams, from the first request to the last token, prompts included.</param>
/// <param name="StepMs">From token to token of the stream that began last, when all draw; of one client after its prompt.</param>
public readonly record struct StreamSpeed(double TokensPerSecond, double StepMs);

/// <param name="StartMs">From the loaded model to the first answer of /health.</param>
/// <param name="FirstTokenMs">Of a request when nothing else runs: median.</param>
/// <param name="Streams">One client, then those that were asked for.</param>
/// <param name="SameTexts">Of <paramref name="ComparedTexts"/> texts those that became among all others what they become alone. On the CPU all, or nothing is
/// measured; on a card other numbers of rows are other products, whose last bits differ.</param>
/// <param name="ReplayedSteps">Steps that were one CUDA graph, of <paramref name="Steps"/>.</param>
/// <param name="NotRecorded">What kept steps from being one.</param>
/// <param name="SlowestGapMs">While all draw and a long prompt comes in: the longest that any of them waits for its next token.</param>
public sealed record ServeBenchmarkResult(ServeBenchmarkSettings Settings, string Device, int Models, double StartMs, double FirstTokenMs,
    IReadOnlyList<StreamFigures> Streams, int SameTexts, int ComparedTexts, long ReplayedSteps, long Steps, string? NotRecorded, double? SlowestGapMs)
{
    /// <summary>How many times one stream's speed these have together.</summary>
    public double Times(StreamFigures of) => of.Http.TokensPerSecond / Streams[0].Http.TokensPerSecond;
}

/// <summary>
/// `kt bench serve`: a server on a free port of this machine's loopback, and its clients in the same process. Streams' texts are compared with what the same
/// requests become alone, so that nothing is fast by being wrong.
/// </summary>
public sealed class ServeBenchmark : IAsyncDisposable
{
    private const int Compared = 6;

    private readonly ModelEngine _engine;
    private readonly ServeBenchmarkSettings _settings;
    private readonly ApiServer _server;
    private readonly ServeClient _client;
    private readonly int[] _stops;
    private readonly double _startMs;

    private ServeBenchmark(ModelEngine engine, ServeBenchmarkSettings settings, ApiServer server, ServeClient client, double startMs)
    {
        (_engine, _settings, _server, _client, _startMs) = (engine, settings, server, client, startMs);
        // The end of a text is no token here: all draw as many.
        _stops = engine.Template.StopIds(engine.Tokenizer);
    }

    private bool OnCard => _engine.Model.Head.Device.Kind == DeviceKind.Cuda;

    /// <summary>Starts the server.</summary>
    /// <param name="engine">Loaded; not owned.</param>
    /// <param name="settings">What to measure.</param>
    /// <param name="cancel">Between two requests.</param>
    public static async Task<ServeBenchmark> StartAsync(ModelEngine engine, ServeBenchmarkSettings settings, CancellationToken cancel = default)
    {
        ArgumentNullException.ThrowIfNull(engine);
        ArgumentNullException.ThrowIfNull(settings);
        if (settings.Streams.Count == 0 || settings.Streams.Min() < 1 || Math.Min(settings.Prompt, settings.FirstPrompt) < 8 || settings.Tokens < 2
            || settings.Rounds < 1)
            throw new ArgumentException("--streams and --rounds must be at least 1, --prompt and --first-prompt 8 and --tokens 2, but are "
                + $"{string.Join(", ", settings.Streams)}; {settings.Rounds}; {settings.Prompt}; {settings.FirstPrompt} and {settings.Tokens}");
        if (Math.Max(settings.Prompt + settings.Tokens, Math.Max(settings.FirstPrompt, settings.LongPrompt) + 2) >= engine.Model.Info.MaxPositions)
            throw new ArgumentException($"the model has {engine.Model.Info.MaxPositions} positions, which is too few for these prompts and tokens");
        var watch = Stopwatch.StartNew();
        var server = await ApiServer.StartAsync(engine, new ApiSettings { Port = 0, Timeout = TimeSpan.FromHours(1) });
        var client = new ServeClient(server.Url);
        await client.WaitAsync(cancel);
        return new ServeBenchmark(engine, settings, server, client, watch.Elapsed.TotalMilliseconds);
    }

    /// <summary>Measures everything, one after another.</summary>
    /// <exception cref="InvalidOperationException">On the CPU a stream became another text than alone.</exception>
    public async Task<ServeBenchmarkResult> RunAsync(Action<string>? note = null, CancellationToken cancel = default)
    {
        string[] names = [.. _engine.Models.Where(m => m.Name != _engine.Settings.ModelName).Select(m => m.Name)];
        var most = _settings.Streams.Max();
        note?.Invoke("warming up");
        foreach (var n in _settings.Streams.Distinct())
        {
            await AllAsync(n, i => Body(names[0], Prompt(2000 + i)), cancel);
            if (names.Length > 1) await AllAsync(n, i => Body(names[i % names.Length], Prompt(2000 + i)), cancel);
        }
        note?.Invoke($"the first token of {_settings.FirstPrompt}, alone");
        List<double> first = [];
        for (var i = 0; i < 15; i++) first.Add((await _client.AskAsync(Body(names[0], Words(1000 + i, _settings.FirstPrompt), 2), cancel)).FirstMs);
        List<StreamFigures> figures = [];
        var (alone, among) = (Array.Empty<string>(), Array.Empty<string>());
        int[] counts = [1, .. _settings.Streams.Where(n => n > 1).Distinct().Order()];
        foreach (var n in counts)
        {
            note?.Invoke($"{n} stream{(n == 1 ? "" : "s")}");
            var (http, direct, mixed) = (new List<StreamSpeed>(), new List<StreamSpeed>(), new List<StreamSpeed>());
            for (var round = 0; round < _settings.Rounds; round++)
            {
                var (speed, texts) = await TimedAsync(n, i => Body(names[0], Prompt(i)), cancel);
                http.Add(speed);
                (alone, among) = n == 1 ? (texts, texts) : (alone, texts);
                direct.Add(await DirectAsync(n, names[0], cancel));
                if (names.Length > 1 && n > 1) mixed.Add((await TimedAsync(n, i => Body(names[i % names.Length], Prompt(i)), cancel)).Speed);
            }
            figures.Add(new StreamFigures(n, Median(http), Median(direct), mixed.Count > 0 ? Median(mixed) : null));
            if (!OnCard) RequireAlike(alone, among, n);
        }
        double? gap = _settings.LongPrompt > 0 ? await GapAsync(most, names[0], figures[^1].Http.TokensPerSecond, note, cancel) : null;
        var device = OnCard ? new DeviceMeter(_engine.Model.Head.Device) : null;
        using (device)
            return new ServeBenchmarkResult(_settings, $"{_engine.Model.Type}, {device?.Name ?? $"{Interop.Cpu.Variant}, {Interop.Cpu.Threads} threads"}",
                names.Length, _startMs, DeviceMeter.Median(first), figures, Alike(alone, among), Math.Min(alone.Length, among.Length), _engine.ReplayedSteps,
                _engine.Steps, _engine.NotRecorded, gap);
    }

    public async ValueTask DisposeAsync()
    {
        _client.Dispose();
        await _server.DisposeAsync();
    }

    /// <summary>One client asks one after another, several all at once.</summary>
    private static int Count(int streams) => streams == 1 ? Compared : streams;

    private static int Alike(string[] alone, string[] among) => alone.Zip(among).Count(p => p.First == p.Second);

    private static void RequireAlike(string[] alone, string[] among, int n)
    {
        for (var i = 0; i < Math.Min(alone.Length, among.Length); i++)
            if (among[i] != alone[i]) throw new InvalidOperationException($"stream {i} became another text among {n} than alone: their speed means nothing");
    }

    private static StreamSpeed Median(List<StreamSpeed> of) =>
        new(DeviceMeter.Median([.. of.Select(s => s.TokensPerSecond)]), DeviceMeter.Median([.. of.Select(s => s.StepMs)]));

    /// <summary>The same requests come again and again: what was kept of them is computed again.</summary>
    private async Task<(StreamSpeed Speed, string[] Texts)> TimedAsync(int n, Func<int, byte[]> body, CancellationToken cancel)
    {
        byte[][] bodies = [.. Enumerable.Range(0, Count(n)).Select(body)];
        await _engine.ForgetPromptsAsync();
        var watch = Stopwatch.StartNew();
        var answers = await AllAsync(n, i => bodies[i], cancel);
        return (Speed(n, watch.Elapsed, answers.Select(a => (a.FirstMs, a.LastMs))), [.. answers.Select(a => a.Text)]);
    }

    private StreamSpeed Speed(int n, TimeSpan all, IEnumerable<(double First, double Last)> streams)
    {
        (double First, double Last)[] each = [.. streams];
        var drawing = n == 1 ? each : [each.MaxBy(s => s.First)];
        return new StreamSpeed(each.Length * _settings.Tokens / all.TotalSeconds, drawing.Average(s => s.Last - s.First) / (_settings.Tokens - 1));
    }

    private async Task<StreamedAnswer[]> AllAsync(int n, Func<int, byte[]> body, CancellationToken cancel)
    {
        if (n > 1) return await Task.WhenAll(Enumerable.Range(0, n).Select(i => _client.AskAsync(body(i), cancel)));
        List<StreamedAnswer> answers = [];
        for (var i = 0; i < Compared; i++) answers.Add(await _client.AskAsync(body(i), cancel));
        return [.. answers];
    }

    private async Task<StreamSpeed> DirectAsync(int n, string name, CancellationToken cancel)
    {
        ModelRequest[] requests = [.. Enumerable.Range(0, Count(n)).Select(i => new ModelRequest
        {
            Model = name,
            Ids = Prompt(i),
            MaxTokens = _settings.Tokens,
            DoSample = false,
            LogitBias = _stops.ToDictionary(stop => stop, _ => -100f),
        })];
        async Task<(double, double)> Ask(int i)
        {
            using var reply = await _engine.StartAsync(requests[i]);
            var (watch, first, last) = (Stopwatch.StartNew(), double.NaN, 0.0);
            await foreach (var (_, part) in reply.ReadAsync(cancel))
            {
                if (part is null) continue;
                last = watch.Elapsed.TotalMilliseconds;
                if (double.IsNaN(first)) first = last;
            }
            return (first, last);
        }
        await _engine.ForgetPromptsAsync();
        var watch = Stopwatch.StartNew();
        List<(double, double)> times = [];
        if (n > 1) times.AddRange(await Task.WhenAll(Enumerable.Range(0, n).Select(Ask)));
        else
            for (var i = 0; i < Compared; i++) times.Add(await Ask(i));
        return Speed(n, watch.Elapsed, times);
    }

    private async Task<double> GapAsync(int n, string name, double rate, Action<string>? note, CancellationToken cancel)
    {
        note?.Invoke($"a prompt of {_settings.LongPrompt} tokens among {n} streams");
        await _engine.ForgetPromptsAsync();
        var streams = Enumerable.Range(0, n).Select(i => _client.AskAsync(Body(name, Prompt(i)), cancel)).ToArray();
        await Task.Delay(TimeSpan.FromSeconds(n * _settings.Tokens / rate / 3), cancel);
        var late = _client.AskAsync(Body(name, Words(99, _settings.LongPrompt), 2), cancel);
        var gap = (await Task.WhenAll(streams)).Max(s => s.GapMs);
        await late;
        return gap;
    }

    private byte[] Body(string model, int[] prompt, int? tokens = null) => ServeClient.Body(model, prompt, tokens ?? _settings.Tokens, _stops);

    private int[] Prompt(int number) => Words(number, _settings.Prompt);

    private int[] Words(int number, int count) => [.. Enumerable.Range(0, count).Select(i => Token(number, i))];

    private int Token(int number, int place)
    {
        var vocabulary = Math.Min(_engine.Tokenizer.VocabSize, _engine.Model.Info.Vocabulary);
        var id = (int)(Ops.DropoutMask.Mix(((ulong)(number + 7) << 32) ^ (ulong)place) % (ulong)vocabulary);
        return _engine.Tokenizer.IsSpecial(id) ? vocabulary / 2 : id;
    }
}
