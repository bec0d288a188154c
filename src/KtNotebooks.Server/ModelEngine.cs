using System.Collections.Concurrent;
using System.Security.Cryptography;

using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Generation;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Tokenizers;
using KtNotebooks.Training;
using KtNotebooks.Training.Objectives;
using KtNotebooks.Weights;

namespace KtNotebooks.Server;

/// <summary>
/// A model that answers many requests at once: base and adapters by name, on one <see cref="Scheduler"/> that one thread steps. Requests join and leave
/// between two passes.
/// <code>
/// endpoint ─▶ ModelRequest ─▶ prompt, sampling, mask (any thread) ─▶ Scheduler (its thread) ─▶ Completion ─▶ AnswerReader ─▶ endpoint
/// </code>
/// </summary>
public sealed class ModelEngine : IDisposable
{
    private readonly Scheduler _scheduler;
    private readonly Thread _thread;
    private readonly CancellationTokenSource _stop = new();
    private readonly ConcurrentDictionary<string, ServedModel> _models = new(StringComparer.Ordinal);
    private readonly bool _owned;
    private Tuple<long, string?> _fingerprint = Tuple.Create<long, string?>(-1, null);
    private int _active, _draining, _disposed;

    /// <param name="model">What generates, with its adapters loaded under names.</param>
    /// <param name="tokenizer">Of the model.</param>
    /// <param name="template">How conversations are told to it.</param>
    /// <param name="settings">Null: defaults.</param>
    /// <param name="owned">The model is freed with the engine.</param>
    public ModelEngine(CausalLm model, Tokenizer tokenizer, Template template, EngineSettings? settings = null, bool owned = false)
    {
        ArgumentNullException.ThrowIfNull(model);
        (Model, Tokenizer, Template, Settings, _owned) = (model, tokenizer, template, settings ?? new EngineSettings(), owned);
        var adapters = NamedAdapters.Of(model);
        Serve(Settings.BaseName, Pass.BaseModel);
        foreach (var name in adapters) Serve(name, name);
        if (Settings.ModelName is { } named && !_models.ContainsKey(named)) Serve(named, Settings.FirstAdapter ?? Pass.BaseModel);
        _scheduler = new Scheduler(model, tokenizer, new SchedulerSettings
        {
            Slots = Settings.Slots,
            Waiting = Settings.Waiting,
            PromptRows = Settings.PromptRows,
            CutPrompts = true,
            CacheTokens = Settings.CacheTokens,
            IdleTokens = Settings.CacheTokens,
        });
        Prompts = new PromptBuilder(this);
        Adapters = new AdapterDoor(this);
        Telemetry = new EngineTelemetry(this);
        _thread = new Thread(() => _scheduler.Loop(_stop.Token)) { IsBackground = true, Name = "kt engine" };
        _thread.Start();
    }

    public CausalLm Model { get; }

    public Tokenizer Tokenizer { get; }

    public Template Template { get; }

    public EngineSettings Settings { get; }

    /// <summary>What a person should know about how it was loaded.</summary>
    public IReadOnlyList<string> Notes { get; private init; } = [];

    /// <summary>The names that requests may ask for: the server's own, the base's, the adapters'.</summary>
    public IReadOnlyList<ServedModel> Models =>
        [.. _models.Values.OrderBy(m => m.Name != Settings.ModelName).ThenBy(m => m.Name != Settings.BaseName).ThenBy(m => m.Name, StringComparer.Ordinal)];

    /// <summary>What is behind all answers: it changes when base or adapters do.</summary>
    public string Fingerprint
    {
        get
        {
            var (version, text) = _fingerprint;
            if (version == WeightVersion.Current && text is not null) return text;
            version = WeightVersion.Current;
            text = "fp_" + Convert.ToHexStringLower(SHA256.HashData(System.Text.Encoding.UTF8.GetBytes(
                $"{typeof(ModelEngine).Assembly.GetName().Version}/{Model.Info}/{Model.Type}/{version}")))[..10];
            _fingerprint = Tuple.Create<long, string?>(version, text);
            return text;
        }
    }

    /// <summary>Adapters that come and go by request.</summary>
    public AdapterDoor Adapters { get; }

    public EngineTelemetry Telemetry { get; }

    public int Running => _scheduler.Running;

    public int Waiting => _scheduler.Waiting;

    public long CacheBytes => _scheduler.CacheBytes;

    /// <summary>Passes of the model so far, and those of them that were one CUDA graph.</summary>
    public long Steps => _scheduler.Steps;

    public long ReplayedSteps => _scheduler.ReplayedSteps;

    /// <summary>What keeps steps from being recorded, in words; null: nothing so far.</summary>
    public string? NotRecorded => _scheduler.NotRecorded;

    /// <summary>Requests that are being answered.</summary>
    public int Active => Volatile.Read(ref _active);

    public bool IsDraining => Volatile.Read(ref _draining) != 0;

    internal PromptBuilder Prompts { get; }

    /// <summary>Loads base and adapters as a config, the folder of a model or of an adapter, and key=value pairs say: the keys of `kt api`.</summary>
    public static ModelEngine Open(params string[] arguments)
    {
        var (completed, told) = ModelTarget.Complete(arguments);
        var c = Configuration.Settings.Read(completed);
        return Open(c, () => [.. told, .. c.Finish("kt api")]);
    }

    /// <param name="c">Its keys that are the model's and the engine's are read.</param>
    /// <param name="finish">Called before anything is loaded: finishes the keys, and returns notes.</param>
    /// <param name="loading">Told how far the model has come in.</param>
    public static ModelEngine Open(Settings c, Func<IReadOnlyList<string>> finish, Action<WorkProgress>? loading = null)
    {
        ArgumentNullException.ThrowIfNull(finish);
        var (keys, sampling, _, asMade) = ChatSession.ReadKeys(c);
        var settings = ServerKeys.ReadEngine(c, keys, sampling);
        var notes = finish();
        keys.Check();
        var (model, tokenizer) = (keys with { Adapters = [] }).Load(loading); // adapters lie beside each other here
        try
        {
            var adapters = NamedAdapters.Load(model, keys.Adapters, keys.Log);
            var heads = ReadHeads(model, keys);
            settings = settings with { FirstAdapter = adapters is [var first, ..] ? first : null };
            var engine = new ModelEngine(model, tokenizer, keys.Template, settings, owned: true)
            {
                Notes = [.. notes, .. asMade, .. keys.Notes, .. model.Notes],
            };
            foreach (var (adapter, head) in heads) engine.Give(adapter, head);
            return engine;
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    /// <summary>The model of a name.</summary>
    /// <exception cref="ApiException">404, with the names that there are.</exception>
    /// <param name="name">Of a request.</param>
    /// <param name="field">Where the request has it.</param>
    public ServedModel Find(string name, string field = "model") => _models.TryGetValue(name, out var model) ? model
        : throw new ApiException(404, $"the model '{(name.Length <= 80 ? name : name[..77] + "…")}' is not served here; there are "
            + string.Join(", ", Models.Select(m => m.Name)), field, "model_not_found");

    /// <summary>Puts a request in the line; returns when it stands there. Answers are read from what it returns.</summary>
    /// <exception cref="ApiException">It cannot be answered (400, 404), too many wait (429), or the server ends (503).</exception>
    public async Task<Reply> StartAsync(ModelRequest request)
    {
        ArgumentNullException.ThrowIfNull(request);
        if (IsDraining) throw Ending();
        var model = Find(request.Model);
        var prompt = Prompts.Build(request);
        if (prompt.Request.Prompt.Count == 0) throw ApiException.Wrong("prompt", "must hold at least one token");
        if (prompt.Request.Prompt.Count >= Model.Info.MaxPositions + (prompt.Request.PromptOnly ? 1 : 0)) throw TooLong(prompt.Request.Prompt.Count);
        var trace = EngineTelemetry.Begin(request, model);
        Interlocked.Increment(ref _active);
        model.Enter();
        try
        {
            var completions = await OnThread(() => AddAll(prompt, model.Adapter, request.N));
            var reads = completions.Select((c, i) => new Answer(i, c, prompt.NewReader(), !request.ParallelCalls)).ToArray();
            return new Reply(request, model, reads, reply =>
            {
                Leave(model);
                Telemetry.End(trace, reply);
            });
        }
        catch (Exception error)
        {
            Leave(model);
            Telemetry.Fail(trace, error);
            throw;
        }
    }

    /// <summary>The value that a reward model gives to each text, at its last token; other requests are answered between.</summary>
    /// <param name="model">One with <see cref="ServedModel.Values"/>.</param>
    /// <param name="texts">Tokens of each, at least one.</param>
    /// <param name="cancel">Between two passes.</param>
    internal async Task<double[]> ScoreAsync(ServedModel model, IReadOnlyList<int[]> texts, CancellationToken cancel)
    {
        if (IsDraining) throw Ending();
        Interlocked.Increment(ref _active);
        model.Enter();
        try
        {
            var scores = new double[texts.Count];
            for (var first = 0; first < texts.Count;)
            {
                var (last, rows) = (first + 1, texts[first].Length);
                while (last < texts.Count && rows + texts[last].Length <= Settings.PromptRows) rows += texts[last++].Length;
                int[][] some = [.. texts.Skip(first).Take(last - first)];
                cancel.ThrowIfCancellationRequested();
                (await OnThread(() => Values(model, some))).CopyTo(scores, first);
                first = last;
            }
            return scores;
        }
        finally
        {
            Leave(model);
        }
    }

    /// <summary>What was kept of earlier prompts is computed again when it comes again: for measurements.</summary>
    public Task ForgetPromptsAsync() => OnThread(() =>
    {
        _scheduler.ForgetPrompts();
        return true;
    });

    /// <summary>New requests are refused from now on; returns when all that there are have been answered, or when it is cancelled.</summary>
    public async Task DrainAsync(CancellationToken cancel)
    {
        Volatile.Write(ref _draining, 1);
        while (Active > 0 && !cancel.IsCancellationRequested) await Task.Delay(20, CancellationToken.None);
    }

    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0) return;
        Volatile.Write(ref _draining, 1);
        _stop.Cancel();
        _thread.Join();
        _scheduler.Dispose();
        Adapters.Dispose();
        Telemetry.Dispose();
        foreach (var head in _models.Values.Select(m => m.Values).Distinct()) head?.Dispose();
        _stop.Dispose();
        if (_owned) Model.Dispose();
    }

    /// <summary>Does something on the thread that steps, between two passes.</summary>
    internal async Task<T> OnThread<T>(Func<T> act)
    {
        var done = new TaskCompletionSource<T>(TaskCreationOptions.RunContinuationsAsynchronously);
        try
        {
            _scheduler.Post(() =>
            {
                try
                {
                    done.TrySetResult(act());
                }
#pragma warning disable CA1031 // Whoever waits hears it.
                catch (Exception error)
#pragma warning restore CA1031
                {
                    done.TrySetException(error);
                }
            });
        }
        catch (ObjectDisposedException)
        {
            throw Ending();
        }
        using (_stop.Token.Register(() => done.TrySetException(Ending()))) return await done.Task;
    }

    /// <exception cref="ArgumentException">The name is taken.</exception>
    internal ServedModel Serve(string name, string adapter, string? path = null, ValueHead? values = null)
    {
        var model = new ServedModel(name, adapter, path) { Values = values };
        return _models.TryAdd(name, model) ? model
            : throw new ArgumentException($"two models would be served as '{name}'; name the adapter yourself: NAME=PATH");
    }

    internal void Withdraw(ServedModel model) => _models.TryRemove(KeyValuePair.Create(model.Name, model));

    /// <summary>In the words by which Claude Code and LiteLLM (with aider) know that a conversation has to be made shorter.</summary>
    private ApiException TooLong(int tokens) => new(400, $"prompt is too long: {tokens} tokens > {Model.Info.MaxPositions - 1} maximum; "
        + $"this model's maximum context length is {Model.Info.MaxPositions} tokens, of prompt and answer together", null, "context_length_exceeded");

    private static ApiException Ending() => new(503, "the server is shutting down") { RetryAfter = 10 };

    /// <summary>The value heads beside base and adapters: those are reward models.</summary>
    private static List<(string Adapter, ValueHead Head)> ReadHeads(CausalLm model, ModelKeys keys)
    {
        List<(string, ValueHead)> heads = [];
        foreach (var (name, folder) in keys.Adapters.Select(NamedAdapters.Split).Prepend((Pass.BaseModel, keys.Path)))
        {
            if (RewardAdaptation.HeadOf(model, folder) is { } head) heads.Add((name, head));
        }
        return heads;
    }

    private void Give(string adapter, ValueHead head)
    {
        foreach (var model in _models.Values.Where(m => m.Adapter == adapter)) model.Values = head;
    }

    /// <summary>On the thread that steps.</summary>
    private double[] Values(ServedModel model, int[][] texts)
    {
        Model.ValueHead = model.Values;
        try
        {
            var batch = TokenBatch.ForInference(texts);
            var values = new StageWork(Model, 8192, LayerMajorStep.HeadRows).Score(batch, Scores.Values, model.Adapter, _stop.Token).Policy;
            return [.. batch.SeqStarts[1..].Select(end => (double)values[end - 1])];
        }
        finally
        {
            Model.ValueHead = null;
        }
    }

    private List<Completion> AddAll(Prompt prompt, string adapter, int n)
    {
        List<Completion> added = [];
        try
        {
            for (var i = 0; i < n; i++) added.Add(_scheduler.Add(prompt.Of(i) with { Adapter = adapter }));
            return added;
        }
        catch (Exception error)
        {
            foreach (var one in added) one.Cancel();
            throw error switch
            {
                ArgumentException => new ApiException(400, error.Message, null,
                    error.Message.StartsWith("the prompt has", StringComparison.Ordinal) ? "context_length_exceeded" : "invalid_value"),
                ObjectDisposedException => Ending(),
                InvalidOperationException when _scheduler.Waiting >= Settings.Waiting => new ApiException(429,
                    $"{Settings.Waiting} requests wait already; come back later", null, "queue_full")
                {
                    RetryAfter = 1,
                },
                _ => error,
            };
        }
    }

    private void Leave(ServedModel model)
    {
        model.Leave();
        Interlocked.Decrement(ref _active);
    }
}
