using System.Diagnostics;
using System.Diagnostics.Metrics;

namespace KtNotebooks.Server;

/// <summary>
/// Traces and metrics of an engine, by OpenTelemetry's names for generative AI: whoever wants them adds the source and the meter <see cref="Name"/> to an
/// exporter; GET /metrics has them in Prometheus' form. No texts of prompts or answers are in them.
/// </summary>
public sealed class EngineTelemetry : IDisposable
{
    /// <summary>Of the activity source and of the meter.</summary>
    public const string Name = "KtNotebooks.Server";

    private static readonly ActivitySource Source = new(Name);

    private readonly Meter _meter = new(Name);
    private readonly Histogram<double> _duration, _first, _perToken;
    private readonly Counter<long> _input, _output, _cached, _requests;

    internal EngineTelemetry(ModelEngine engine)
    {
        double[] seconds = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
        double[] perToken = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5];
        _duration = Seconds("gen_ai.server.request.duration", "from the request to the last token", seconds);
        _first = Seconds("gen_ai.server.time_to_first_token", "from the request to the first token", seconds);
        _perToken = Seconds("gen_ai.server.time_per_output_token", "of a token after the first", perToken);
        _input = _meter.CreateCounter<long>("kt.tokens.input", "{token}", "of prompts");
        _output = _meter.CreateCounter<long>("kt.tokens.output", "{token}", "drawn");
        _cached = _meter.CreateCounter<long>("kt.tokens.cached", "{token}", "of prompts, found in the cache");
        _requests = _meter.CreateCounter<long>("kt.requests", "{request}", "that were answered, or failed");
        _meter.CreateObservableGauge("kt.sequences.running", () => engine.Running, "{sequence}", "that are being computed");
        _meter.CreateObservableGauge("kt.sequences.waiting", () => engine.Waiting, "{sequence}", "that wait for a slot");
        _meter.CreateObservableGauge("kt.cache.bytes", () => engine.CacheBytes, "By", "of keys and values");
    }

    /// <summary>What /metrics listens to.</summary>
    internal Meter Meter => _meter;

    public void Dispose() => _meter.Dispose();

    internal static Trace Begin(ModelRequest request, ServedModel model)
    {
        var operation = request.Ids is null ? "chat" : "text_completion";
        var activity = Source.StartActivity($"{operation} {model.Name}", ActivityKind.Server);
        if (activity is { IsAllDataRequested: true })
        {
            activity.SetTag("gen_ai.operation.name", operation).SetTag("gen_ai.provider.name", "ktnotebooks").SetTag("gen_ai.request.model", model.Name)
                .SetTag("gen_ai.request.choice.count", request.N == 1 ? null : request.N).SetTag("gen_ai.request.max_tokens", request.MaxTokens)
                .SetTag("gen_ai.request.temperature", request.Temperature).SetTag("gen_ai.request.top_p", request.TopP)
                .SetTag("gen_ai.request.top_k", request.TopK).SetTag("gen_ai.request.seed", request.Seed is { } seed ? unchecked((long)seed) : null)
                .SetTag("gen_ai.request.frequency_penalty", request.FrequencyPenalty).SetTag("gen_ai.request.presence_penalty", request.PresencePenalty)
                .SetTag("gen_ai.request.stop_sequences", request.Stops.Count == 0 ? null : request.Stops.ToArray())
                .SetTag("gen_ai.output.type", request.Json || request.Schema is not null ? "json" : "text").SetTag("user.id", request.User);
        }
        return new Trace(activity, Stopwatch.GetTimestamp(), new TagList
        {
            { "gen_ai.operation.name", operation }, { "gen_ai.provider.name", "ktnotebooks" }, { "gen_ai.request.model", model.Name },
        });
    }

    internal void End(Trace trace, Reply reply)
    {
        var (usage, took) = (reply.Usage, Stopwatch.GetElapsedTime(trace.Began).TotalSeconds);
        if (trace.Activity is { } activity)
        {
            activity.SetTag("gen_ai.response.model", reply.Model.Name).SetTag("gen_ai.usage.input_tokens", usage.Prompt)
                .SetTag("gen_ai.usage.output_tokens", usage.Drawn)
                .SetTag("gen_ai.usage.cache_read.input_tokens", usage.Cached)
                .SetTag("gen_ai.response.finish_reasons", reply.Answers.Select(a => Word(a.Reason)).ToArray());
            Close(activity, reply.Error);
        }
        var tags = trace.Tags;
        if (reply.Error is not null) tags.Add("error.type", TypeOf(reply.Error));
        _duration.Record(took, tags);
        _requests.Add(1, tags);
        if (reply.Answers.Min(a => a.FirstToken) is { } first)
        {
            _first.Record(first.TotalSeconds, trace.Tags);
            var longest = reply.Answers.Max(a => a.Usage.Drawn);
            if (longest > 1) _perToken.Record((took - first.TotalSeconds) / (longest - 1), trace.Tags);
        }
        _input.Add(usage.Prompt, trace.Tags);
        _output.Add(usage.Drawn, trace.Tags);
        _cached.Add(usage.Cached, trace.Tags);
    }

    internal void Fail(Trace trace, Exception error)
    {
        if (trace.Activity is { } activity) Close(activity, error);
        var tags = trace.Tags;
        tags.Add("error.type", TypeOf(error));
        _requests.Add(1, tags);
    }

    internal static string Word(EndReason reason) => reason switch { EndReason.Length => "length", EndReason.ToolCalls => "tool_calls", _ => "stop" };

    private static void Close(Activity activity, Exception? error)
    {
        if (error is not null) activity.SetTag("error.type", TypeOf(error)).SetStatus(ActivityStatusCode.Error, error is ApiException ? error.Message : null);
        activity.Dispose();
    }

    private static string TypeOf(Exception error) => error switch
    {
        ApiException known => known.Code ?? known.Type,
        OperationCanceledException => "cancelled",
        _ => error.GetType().Name,
    };

    private Histogram<double> Seconds(string name, string what, double[] bounds) =>
        _meter.CreateHistogram(name, "s", what, advice: new InstrumentAdvice<double> { HistogramBucketBoundaries = bounds });

    /// <summary>A request that is being followed.</summary>
    internal readonly record struct Trace(Activity? Activity, long Began, TagList Tags);
}
