using System.Net.Http.Headers;
using System.Text;
using System.Text.Json.Nodes;

using KtNotebooks.Server;

using Microsoft.Extensions.Logging;

using Xunit;

namespace KtNotebooks.Tests.Server;

/// <summary>kt-tiny behind the API, with one adapter, for all tests of a class.</summary>
public sealed class TinyServer : IAsyncLifetime
{
    public const string Model = "kt-tiny", Key = "secret-key";

    public ModelEngine Engine { get; private set; } = null!;

    public ApiServer Server { get; private set; } = null!;

    public HttpClient Http { get; private set; } = null!;

    internal LogLines Log { get; } = new();

    public async ValueTask InitializeAsync()
    {
        Engine = ModelEngine.Open($"model_name_or_path={Path.Combine(Checkout.Root, "notebooks/models/kt-tiny")}", "template=deepseek", "infer_dtype=float32",
            "max_new_tokens=24");
        Server = await ApiServer.StartAsync(Engine, new ApiSettings { Port = 0, Keys = [Key] }, Log);
        Http = Client(Key);
    }

    public HttpClient Client(string? key)
    {
        var client = new HttpClient { BaseAddress = Server.Url };
        if (key is not null) client.DefaultRequestHeaders.Authorization = new AuthenticationHeaderValue("Bearer", key);
        return client;
    }

    /// <summary>Posts JSON; returns status and body.</summary>
    public async Task<(int Status, JsonNode? Body)> Post(string path, string json)
    {
        using var content = new StringContent(json, Encoding.UTF8, "application/json");
        using var answer = await Http.PostAsync(new Uri(path, UriKind.Relative), content, TestContext.Current.CancellationToken);
        var text = await answer.Content.ReadAsStringAsync(TestContext.Current.CancellationToken);
        return ((int)answer.StatusCode, JsonNode.Parse(text));
    }

    public async ValueTask DisposeAsync()
    {
        Http.Dispose();
        await Server.DisposeAsync();
        Engine.Dispose();
        Log.Dispose();
    }

    /// <summary>What the server logs.</summary>
    internal sealed class LogLines : ILoggerProvider, ILogger
    {
        private readonly List<string> _lines = [];

        public IReadOnlyList<string> All
        {
            get
            {
                lock (_lines) return [.. _lines];
            }
        }

        public ILogger CreateLogger(string categoryName) => this;

        public IDisposable? BeginScope<TState>(TState state)
            where TState : notnull => null;

        public bool IsEnabled(LogLevel logLevel) => true;

        public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter)
        {
            lock (_lines) _lines.Add($"{logLevel} {formatter(state, exception)}{(exception is null ? "" : $" {exception}")}");
        }

        public void Dispose()
        {
        }
    }
}
