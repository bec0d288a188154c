using System.Net;
using System.Net.Http.Headers;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace KtNotebooks.Training;

/// <summary>Hears the values of a run beside its own log.</summary>
internal interface ITracker : IDisposable
{
    /// <summary>Values of a step, under the names that transformers gives: train/loss, eval/loss.</summary>
    void Add(int step, IEnumerable<(string Tag, double Value)> values);

    /// <summary>The run has reached its end; what is disposed without it was broken off.</summary>
    void Finish()
    {
    }
}

/// <summary>
/// report_to: mlflow. A run of an MLflow server by its REST API (2.0: experiments/get-by-name and create, runs/create, log-batch, update). As transformers'
/// callback, the server is MLFLOW_TRACKING_URI, the experiment MLFLOW_EXPERIMENT_NAME (Default), and MLFLOW_RUN_ID goes on with a run;
/// MLFLOW_TRACKING_TOKEN, or _USERNAME and _PASSWORD, let in. A server that is away at the start is an error; one that goes away later is said once, and the
/// run goes on without it.
/// </summary>
internal sealed class Mlflow : ITracker
{
    /// <summary>MLflow's own limits of one request, and of a parameter's text.</summary>
    private const int MostParameters = 100, LongestParameter = 6000;

    private readonly HttpClient _http = new() { Timeout = TimeSpan.FromSeconds(30) };
    private readonly string _run;
    private readonly Action<string>? _note;
    private bool _isAway, _isFinished;

    /// <param name="server">http://HOST:PORT.</param>
    /// <param name="experiment">Made if it is not there.</param>
    /// <param name="name">Of the run.</param>
    /// <param name="run">The run to go on with; null: a new one.</param>
    /// <param name="parameters">What the run was made with.</param>
    /// <param name="note">Hears that the server went away.</param>
    /// <exception cref="InvalidOperationException">The server is away, or refuses; what it said is told.</exception>
    public Mlflow(Uri server, string experiment, string name, string? run, IReadOnlyList<(string Key, string Value)> parameters, Action<string>? note)
    {
        ArgumentNullException.ThrowIfNull(parameters);
        (_http.BaseAddress, _note) = (new Uri(server.AbsoluteUri.TrimEnd('/') + "/api/2.0/mlflow/"), note);
        if (Environment.GetEnvironmentVariable("MLFLOW_TRACKING_TOKEN") is { Length: > 0 } token)
            _http.DefaultRequestHeaders.Authorization = new AuthenticationHeaderValue("Bearer", token);
        else if (Environment.GetEnvironmentVariable("MLFLOW_TRACKING_USERNAME") is { Length: > 0 } user)
            _http.DefaultRequestHeaders.Authorization = new AuthenticationHeaderValue("Basic",
                Convert.ToBase64String(Encoding.UTF8.GetBytes($"{user}:{Environment.GetEnvironmentVariable("MLFLOW_TRACKING_PASSWORD")}")));
        _run = run ?? Begin(Experiment(experiment), name);
        foreach (var some in parameters.Chunk(MostParameters))
            Ask("runs/log-batch", new JsonObject
            {
                ["run_id"] = _run,
                ["params"] = new JsonArray([.. some.Select(p => (JsonNode)new JsonObject
                {
                    ["key"] = Key(p.Key),
                    ["value"] = p.Value.Length <= LongestParameter ? p.Value : p.Value[..LongestParameter],
                })]),
            });
    }

    /// <summary>The tracker of a run, from the environment.</summary>
    public static Mlflow Open(string outputDir, IReadOnlyList<(string Key, string Value)> parameters, Action<string>? note)
    {
        const string Variable = "MLFLOW_TRACKING_URI";
        var text = Environment.GetEnvironmentVariable(Variable);
        if (!Uri.TryCreate(text, UriKind.Absolute, out var server) || server.Scheme is not ("http" or "https"))
            throw new ArgumentException($"report_to: mlflow: {Variable} must be the URL of an MLflow server, as http://127.0.0.1:5000, but is "
                + (string.IsNullOrEmpty(text) ? "not set" : $"'{text}' (folders are not written: start `mlflow server` on it)"));
        return new Mlflow(server, Environment.GetEnvironmentVariable("MLFLOW_EXPERIMENT_NAME") is { Length: > 0 } name ? name : "Default",
            Path.GetFileName(Path.TrimEndingDirectorySeparator(Path.GetFullPath(outputDir))),
            Environment.GetEnvironmentVariable("MLFLOW_RUN_ID") is { Length: > 0 } run ? run : null, parameters, note);
    }

    public void Add(int step, IEnumerable<(string Tag, double Value)> values)
    {
        var now = DateTimeOffset.UtcNow.ToUnixTimeMilliseconds();
        JsonNode[] metrics = [.. values.Where(v => double.IsFinite(v.Value)).Select(v => new JsonObject
        {
            ["key"] = Key(v.Tag),
            ["value"] = v.Value,
            ["timestamp"] = now,
            ["step"] = step,
        })];
        if (metrics.Length > 0) Try(() => Ask("runs/log-batch", new JsonObject { ["run_id"] = _run, ["metrics"] = new JsonArray(metrics) }));
    }

    public void Finish() => _isFinished = true;

    public void Dispose()
    {
        Try(() => Ask("runs/update", new JsonObject
        {
            ["run_id"] = _run,
            ["status"] = _isFinished ? "FINISHED" : "KILLED",
            ["end_time"] = DateTimeOffset.UtcNow.ToUnixTimeMilliseconds(),
        }));
        _http.Dispose();
    }

    private string Experiment(string name)
    {
        var found = Ask($"experiments/get-by-name?experiment_name={Uri.EscapeDataString(name)}", null, orMissing: true);
        return found?["experiment"]?["experiment_id"]?.GetValue<string>()
            ?? Ask("experiments/create", new JsonObject { ["name"] = name })!["experiment_id"]!.GetValue<string>();
    }

    private string Begin(string experiment, string name) => Ask("runs/create", new JsonObject
    {
        ["experiment_id"] = experiment,
        ["run_name"] = name,
        ["start_time"] = DateTimeOffset.UtcNow.ToUnixTimeMilliseconds(),
    })!["run"]!["info"]!["run_id"]!.GetValue<string>();

    /// <summary>Letters, digits, _ - . space and / are what MLflow takes in a name.</summary>
    private static string Key(string name) => string.Concat(name.Select(c => char.IsAsciiLetterOrDigit(c) || "_-. /".Contains(c) ? c : '_'));

    private void Try(Action ask)
    {
        if (_isAway) return;
        try
        {
            ask();
        }
        catch (InvalidOperationException error)
        {
            _isAway = true;
            _note?.Invoke($"{error.Message}; the run goes on without it, and trainer_log.jsonl holds what is missing there");
        }
    }

    /// <param name="orMissing">404 is null, not an error.</param>
    private JsonNode? Ask(string path, JsonObject? body, bool orMissing = false)
    {
        try
        {
            using var request = new HttpRequestMessage(body is null ? HttpMethod.Get : HttpMethod.Post, path);
            if (body is not null) request.Content = new StringContent(body.ToJsonString(), Encoding.UTF8, "application/json");
            using var response = _http.Send(request);
            using var reader = new StreamReader(response.Content.ReadAsStream(), Encoding.UTF8);
            var text = reader.ReadToEnd();
            if (orMissing && response.StatusCode == HttpStatusCode.NotFound) return null;
            if (!response.IsSuccessStatusCode) throw Wrong($"{(int)response.StatusCode} {Said(text)}");
            return JsonNode.Parse(text.Length == 0 ? "{}" : text);
        }
        catch (Exception error) when (error is HttpRequestException or TaskCanceledException or IOException)
        {
            throw Wrong("cannot be reached");
        }
        catch (JsonException)
        {
            throw Wrong("gave an answer that is no JSON; is it an MLflow server?");
        }
        InvalidOperationException Wrong(string what) => new($"report_to: mlflow: {_http.BaseAddress}{path.Split('?')[0]}: {what}");
    }

    private static string Said(string text)
    {
        try
        {
            return JsonNode.Parse(text)?["message"]?.GetValue<string>() ?? "";
        }
        catch (Exception error) when (error is JsonException or InvalidOperationException)
        {
            return "";
        }
    }
}
