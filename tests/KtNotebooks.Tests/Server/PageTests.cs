using System.Diagnostics;
using System.Net.WebSockets;
using System.Text;
using System.Text.Json.Nodes;

using Xunit;

namespace KtNotebooks.Tests.Server;

/// <summary>The page in Chromium, driven as a person would: a question by keyboard, streamed answers side by side, stop and clear.</summary>
public sealed class PageTests(ServedAdapterTests.Two two) : IClassFixture<ServedAdapterTests.Two>
{
    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    [Fact]
    public async Task Base_and_adapter_answer_side_by_side()
    {
        Require.Hardware("chromium", File.Exists("/usr/bin/chromium") ? null : "/usr/bin/chromium is not here");
        await using var page = await Chromium.OpenAsync(two.Server.Url, Stop);
        await page.Until("document.body.dataset.ready === 'true'");
        Assert.Equal("kt-tiny|cat", await page.Ask("[...document.querySelectorAll('section')].map(s => s.dataset.model).join('|')"));
        await page.Ask("document.getElementById('tokens').value = 12");
        await page.Ask("document.getElementById('question').focus()");
        await page.Type("What is the capital of France?");
        await page.Press("Enter", 13);
        await page.Until("[...document.querySelectorAll('h2 output')].every(o => o.textContent.includes('tokens/s'))");
        Assert.Equal("2", await page.Ask("document.querySelectorAll('.turn.user').length"));
        Assert.Equal("true", await page.Ask("[...document.querySelectorAll('.turn.assistant')].every(t => t.textContent.length > 0)"));
        Assert.Equal("0", await page.Ask("document.querySelectorAll('.error').length"));
        // A long answer is stopped, and the conversation cleared.
        await page.Ask("document.getElementById('tokens').value = 900");
        await page.Type("again");
        await page.Press("Enter", 13);
        await page.Until("!document.getElementById('stop').disabled");
        await page.Press("Escape", 27);
        await page.Until("document.getElementById('stop').disabled");
        await page.Ask("document.getElementById('clear').click()");
        Assert.Equal("0", await page.Ask("document.querySelectorAll('.turn').length"));
        // Dark where the system is dark; text stands out from the page either way.
        var light = await page.Ask("getComputedStyle(document.body).backgroundColor");
        await page.Send("Emulation.setEmulatedMedia", new JsonObject
        {
            ["features"] = new JsonArray(new JsonObject { ["name"] = "prefers-color-scheme", ["value"] = "dark" }),
        });
        Assert.NotEqual(light, await page.Ask("getComputedStyle(document.body).backgroundColor"));
        Assert.Empty(page.Complaints);
    }

    /// <summary>Chromium without a window, spoken to by its own protocol.</summary>
    private sealed class Chromium : IAsyncDisposable
    {
        private readonly Process _process;
        private readonly string _folder;
        private readonly ClientWebSocket _socket = new();
        private readonly CancellationToken _stop;
        private int _number;

        private Chromium(Process process, string folder, CancellationToken stop) => (_process, _folder, _stop) = (process, folder, stop);

        /// <summary>What the page's console and its policy complain of.</summary>
        public List<string> Complaints { get; } = [];

        public static async Task<Chromium> OpenAsync(Uri url, CancellationToken stop)
        {
            var folder = Directory.CreateTempSubdirectory("kt-chromium-").FullName;
            var start = new ProcessStartInfo("/usr/bin/chromium", ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                "--no-first-run", "--remote-debugging-port=0", $"--user-data-dir={folder}", "about:blank"])
            {
                RedirectStandardError = true,
                RedirectStandardOutput = true,
            };
            var process = Process.Start(start)!;
            process.ErrorDataReceived += (_, _) => { };
            process.BeginErrorReadLine();
            process.BeginOutputReadLine();
            var chromium = new Chromium(process, folder, stop);
            var port = Path.Combine(folder, "DevToolsActivePort");
            for (var i = 0; i < 600 && !(File.Exists(port) && File.ReadAllLines(port).Length == 2); i++) await Task.Delay(50, stop);
            using var http = new HttpClient();
            var pages = JsonNode.Parse(await http.GetStringAsync(new Uri($"http://127.0.0.1:{File.ReadAllLines(port)[0]}/json"), stop))!.AsArray();
            var page = pages.First(p => (string?)p!["type"] == "page")!;
            await chromium._socket.ConnectAsync(new Uri((string)page["webSocketDebuggerUrl"]!), stop);
            await chromium.Send("Runtime.enable", []);
            await chromium.Send("Log.enable", []);
            await chromium.Send("Page.enable", []);
            await chromium.Send("Page.navigate", new JsonObject { ["url"] = url.ToString() });
            return chromium;
        }

        /// <summary>The value of an expression, as text.</summary>
        public async Task<string> Ask(string expression)
        {
            var answer = await Send("Runtime.evaluate", new JsonObject { ["expression"] = expression, ["returnByValue"] = true });
            Assert.True(answer["exceptionDetails"] is null, answer.ToJsonString());
            return answer["result"]?["value"]?.ToString() ?? "";
        }

        public async Task Until(string expression)
        {
            for (var i = 0; i < 600; i++)
            {
                if (await Ask(expression) == "true") return;
                await Task.Delay(50, _stop);
            }
            Assert.Fail($"never true: {expression}; {await Ask("document.body.innerText")}; {string.Join('\n', Complaints)}");
        }

        public Task<JsonNode> Type(string text) => Send("Input.insertText", new JsonObject { ["text"] = text });

        public async Task Press(string key, int code)
        {
            foreach (var type in (string[])["keyDown", "keyUp"])
            {
                var press = new JsonObject { ["type"] = type, ["key"] = key, ["code"] = key, ["windowsVirtualKeyCode"] = code };
                if (key == "Enter" && type == "keyDown") press["text"] = "\r";
                await Send("Input.dispatchKeyEvent", press);
            }
        }

        public async Task<JsonNode> Send(string method, JsonObject parameters)
        {
            var id = ++_number;
            var text = new JsonObject { ["id"] = id, ["method"] = method, ["params"] = parameters }.ToJsonString();
            await _socket.SendAsync(Encoding.UTF8.GetBytes(text), WebSocketMessageType.Text, true, _stop);
            while (true)
            {
                var said = JsonNode.Parse(await Receive())!;
                if ((int?)said["id"] == id) return said["result"] ?? throw new InvalidOperationException($"{method}: {said.ToJsonString()}");
                if ((string?)said["method"] is "Runtime.exceptionThrown" or "Log.entryAdded") Complaints.Add(said["params"]!.ToJsonString());
            }
        }

        public async ValueTask DisposeAsync()
        {
            _socket.Dispose();
            _process.Kill(entireProcessTree: true);
            await _process.WaitForExitAsync(CancellationToken.None);
            _process.Dispose();
            try
            {
                Directory.Delete(_folder, recursive: true);
            }
            catch (IOException)
            {
                return; // a child of it still writes; the folder is the system's to clear
            }
        }

        private async Task<string> Receive()
        {
            var (text, buffer) = (new MemoryStream(), new byte[65536]);
            while (true)
            {
                var part = await _socket.ReceiveAsync(buffer, _stop);
                text.Write(buffer, 0, part.Count);
                if (part.EndOfMessage) return Encoding.UTF8.GetString(text.ToArray());
            }
        }
    }
}
