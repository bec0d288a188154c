using System.Diagnostics;
using System.Net.WebSockets;
using System.Text;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;

using Xunit;

namespace KtNotebooks.Tests.Browser;

/// <summary>
/// A page in a headless Chromium, driven by its DevTools protocol (https://chromedevtools.github.io/devtools-protocol): what a person would do and see.
/// </summary>
internal sealed partial class Chromium : IDisposable
{
    private const int PatienceSeconds = 60;
    private static readonly string[] Programs = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];

    private readonly DirectoryInfo _profile = Directory.CreateTempSubdirectory("kt-chromium-");
    private readonly Process _process;
    private readonly TaskCompletionSource<string> _port = new();
    private readonly ClientWebSocket _socket = new();
    private int _calls;

    private Chromium(string program)
    {
        _process = Process.Start(new ProcessStartInfo(program, ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--remote-debugging-port=0", $"--user-data-dir={_profile.FullName}", "--window-size=1000,900", "about:blank"])
        {
            RedirectStandardError = true,
            RedirectStandardOutput = true,
        })!;
        _process.OutputDataReceived += (_, _) => { };
        _process.ErrorDataReceived += (_, line) =>
        {
            if (line.Data is null) _port.TrySetException(new InvalidOperationException("Chromium ended before it listened"));
            else if (Listening().Match(line.Data) is { Success: true } said) _port.TrySetResult(said.Groups[1].Value);
        };
        _process.BeginOutputReadLine();
        _process.BeginErrorReadLine();
    }

    /// <summary>Where pictures of pages are left, for people to look at.</summary>
    public static string Pictures => Path.Combine(Checkout.Root, "artifacts", "test-results", "browser");

    /// <summary>A page of its own; without Chromium the test is skipped.</summary>
    public static async Task<Chromium> Open()
    {
        var program = Array.Find(Programs, File.Exists);
        Require.Hardware("chromium", program is null ? "no Chromium is here (Debian: chromium)" : null);
        var browser = new Chromium(program!);
        try
        {
            await browser.Connect();
            return browser;
        }
        catch
        {
            browser.Dispose();
            throw;
        }
    }

    /// <summary>What the page's console and its policy complain of.</summary>
    public List<string> Complaints { get; } = [];

    public Task Go(string url) => Send("Page.navigate", new JsonObject { ["url"] = url });

    /// <summary>The value of a JavaScript expression, as JSON can say it.</summary>
    public async Task<JsonNode?> Value(string expression)
    {
        var result = await Send("Runtime.evaluate", new JsonObject { ["expression"] = expression, ["returnByValue"] = true, ["awaitPromise"] = true });
        Assert.True(result["exceptionDetails"] is null, $"{expression}: {result["exceptionDetails"]?["exception"]?["description"]}");
        return result["result"]?["value"]?.DeepClone();
    }

    /// <summary>Until an expression is true.</summary>
    public async Task Until(string expression, int seconds = PatienceSeconds)
    {
        var clock = Stopwatch.StartNew();
        while (true)
        {
            var result = await Send("Runtime.evaluate", new JsonObject { ["expression"] = $"!!({expression})", ["returnByValue"] = true });
            if ((bool?)result["result"]?["value"] == true) return;
            if (clock.Elapsed.TotalSeconds > seconds)
            {
                await Picture("failed");
                Assert.Fail($"not within {seconds} s: {expression}; {string.Join('\n', Complaints)}");
            }
            await Task.Delay(100, TestContext.Current.CancellationToken);
        }
    }

    /// <summary>Text into what has the focus.</summary>
    public Task Type(string text) => Send("Input.insertText", new JsonObject { ["text"] = text });

    public async Task Press(string key, int code, bool shift = false)
    {
        foreach (var type in (string[])["rawKeyDown", "keyUp"])
        {
            var press = new JsonObject { ["type"] = type, ["key"] = key, ["code"] = key, ["windowsVirtualKeyCode"] = code, ["modifiers"] = shift ? 8 : 0 };
            if (key == "Enter" && type != "keyUp") (press["type"], press["text"]) = ("keyDown", "\r"); // a page hears of it as of a letter
            await Send("Input.dispatchKeyEvent", press);
        }
    }

    /// <summary>From now on the page has no network.</summary>
    public Task CutTheNetwork() => Send("Network.emulateNetworkConditions",
        new JsonObject { ["offline"] = true, ["latency"] = 0, ["downloadThroughput"] = 0, ["uploadThroughput"] = 0 });

    /// <summary>As a telephone or a screen of this width shows it.</summary>
    public async Task Width(int pixels, bool dark = false)
    {
        await Send("Emulation.setDeviceMetricsOverride", new JsonObject
        {
            ["width"] = pixels,
            ["height"] = 900,
            ["deviceScaleFactor"] = 1,
            ["mobile"] = pixels < 500,
        });
        await Send("Emulation.setEmulatedMedia", new JsonObject
        {
            ["features"] = new JsonArray(new JsonObject { ["name"] = "prefers-color-scheme", ["value"] = dark ? "dark" : "light" }),
        });
    }

    public async Task Picture(string name)
    {
        var shot = await Send("Page.captureScreenshot", new JsonObject { ["format"] = "png" });
        Directory.CreateDirectory(Pictures);
        File.WriteAllBytes(Path.Combine(Pictures, name + ".png"), Convert.FromBase64String((string)shot["data"]!));
    }

    public void Dispose()
    {
        _socket.Dispose();
        if (!_process.HasExited) _process.Kill(entireProcessTree: true);
        _process.WaitForExit();
        _process.Dispose();
        for (var tries = 0; _profile.Exists && tries < 20; tries++, _profile.Refresh())
        {
            try
            {
                _profile.Delete(recursive: true);
            }
            catch (IOException)
            {
                Thread.Sleep(100); // a child of the browser is still writing
            }
        }
    }

    private async Task Connect()
    {
        var port = await _port.Task.WaitAsync(TimeSpan.FromSeconds(PatienceSeconds), TestContext.Current.CancellationToken);
        using var http = new HttpClient();
        using var made = await http.PutAsync(new Uri($"http://127.0.0.1:{port}/json/new?about:blank"), null);
        var target = JsonNode.Parse(await made.Content.ReadAsStringAsync())!;
        await _socket.ConnectAsync(new Uri((string)target["webSocketDebuggerUrl"]!), CancellationToken.None);
        foreach (var domain in (string[])["Page", "Runtime", "Network", "Log"]) await Send($"{domain}.enable", []);
    }

    private async Task<JsonNode> Send(string method, JsonObject parameters)
    {
        using var patience = CancellationTokenSource.CreateLinkedTokenSource(TestContext.Current.CancellationToken);
        patience.CancelAfter(TimeSpan.FromSeconds(PatienceSeconds));
        var id = ++_calls;
        var call = new JsonObject { ["id"] = id, ["method"] = method, ["params"] = parameters };
        await _socket.SendAsync(Encoding.UTF8.GetBytes(call.ToJsonString()), WebSocketMessageType.Text, true, patience.Token);
        while (true)
        {
            var answer = JsonNode.Parse(await Receive(patience.Token))!;
            if ((string?)answer["method"] is "Runtime.exceptionThrown" or "Log.entryAdded") Complaints.Add(answer["params"]!.ToJsonString());
            if ((int?)answer["id"] != id) continue; // other events are nobody's
            Assert.True(answer["error"] is null, $"{method}: {answer["error"]?.ToJsonString()}");
            return answer["result"]!;
        }
    }

    private async Task<byte[]> Receive(CancellationToken cancel)
    {
        using var message = new MemoryStream();
        var part = new byte[1 << 16];
        WebSocketReceiveResult received;
        do
        {
            received = await _socket.ReceiveAsync(part, cancel);
            message.Write(part, 0, received.Count);
        }
        while (!received.EndOfMessage);
        return message.ToArray();
    }

    [GeneratedRegex(@"DevTools listening on ws://[^:]+:(\d+)/")] private static partial Regex Listening();
}
