using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Server;

using Xunit;

namespace KtNotebooks.Tests.Server;

/// <summary>What bad, slow, rude and many clients do, and what they may not see.</summary>
public sealed class ServerFaultTests(TinyServer tiny) : IClassFixture<TinyServer>
{
    private const string Chat = """{"model":"kt-tiny","max_tokens":8,"messages":[{"role":"user","content":"hi"}]}""";

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    /// <summary>Bodies of all endpoints, each changed at random: every one is a clear 4xx, or still good.</summary>
    [Fact]
    public async Task A_thousand_malformed_bodies_are_a_thousand_clear_answers()
    {
        var random = new Random(7);
        var (refused, before) = (0, tiny.Log.All.Count);
        for (var i = 0; refused < 1000; i++)
        {
            var (path, seed) = Bodies[i % Bodies.Length];
            var body = Mangle(Encoding.UTF8.GetBytes(seed), random);
            using var content = new ByteArrayContent(body);
            content.Headers.ContentType = new("application/json");
            using var answer = await Answer(content, path, body);
            var text = await answer.Content.ReadAsStringAsync(Stop);
            var about = $"{path} {(int)answer.StatusCode} {Encoding.UTF8.GetString(body)} -> {text}";
            if ((int)answer.StatusCode is 200) continue; // the change did no harm
            Assert.True((int)answer.StatusCode is >= 400 and < 500, about);
            var message = (string?)JsonNode.Parse(text)!["error"]!["message"];
            Assert.True(message is { Length: > 5 } && !message.Contains('\n') && ((string[])["System.", "Exception", Checkout.Root]).All(word =>
                !message.Contains(word, StringComparison.Ordinal)), about);
            refused++;
            Assert.True(i < 4000, "most changes should be wrong");
        }
        Assert.DoesNotContain(tiny.Log.All.Skip(before), line => line.StartsWith("Error", StringComparison.Ordinal));
    }

    private async Task<HttpResponseMessage> Answer(ByteArrayContent content, string path, byte[] body)
    {
        try
        {
            return await tiny.Http.PostAsync(new Uri(path, UriKind.Relative), content, Stop);
        }
        catch (HttpRequestException error)
        {
            throw new InvalidOperationException($"no answer to {path} {Encoding.UTF8.GetString(body)}; {string.Join('\n', tiny.Log.All.TakeLast(3))}", error);
        }
    }

    [Fact]
    public async Task Only_those_with_a_key_a_known_host_and_no_foreign_page_are_heard()
    {
        Assert.Equal(401, await Status(tiny.Client(null), Chat));
        Assert.Equal(401, await Status(tiny.Client(TinyServer.Key[..^1]), Chat));
        using (var anthropic = tiny.Client(null))
        {
            anthropic.DefaultRequestHeaders.Add("x-api-key", TinyServer.Key);
            Assert.Equal(200, await Status(anthropic, Chat));
        }
        using (var rebound = tiny.Client(TinyServer.Key))
        {
            rebound.DefaultRequestHeaders.Host = "evil.example:80";
            Assert.Equal(403, await Status(rebound, Chat));
        }
        using (var page = tiny.Client(TinyServer.Key))
        {
            page.DefaultRequestHeaders.Add("Origin", "https://evil.example");
            Assert.Equal(403, await Status(page, Chat));
        }
        using var health = await tiny.Client(null).GetAsync(new Uri("/health", UriKind.Relative), Stop);
        Assert.Equal(200, (int)health.StatusCode);
    }

    [Fact]
    public async Task A_port_that_is_taken_is_one_line_and_nothing_in_the_log()
    {
        var taken = new ApiSettings { Port = tiny.Server.Url.Port };
        using var log = new TinyServer.LogLines();
        var line = $"127.0.0.1:{taken.Port} cannot be listened on: Address already in use; api_port=NUMBER takes another port";
        Assert.Equal(line, (await Assert.ThrowsAsync<IOException>(() => ApiServer.StartAsync(tiny.Engine, taken, log))).Message);
        Assert.Empty(log.All);
        Assert.Equal(line, Assert.Throws<IOException>(() => ApiServer.RequireFree(taken)).Message); // as kt api asks, before it loads
        ApiServer.RequireFree(new ApiSettings { Port = 0 });
    }

    [Fact]
    public async Task What_is_no_request_is_told_so()
    {
        using var text = new StringContent(Chat, Encoding.UTF8, "text/plain"); // what a page may send without asking
        using var answer = await tiny.Http.PostAsync(new Uri("/v1/chat/completions", UriKind.Relative), text, Stop);
        Assert.Equal(415, (int)answer.StatusCode);
        using var packed = new StringContent(Chat, Encoding.UTF8, "application/json");
        packed.Headers.ContentEncoding.Add("gzip");
        using var refused = await tiny.Http.PostAsync(new Uri("/v1/chat/completions", UriKind.Relative), packed, Stop);
        Assert.Equal(415, (int)refused.StatusCode);
        Assert.Contains("Content-Encoding", await refused.Content.ReadAsStringAsync(Stop), StringComparison.Ordinal);
        Assert.Equal((404, "not_found"), await Code("/v1/nothing", Chat));
        using var get = await tiny.Http.GetAsync(new Uri("/v1/chat/completions", UriKind.Relative), Stop);
        Assert.Equal((405, "POST"), ((int)get.StatusCode, string.Join(',', get.Content.Headers.Allow)));
        Assert.Equal((405, "not_a_reward_model"), await Code("/v1/score/evaluation", """{"model":"kt-tiny","messages":["a"]}"""));
        Assert.Equal((404, "model_not_found"), await Code("/v1/score/evaluation", """{"model":"x","messages":["a"]}"""));
        Assert.Equal((403, "not_allowed"), await Code("/v1/load_lora_adapter", """{"lora_name":"a","lora_path":"/etc"}"""));
        using var large = new StringContent("{\"model\":\"" + new string('x', 5 << 20) + "\"}", Encoding.UTF8, "application/json");
        using var once = tiny.Client(TinyServer.Key); // whose connection ends with it
        using var tooLarge = await once.PostAsync(new Uri("/v1/chat/completions", UriKind.Relative), large, Stop);
        Assert.Equal(413, (int)tooLarge.StatusCode);
        Assert.Equal((400, "context_length_exceeded"), await Code("/v1/completions",
            JsonSerializer.Serialize(new { model = "kt-tiny", prompt = Enumerable.Repeat(5, 2000) })));
    }

    [Fact]
    public async Task A_request_has_an_id_and_its_text_stays_out_of_the_log()
    {
        using var client = tiny.Client(TinyServer.Key);
        client.DefaultRequestHeaders.Add("x-request-id", "mine-7");
        using var content = new StringContent(Chat.Replace("hi", "a secret thing", StringComparison.Ordinal), Encoding.UTF8, "application/json");
        using var answer = await client.PostAsync(new Uri("/v1/chat/completions", UriKind.Relative), content, Stop);
        Assert.Equal("mine-7", answer.Headers.GetValues("x-request-id").Single());
        await Until(() => tiny.Log.All.Any(l => l.Contains("mine-7 200", StringComparison.Ordinal)));
        Assert.DoesNotContain(tiny.Log.All, l => l.Contains("secret", StringComparison.Ordinal));
    }

    /// <summary>Clients that vanish in the middle, as after kill -9, leave nothing behind.</summary>
    [Fact]
    public async Task Clients_that_go_free_their_places()
    {
        const string Long = """{"model":"kt-tiny","max_tokens":900,"stream":true,"logit_bias":{"1":-100},"messages":[{"role":"user","content":"count"}]}""";
        List<Socket> sockets = [];
        for (var i = 0; i < 20; i++) sockets.Add(await Send(Long));
        await Until(() => tiny.Engine.Active >= 20);
        foreach (var socket in sockets) socket.Close(0); // no goodbye
        await Until(() => tiny.Engine.Active == 0);
        // Half closed: it asks and will send no more, but reads on.
        using var half = await Send(Chat);
        half.Shutdown(SocketShutdown.Send);
        // A header that never ends, and a body that does not come: neither holds up anyone.
        using var mute = await Send(Chat, announced: 10_000);
        Assert.Equal(200, await Status(tiny.Http, Chat));
        Assert.Equal(0, tiny.Engine.Waiting);
    }

    /// <summary>A stream that nobody reads is computed and waits; others are answered meanwhile.</summary>
    [Fact]
    public async Task A_slow_reader_holds_up_nobody()
    {
        using var slow = await Send("""
            {"model":"kt-tiny","max_tokens":500,"stream":true,"logit_bias":{"1":-100},"messages":[{"role":"user","content":"count"}]}
            """);
        for (var i = 0; i < 5; i++) Assert.Equal(200, await Status(tiny.Http, Chat));
    }

    [Fact]
    public async Task Two_hundred_clients_at_once_are_all_answered_or_told_to_come_back()
    {
        var answers = await Task.WhenAll(Enumerable.Range(0, 200).Select(async i =>
        {
            using var client = tiny.Client(TinyServer.Key);
            return await Status(client, Chat);
        }));
        Assert.All(answers, status => Assert.Contains(status, (int[])[200, 429]));
        Assert.True(answers.Count(s => s == 200) >= 150);
    }

    [Fact]
    public async Task A_full_line_is_told_and_the_end_answers_what_is_there()
    {
        using var engine = new ModelEngine(tiny.Engine.Model, tiny.Engine.Tokenizer, tiny.Engine.Template, new EngineSettings { Slots = 1, Waiting = 1 });
        await using var server = await ApiServer.StartAsync(engine, new ApiSettings { Port = 0 }, tiny.Log);
        using var client = new HttpClient { BaseAddress = server.Url };
        const string Long = """{"model":"base","max_tokens":300,"logit_bias":{"1":-100},"messages":[{"role":"user","content":"count"}]}""";
        var first = Status(client, Long);
        await Until(() => engine.Running == 1);
        var second = Status(client, Long);
        await Until(() => engine.Waiting == 1);
        Assert.Equal(429, await Status(client, Long));
        var stopping = server.StopAsync();
        await Until(() => engine.IsDraining);
        Assert.Equal(400, (await Task.WhenAll(first, second)).Sum());
        await stopping;
    }

    [Fact]
    public async Task An_answer_that_takes_too_long_is_ended()
    {
        await using var server = await ApiServer.StartAsync(tiny.Engine, new ApiSettings { Port = 0, Timeout = TimeSpan.FromMilliseconds(300) }, tiny.Log);
        using var client = new HttpClient { BaseAddress = server.Url };
        const string Long = """{"model":"kt-tiny","n":16,"max_tokens":900,"logit_bias":{"1":-100},"messages":[{"role":"user","content":"count"}]}""";
        Assert.Equal(504, await Status(client, Long));
        await Until(() => tiny.Engine.Active == 0);
    }

    private static readonly (string Path, string Body)[] Bodies =
    [
        ("/v1/chat/completions", """
            {"model":"kt-tiny","max_tokens":2,"temperature":0.5,"stop":["x"],"logit_bias":{"7":1},"seed":1,"logprobs":true,"top_logprobs":2,
            "response_format":{"type":"json_schema","json_schema":{"name":"a","schema":{"type":"object","properties":{"b":{"type":"integer"}}}}},
            "messages":[{"role":"system","content":"s"},{"role":"user","content":[{"type":"text","text":"ü"}]}]}
            """),
        ("/v1/chat/completions", """
            {"model":"kt-tiny","max_tokens":2,"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{}}}}],
            "messages":[{"role":"user","content":"x"},{"role":"assistant","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]},
            {"role":"tool","tool_call_id":"1","content":"y"}]}
            """),
        ("/v1/completions", """{"model":"kt-tiny","prompt":["a",[1,2,3]],"max_tokens":2,"echo":true}"""),
        ("/v1/responses", """{"model":"kt-tiny","max_output_tokens":2,"input":[{"role":"user","content":[{"type":"input_text","text":"x"}]}]}"""),
        ("/v1/messages", """{"model":"kt-tiny","max_tokens":2,"system":[{"type":"text","text":"s"}],"messages":[{"role":"user","content":"x"}]}"""),
        ("/v1/messages/count_tokens", """{"model":"kt-tiny","messages":[{"role":"user","content":"x"}]}"""),
        ("/tokenize", """{"model":"kt-tiny","prompt":"abc","return_token_strs":true}"""),
        ("/detokenize", """{"tokens":[1,2,3]}"""),
    ];

    private static readonly string[] Strange = ["null", "-1e400", "\"\\ud800\"", "{}", "[[[[", "99999999999999999999", "\u2028"],
        Values = ["\"kt-tiny\"", "2", "\"x\"", "true", "\"user\""], OtherValues = ["null", "{}", "[]", "-5", "\"\"", "1e308"],
        Names = ["model", "max_tokens", "messages", "prompt", "content", "role", "type"];

    /// <summary>Cuts, doubles, swaps, or puts in what JSON's readers stumble over.</summary>
    private static byte[] Mangle(byte[] body, Random random)
    {
        var bytes = body.ToList();
        for (var n = random.Next(1, 4); n > 0; n--)
        {
            var at = random.Next(bytes.Count);
            switch (random.Next(8))
            {
                case 0: bytes.RemoveRange(at, Math.Min(bytes.Count - at - (bytes.Count > 2 ? 1 : 0), random.Next(1, 20))); break;
                case 1: bytes[at] = (byte)random.Next(256); break;
                case 2: bytes.InsertRange(at, bytes.GetRange(at, Math.Min(bytes.Count - at, random.Next(1, 30)))); break;
                case 3: bytes.InsertRange(at, Encoding.UTF8.GetBytes(Pick(random, Strange))); break;
                case 4: Replace(bytes, Pick(random, Values), Pick(random, OtherValues), random); break;
                case 5: Replace(bytes, Pick(random, Names), Pick(random, "modle", "stream", "x", ""), random); break;
                case 6: bytes.InsertRange(0, Encoding.UTF8.GetBytes(new string('[', random.Next(1, 200)))); break;
                default: bytes.Reverse(at, Math.Min(bytes.Count - at, random.Next(2, 10))); break;
            }
            if (bytes.Count == 0) bytes.Add((byte)'{');
        }
        return [.. bytes];
    }

    private static string Pick(Random random, params string[] all) => all[random.Next(all.Length)];

    private static void Replace(List<byte> bytes, string what, string with, Random random)
    {
        var text = Encoding.Latin1.GetString([.. bytes]);
        int[] places = [.. Enumerable.Range(0, text.Length).Where(i => text.AsSpan(i).StartsWith(what))];
        if (places.Length == 0) return;
        var at = places[random.Next(places.Length)];
        bytes.RemoveRange(at, what.Length);
        bytes.InsertRange(at, Encoding.UTF8.GetBytes(with));
    }

    /// <summary>A request over a bare socket, of which nothing is read.</summary>
    private async Task<Socket> Send(string body, int? announced = null)
    {
        var socket = new Socket(SocketType.Stream, ProtocolType.Tcp) { ReceiveBufferSize = 4096 };
        await socket.ConnectAsync("127.0.0.1", tiny.Server.Url.Port, Stop);
        await socket.SendAsync(Encoding.UTF8.GetBytes($"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TinyServer.Key}\r\n"
            + $"Content-Type: application/json\r\nContent-Length: {announced ?? Encoding.UTF8.GetByteCount(body)}\r\n\r\n{body}"), Stop);
        return socket;
    }

    private static async Task<int> Status(HttpClient client, string body)
    {
        using var content = new StringContent(body, Encoding.UTF8, "application/json");
        using var answer = await client.PostAsync(new Uri("/v1/chat/completions", UriKind.Relative), content, Stop);
        return (int)answer.StatusCode;
    }

    private async Task<(int, string?)> Code(string path, string body)
    {
        var (status, answer) = await tiny.Post(path, body);
        return (status, (string?)answer!["error"]!["code"]);
    }

    private static async Task Until(Func<bool> so)
    {
        for (var i = 0; i < 3000 && !so(); i++) await Task.Delay(10, Stop);
        Assert.True(so());
    }
}
