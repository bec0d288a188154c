using System.Collections.Concurrent;
using System.Net;
using System.Net.Sockets;

using KtNotebooks.Evaluation;
using KtNotebooks.Tests.Tokenizers;

using Xunit;

namespace KtNotebooks.Tests.Evaluation;

/// <summary>The keys of predictions by a URL reach the server: where it is, the model's name, the key, and how many requests are open at once.</summary>
public sealed class RemoteKeysTests
{
    private const int Rows = 12;

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    public async Task So_many_requests_are_open_each_with_key_and_model(int atOnce)
    {
        using var folder = new Samples.Folder();
        folder.Write("dataset_info.json", """{"mine": {"file_name": "mine.json"}}""");
        folder.Write("mine.json", "[" + string.Join(',', Enumerable.Range(0, Rows).Select(i =>
            $$"""{"instruction": "question {{i}}", "input": "", "output": "answer"}""")) + "]");
        using var server = new Listener(atOnce);
        using var run = RemoteRun.Open([$"api_base={server.Url}", "api_model_name=some-model", "api_key=a-secret", $"api_concurrency={atOnce}",
            $"dataset_dir={folder.Path}", "eval_dataset=mine", $"output_dir={Path.Combine(folder.Path, "out")}"], evaluates: false, Stop)!;
        Assert.Equal(Rows, (await Task.Run(() => run.Run(Stop), Stop)).Generated);
        Assert.Equal(atOnce, server.MostOpen);
        Assert.All(server.Keys, key => Assert.Equal("Bearer a-secret", key));
        Assert.Equal(Rows, server.Bodies.Count);
        Assert.All(server.Bodies, body => Assert.Contains("\"model\":\"some-model\"", body, StringComparison.Ordinal));
    }

    /// <summary>A mistyped URL leaves nothing that the right one is refused for.</summary>
    [Fact]
    public async Task A_run_without_a_row_binds_nobody()
    {
        using var folder = new Samples.Folder();
        folder.Write("dataset_info.json", """{"mine": {"file_name": "mine.json"}}""");
        folder.Write("mine.json", """[{"instruction": "question", "input": "", "output": "answer"}]""");
        using var server = new Listener(1);
        RemoteRun Open(string url) => RemoteRun.Open([$"api_base={url}", "api_model_name=x", $"dataset_dir={folder.Path}", "eval_dataset=mine",
            $"output_dir={Path.Combine(folder.Path, "out")}"], evaluates: false, Stop)!;
        using (var wrong = Open(server.Url + "nowhere/"))
            Assert.Contains("the server said 404", Assert.Throws<InvalidOperationException>(() => wrong.Run(Stop)).Message, StringComparison.Ordinal);
        using (var right = Open(server.Url)) Assert.Equal(1, (await Task.Run(() => right.Run(Stop), Stop)).Generated);
        using var other = Open(server.Url + "v2/");
        Assert.Contains("holds predictions made with api_base", Assert.Throws<ArgumentException>(() => other.Run(Stop)).Message, StringComparison.Ordinal);
    }

    /// <summary>Answers when as many requests are open as it waits for, or a moment has passed.</summary>
    private sealed class Listener : IDisposable
    {
        private readonly HttpListener _http = new();
        private readonly int _wanted;
        private int _open;

        public Listener(int wanted)
        {
            _wanted = wanted;
            using (var free = new TcpListener(IPAddress.Loopback, 0))
            {
                free.Start();
                Url = $"http://127.0.0.1:{((IPEndPoint)free.LocalEndpoint).Port}/v1/";
            }
            _http.Prefixes.Add(Url);
            _http.Start();
            _ = Listen();
        }

        public string Url { get; }

        public int MostOpen { get; private set; }

        public ConcurrentBag<string> Keys { get; } = [];

        public ConcurrentBag<string> Bodies { get; } = [];

        public void Dispose() => _http.Close();

        private async Task Listen()
        {
            while (_http.IsListening)
            {
                try
                {
                    _ = Answer(await _http.GetContextAsync());
                }
                catch (Exception error) when (error is HttpListenerException or ObjectDisposedException)
                {
                    return;
                }
            }
        }

        private async Task Answer(HttpListenerContext context)
        {
            lock (Keys) MostOpen = Math.Max(MostOpen, ++_open);
            Keys.Add(context.Request.Headers["Authorization"] ?? "");
            using (var reader = new StreamReader(context.Request.InputStream)) Bodies.Add(await reader.ReadToEndAsync());
            for (var waited = 0; waited < 20 && Volatile.Read(ref _open) < _wanted; waited++) await Task.Delay(10);
            await Task.Delay(20); // one too many would come now
            lock (Keys) _open--;
            context.Response.ContentType = "application/json";
            if (context.Request.Url!.AbsolutePath != "/v1/chat/completions") context.Response.StatusCode = 404;
            await context.Response.OutputStream.WriteAsync("""{"choices":[{"message":{"role":"assistant","content":"yes"}}],"usage":{}}"""u8.ToArray());
            context.Response.Close();
        }
    }
}
