using System.Net;
using System.Text;
using System.Text.Json.Nodes;

using KtNotebooks.Tests.Cli;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Training;

/// <summary>
/// report_to: mlflow against the contract of MLflow's REST API 2.0 (mlflow.org/docs/latest/api_reference/rest-api.html): a server that answers as it does, and
/// checks what it documents of each request.
/// </summary>
[Collection(Alone.Name)] // it sets environment variables
public sealed class MlflowTests : IDisposable
{
    private readonly Workplace _place = new();
    private readonly HttpListener _server = new();
    private readonly List<(string Path, JsonNode? Body)> _asked = [];
    private readonly Uri _url;
    private int _failAfter = int.MaxValue;

    public MlflowTests()
    {
        for (var port = 20000 + (Environment.ProcessId % 20000); ; port++)
        {
            _server.Prefixes.Clear();
            _server.Prefixes.Add($"http://127.0.0.1:{port}/");
            try
            {
                _server.Start();
                _url = new Uri($"http://127.0.0.1:{port}");
                break;
            }
            catch (HttpListenerException) when (port < 60000)
            {
                // taken
            }
        }
        new Thread(Serve) { IsBackground = true }.Start();
        Environment.SetEnvironmentVariable("MLFLOW_TRACKING_URI", _url.ToString());
        Environment.SetEnvironmentVariable("MLFLOW_EXPERIMENT_NAME", "cats & dogs");
    }

    public void Dispose()
    {
        Environment.SetEnvironmentVariable("MLFLOW_TRACKING_URI", null);
        Environment.SetEnvironmentVariable("MLFLOW_EXPERIMENT_NAME", null);
        _server.Stop();
        _place.Dispose();
    }

    [Fact]
    public void A_run_makes_its_experiment_logs_settings_and_values_and_is_finished()
    {
        Run();
        Assert.Equal(["experiments/get-by-name", "experiments/create", "runs/create", "runs/log-batch"], _asked.Take(4).Select(a => a.Path));
        Assert.Equal("cats & dogs", (string?)_asked[1].Body!["name"]);
        Assert.Equal(("7", "out"), ((string?)_asked[2].Body!["experiment_id"], (string?)_asked[2].Body!["run_name"]));
        var parameters = _asked.Where(a => a.Body?["params"] is not null).SelectMany(a => a.Body!["params"]!.AsArray()).ToDictionary(p => (string)p!["key"]!,
            p => (string)p!["value"]!);
        Assert.Equal(("2", "0.01"), (parameters["lora_rank"], parameters["learning_rate"]));
        var metrics = _asked.Where(a => a.Body?["metrics"] is not null).SelectMany(a => a.Body!["metrics"]!.AsArray()).ToLookup(m => (string)m!["key"]!);
        Assert.Equal([1, 2, 3], metrics["train/loss"].Select(m => (int)m!["step"]!));
        Assert.Equal(3, metrics["train/learning_rate"].Count());
        Assert.Contains("eval/loss", metrics.Select(m => m.Key));
        Assert.Equal("FINISHED", (string?)_asked[^1].Body!["status"]);
        Assert.Equal("runs/update", _asked[^1].Path);
    }

    [Fact]
    public void A_server_that_goes_away_is_said_once_and_the_run_ends_all_the_same()
    {
        _failAfter = 4;
        List<string> notes = [];
        Run(notes);
        Assert.Single(notes, n => n.Contains("runs/log-batch: 500 out of order; the run goes on without it", StringComparison.Ordinal));
    }

    [Fact]
    public void A_server_that_is_not_there_is_named()
    {
        Environment.SetEnvironmentVariable("MLFLOW_TRACKING_URI", "http://127.0.0.1:9");
        Assert.StartsWith("report_to: mlflow: http://127.0.0.1:9/api/2.0/mlflow/experiments/get-by-name: cannot be reached",
            Assert.Throws<InvalidOperationException>(() => Run()).Message, StringComparison.Ordinal);
        Environment.SetEnvironmentVariable("MLFLOW_TRACKING_URI", null);
        Assert.Contains("MLFLOW_TRACKING_URI must be the URL of an MLflow server", Assert.Throws<ArgumentException>(() => Run()).Message,
            StringComparison.Ordinal);
    }

    private void Run(List<string>? notes = null)
    {
        using var run = FineTuneRun.Open([.. _place.Train("report_to=mlflow", "max_steps=3", "val_size=4", "plot_loss=false").Skip(1)]);
        run.Trainer.OnNote += note => notes?.Add(note);
        run.Run(TestContext.Current.CancellationToken);
    }

    private void Serve()
    {
        while (_server.IsListening)
        {
            try
            {
                var context = _server.GetContext();
                using var reader = new StreamReader(context.Request.InputStream, Encoding.UTF8);
                var (text, path) = (reader.ReadToEnd(), context.Request.Url!.AbsolutePath.Replace("/api/2.0/mlflow/", "", StringComparison.Ordinal));
                var (status, answer) = Answer(path, context.Request, text.Length == 0 ? null : JsonNode.Parse(text));
                context.Response.StatusCode = status;
                context.Response.ContentType = "application/json";
                context.Response.OutputStream.Write(Encoding.UTF8.GetBytes(answer));
                context.Response.Close();
            }
            catch (Exception error) when (error is HttpListenerException or ObjectDisposedException or InvalidOperationException)
            {
                return;
            }
        }
    }

    private (int Status, string Answer) Answer(string path, HttpListenerRequest request, JsonNode? body)
    {
        _asked.Add((path, body));
        if (_asked.Count > _failAfter) return (500, """{"error_code": "INTERNAL_ERROR", "message": "out of order"}""");
        return path switch
        {
            "experiments/get-by-name" when request.HttpMethod == "GET" && request.QueryString["experiment_name"] == "cats & dogs" =>
                (404, """{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Could not find experiment with name 'cats & dogs'"}"""),
            "experiments/create" when body?["name"] is not null => (200, """{"experiment_id": "7"}"""),
            "runs/create" when body?["start_time"] is JsonValue => (200, """{"run": {"info": {"run_id": "abc", "run_name": "out"}, "data": {}}}"""),
            "runs/log-batch" or "runs/update" when (string?)body?["run_id"] == "abc" => (200, "{}"),
            _ => (400, """{"error_code": "INVALID_PARAMETER_VALUE", "message": "not in the contract"}"""),
        };
    }
}
