using System.Diagnostics;
using System.Net.Http.Headers;
using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Autograd;
using KtNotebooks.Configuration;
using KtNotebooks.Evaluation;
using KtNotebooks.Generation;
using KtNotebooks.Lora;
using KtNotebooks.Nn;
using KtNotebooks.Server;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Training;
using KtNotebooks.Weights;

using Microsoft.Extensions.AI;
using Microsoft.Extensions.DependencyInjection;

using OpenTelemetry;
using OpenTelemetry.Metrics;
using OpenTelemetry.Trace;

using Xunit;

namespace KtNotebooks.Tests.Server;

/// <summary>Base and adapters in one batch, adapters that come and go, an application of one's own with its exporters, and predictions by URL.</summary>
public sealed class ServedAdapterTests(ServedAdapterTests.Two two) : IClassFixture<ServedAdapterTests.Two>
{
    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    [Fact]
    public async Task A_text_is_the_same_alone_and_among_others_of_every_adapter()
    {
        string[] models = ["kt-tiny", "cat"];
        var alone = new string[12];
        for (var i = 0; i < alone.Length; i++) alone[i] = await two.Say(models[i % 2], i);
        await two.Engine.ForgetPromptsAsync();
        // A long prompt comes in pieces meanwhile.
        var together = await Task.WhenAll(Enumerable.Range(0, alone.Length).Select(i => two.Say(models[i % 2], i)).Append(two.Say("kt-tiny", 99, words: 60)));
        Assert.Equal(alone, together[..^1]);
        Assert.NotEqual(alone[0], await two.Say("cat", 0));
    }

    /// <summary>api_model_name is one more name for the first adapter of the config, wherever its own name stands in the alphabet.</summary>
    [Fact]
    public void The_config_s_name_means_its_first_adapter()
    {
        var (cat, dog) = (Path.Combine(two.Folder, "cat"), Path.Combine(two.Folder, "dog"));
        foreach (var (adapters, first) in ((string, string)[])[($"{cat},{dog}", "cat"), ($"{dog},{cat}", "dog")])
        {
            using var engine = ModelEngine.Open($"model_name_or_path={Path.Combine(Checkout.Root, "notebooks/models/kt-tiny")}", "template=deepseek",
                "infer_dtype=float32", $"adapter_name_or_path={adapters}", "api_model_name=mine");
            Assert.Equal(first, engine.Find("mine").Adapter);
        }
    }

    /// <summary>"cat" has a value head beside its adapter: last normed state · w + b.</summary>
    [Fact]
    public async Task A_reward_model_scores_texts_while_others_are_answered()
    {
        string[] texts = ["one", "a second text, longer than the first", string.Join(' ', Enumerable.Range(0, 90))];
        var alone = await two.Say("kt-tiny", 5);
        await two.Engine.ForgetPromptsAsync();
        var said = two.Say("kt-tiny", 5);
        var json = JsonSerializer.Serialize(new { model = "cat", messages = texts });
        var scores = await two.Scores(json);
        Assert.Equal(alone, await said);
        for (var i = 0; i < texts.Length; i++) Assert.Equal(two.Value(two.Engine.Tokenizer.Encode(texts[i], true)), scores[i], 1e-4);
        Assert.NotEqual(scores[0], scores[1], 1e-3);
        var cut = await two.Scores(JsonSerializer.Serialize(new { model = "cat", messages = texts[^1..], max_length = 20 }));
        Assert.Equal(two.Value(two.Engine.Tokenizer.Encode(texts[^1], true)[..20]), cut[0], 1e-4);
        Assert.Equal((405, "not_a_reward_model"), await two.Post("/v1/score/evaluation", """{"model":"kt-tiny","messages":["a"]}"""));
        Assert.Equal((400, "invalid_value"), await two.Post("/v1/score/evaluation", """{"model":"cat","messages":[{"role":"user"}]}"""));
        Assert.Equal((400, "invalid_value"), await two.Post("/v1/score/evaluation", """{"model":"cat","messages":[]}"""));
    }

    [Fact]
    public async Task Adapters_come_and_go_by_their_names_alone()
    {
        Assert.Equal(["kt-tiny", "cat"], await two.Models());
        Assert.Equal((404, "adapter_not_found"), await two.Post("/v1/load_lora_adapter", """{"lora_name":"x","lora_path":"../../etc"}"""));
        Assert.Equal((400, "name_taken"), await two.Post("/v1/load_lora_adapter", """{"lora_name":"cat","lora_path":"dog"}"""));
        Assert.Equal((200, null), await two.Post("/v1/load_lora_adapter", """{"lora_name":"dog","lora_path":"dog"}"""));
        Assert.Equal(["kt-tiny", "cat", "dog"], await two.Models());
        var barked = await two.Say("dog", 0);
        Assert.NotEqual(await two.Say("cat", 0), barked);
        // A request that is being answered is answered; the next finds no such model.
        var last = two.Say("dog", 1, tokens: 200);
        while (two.Engine.Find("dog").Active == 0 && !last.IsCompleted) await Task.Delay(1, Stop);
        Assert.Equal((200, null), await two.Post("/v1/unload_lora_adapter", """{"lora_name":"dog"}"""));
        Assert.True(last.IsCompleted);
        Assert.NotEmpty(await last);
        Assert.Equal((404, "model_not_found"), await two.Post("/v1/unload_lora_adapter", """{"lora_name":"dog"}"""));
        Assert.Equal((400, "invalid_value"), await two.Post("/v1/unload_lora_adapter", """{"lora_name":"kt-tiny"}"""));
        Assert.Equal((200, null), await two.Post("/v1/load_lora_adapter", """{"lora_name":"dog","lora_path":"dog"}"""));
        Assert.Equal(barked, await two.Say("dog", 0));
        Assert.Equal((200, null), await two.Post("/v1/unload_lora_adapter", """{"lora_name":"dog"}"""));
    }

    /// <summary>The client learns that it does not fit, and whoever runs the server why.</summary>
    [Fact]
    public async Task Why_an_adapter_is_not_loaded_stands_in_the_log()
    {
        var broken = Directory.CreateDirectory(Path.Combine(two.Folder, "broken"));
        try
        {
            File.Copy(Path.Combine(two.Folder, "dog", "adapter_config.json"), Path.Combine(broken.FullName, "adapter_config.json"));
            File.WriteAllText(Path.Combine(broken.FullName, "adapter_model.safetensors"), "no tensors");
            Assert.Equal((400, "adapter_not_loadable"), await two.Post("/v1/load_lora_adapter", """{"lora_name":"b","lora_path":"broken"}"""));
            Assert.Contains(two.Log, line => line.StartsWith("Warning", StringComparison.Ordinal)
                && line.Contains(Path.Combine("broken", "adapter_model.safetensors"), StringComparison.Ordinal));
        }
        finally
        {
            broken.Delete(recursive: true);
        }
    }

    [Theory]
    [InlineData("api_key", "", "a key that clients send; left out, everyone is served")]
    [InlineData("api_key", "\"\"", "a key that clients send; left out, everyone is served")]
    [InlineData("api_port", "70000", "from 0 to 65535")]
    public void A_setting_that_cannot_be_meant_is_refused_at_start(string key, string value, string wanted) => Assert.Contains($"'{key}' must be {wanted}",
        Assert.Throws<ArgumentException>(() => ServerKeys.ReadApi(KtNotebooks.Configuration.Settings.Read([$"{key}={value}"]))).Message,
        StringComparison.Ordinal);

    [Fact]
    public async Task A_reward_model_that_is_loaded_brings_its_value_head()
    {
        const string Ask = """{"model":"MODEL","messages":["hello","a longer text"]}""";
        Assert.Equal((200, null), await two.Post("/v1/load_lora_adapter", """{"lora_name":"judge","lora_path":"cat"}"""));
        var (status, judged) = await two.Send("/v1/score/evaluation", Ask.Replace("MODEL", "judge", StringComparison.Ordinal));
        Assert.Equal(200, status);
        Assert.Equal(await two.Scores(Ask.Replace("MODEL", "cat", StringComparison.Ordinal)),
            JsonNode.Parse(judged)!["scores"]!.AsArray().Select(s => (double)s!));
        Assert.Equal((200, null), await two.Post("/v1/unload_lora_adapter", """{"lora_name":"judge"}"""));
        Assert.Equal((405, "not_a_reward_model"), await two.Post("/v1/score/evaluation", Ask.Replace("MODEL", "kt-tiny", StringComparison.Ordinal)));
    }

    /// <summary>In an order, without a clock: a load is held up in its file, an unload waits for its last request, and streams come to their end.</summary>
    [Fact]
    public async Task A_stream_does_not_wait_for_adapters_that_come_or_go()
    {
        var stream = await two.Stream("kt-tiny");
        TaskCompletionSource reads = new(TaskCreationOptions.RunContinuationsAsynchronously);
        using var goOn = new ManualResetEventSlim();
        var stop = Stop; // the test's own, whatever thread asks
        two.Engine.Adapters.Reads = _ =>
        {
            reads.TrySetResult();
            goOn.Wait(stop);
        };
        try
        {
            var load = two.Post("/v1/load_lora_adapter", """{"lora_name":"slow","lora_path":"dog"}""");
            await reads.Task.WaitAsync(Stop);
            if (two.Engine.Running == 0) stream = await two.Stream("kt-tiny"); // the first was quick
            await stream.ReadToEnd(); // its last tokens were computed while the load stood still
            Assert.False(load.IsCompleted);
            goOn.Set();
            Assert.Equal((200, null), await load);
        }
        finally
        {
            goOn.Set();
            two.Engine.Adapters.Reads = null;
        }
        var slow = two.Engine.Find("slow");
        slow.Enter(); // a request that is being answered
        var unload = two.Post("/v1/unload_lora_adapter", """{"lora_name":"slow"}""");
        while ((await two.Models()).Contains("slow")) await Task.Delay(1, Stop);
        await (await two.Stream("kt-tiny")).ReadToEnd();
        Assert.False(unload.IsCompleted);
        slow.Leave();
        Assert.Equal((200, null), await unload);
    }

    [Fact]
    public async Task Traces_and_metrics_have_the_names_of_OpenTelemetry_and_no_texts()
    {
        List<Activity> traces = [];
        List<Metric> metrics = [];
        using (var tracing = Sdk.CreateTracerProviderBuilder().AddSource(EngineTelemetry.Name).SetSampler(new AlwaysOnSampler())
            .AddInMemoryExporter(traces).Build())
        using (var metering = Sdk.CreateMeterProviderBuilder().AddMeter(EngineTelemetry.Name).AddInMemoryExporter(metrics).Build())
        {
            _ = await two.Say("cat", 5);
            while (two.Engine.Active > 0) await Task.Delay(1, Stop);
            await Task.Delay(50, Stop); // a request is counted when its answer has gone out
            tracing.ForceFlush();
            metering.ForceFlush();
        }
        var trace = traces.Single(t => t.DisplayName == "chat cat");
        var tags = trace.TagObjects.ToDictionary(t => t.Key, t => t.Value);
        Assert.Equal("chat", tags["gen_ai.operation.name"]);
        Assert.Equal("cat", tags["gen_ai.request.model"]);
        Assert.True((int)tags["gen_ai.usage.input_tokens"]! > 0 && (int)tags["gen_ai.usage.output_tokens"]! > 0);
        Assert.DoesNotContain(tags.Values, v => v?.ToString()?.Contains("question", StringComparison.Ordinal) == true);
        Assert.Subset(metrics.Select(m => m.Name).ToHashSet(), new HashSet<string>
        {
            "gen_ai.server.request.duration", "gen_ai.server.time_to_first_token", "gen_ai.server.time_per_output_token", "kt.tokens.output",
        });
        var text = await two.Http.GetStringAsync(new Uri("/metrics", UriKind.Relative), Stop);
        Assert.Matches(@"gen_ai_server_request_duration_seconds_bucket\{.*gen_ai_request_model=""cat"".*le=""\+Inf""\} [1-9]", text);
        Assert.Matches(@"kt_tokens_output_total\{.*\} [1-9]", text);
        Assert.Matches(@"\nkt_sequences_running 0\n", text);
    }

    [Fact]
    public async Task An_application_of_ones_own_has_the_engine_as_a_service()
    {
        var services = new ServiceCollection();
        services.AddKtNotebooks(_ => new ModelEngine(two.Engine.Model, two.Engine.Tokenizer, two.Engine.Template));
        await using var provider = services.BuildServiceProvider();
        var chat = provider.GetRequiredService<IChatClient>();
        Assert.Equal("ktnotebooks", chat.GetService<ChatClientMetadata>()!.ProviderName);
        Assert.NotEmpty((await chat.GetResponseAsync("hi", new ChatOptions { MaxOutputTokens = 4, ModelId = "cat" }, Stop)).Text);
    }

    [Fact]
    public void Predictions_by_URL_have_the_files_and_scores_of_any_others()
    {
        using var folder = new Samples.Folder();
        File.WriteAllText(Path.Combine(folder.Path, "dataset_info.json"), """{"mine":{"file_name":"mine.json"},"quiz":{"file_name":"quiz.json"}}""");
        File.WriteAllText(Path.Combine(folder.Path, "mine.json"), "[" + string.Join(',', Enumerable.Range(0, 9).Select(i =>
            $$"""{"instruction":"question {{i}}","input":"","output":"answer {{i}}"}""")) + "]");
        File.WriteAllText(Path.Combine(folder.Path, "quiz.json"), """[{"instruction":"Which?\nA. one\nB. two","input":"","output":"B"}]""");
        string[] Arguments(string set, string output) => [$"api_base={two.Server.Url}v1", "api_model_name=cat", $"dataset_dir={folder.Path}",
            $"eval_dataset={set}", $"output_dir={Path.Combine(folder.Path, output)}", "do_sample=false", "max_new_tokens=6"];
        using (var run = RemoteRun.Open(Arguments("mine", "out"), evaluates: false, Stop)!)
        {
            var result = run.Run(Stop);
            Assert.Equal((9, 9, false), (result.Done, result.Generated, result.Interrupted));
        }
        var file = Path.Combine(folder.Path, "out", Predictions.FileName);
        var whole = File.ReadAllText(file);
        Assert.Equal("answer 3", Predictions.Read(file)[3].Label);
        // A killed run goes on with what is missing, to the same file.
        File.WriteAllLines(file, whole.Split('\n', StringSplitOptions.RemoveEmptyEntries)[..4]);
        using (var again = RemoteRun.Open(Arguments("mine", "out"), evaluates: false, Stop)!) Assert.Equal(5, again.Run(Stop).Generated);
        Assert.Equal(whole, File.ReadAllText(file));
        using (var quiz = RemoteRun.Open(Arguments("quiz", "quiz"), evaluates: true, Stop)!) Assert.Equal((1, 0.5), (quiz.Evaluate(Stop).Rows, 0.5));
        Assert.Contains("is no question of multiple choice", Assert.Throws<ArgumentException>(() => RemoteRun.Open(Arguments("mine", "x"), evaluates: true,
            Stop)).Message, StringComparison.Ordinal);
        string[] unknown = [.. Arguments("mine", "y"), "api_model_name=nobody"];
        Assert.Contains("top_k", Assert.ThrowsAny<ArgumentException>(() =>
        {
            using var other = RemoteRun.Open([.. Arguments("mine", "out"), "top_k=7"], evaluates: false, Stop)!;
            other.Run(Stop);
        }).Message, StringComparison.Ordinal);
        using var wrong = RemoteRun.Open(unknown, evaluates: false, Stop)!;
        Assert.Matches("row [1-9]: the server said 404: the model 'nobody' is not served here; there are kt-tiny, cat",
            Assert.ThrowsAny<InvalidOperationException>(() => wrong.Run(Stop)).Message);
    }

    /// <summary>kt-tiny with an adapter that is served, and one that may be loaded.</summary>
    public sealed class Two : IAsyncLifetime
    {
        private const int Width = 256; // of kt-tiny

        private readonly Samples.Folder _folder = new();
        private readonly TinyServer.LogLines _log = new();

        /// <summary>Of the adapters cat and dog.</summary>
        public string Folder => _folder.Path;

        public ModelEngine Engine { get; private set; } = null!;

        public ApiServer Server { get; private set; } = null!;

        public HttpClient Http { get; private set; } = null!;

        public IReadOnlyList<string> Log => _log.All;

        public async ValueTask InitializeAsync()
        {
            string[] model = [$"model_name_or_path={Path.Combine(Checkout.Root, "notebooks/models/kt-tiny")}", "template=deepseek", "infer_dtype=float32"];
            foreach (var (name, seed) in ((string, int)[])[("cat", 1), ("dog", 2)]) Make(model, Path.Combine(_folder.Path, name), seed);
            using (var weight = Tensor.From([.. Enumerable.Range(0, Width).Select(Weight)], 1, Width))
            using (var bias = Tensor.From([0.25f], 1))
                SafetensorsWriter.Write(Path.Combine(_folder.Path, "cat", RewardAdaptation.FileName),
                    [(ValueHead.WeightName, weight), (ValueHead.BiasName, bias)]);
            Engine = ModelEngine.Open([.. model, $"adapter_name_or_path={Path.Combine(_folder.Path, "cat")}", $"api_adapter_folders={_folder.Path}",
                "api_prompt_rows=64"]);
            Server = await ApiServer.StartAsync(Engine, new ApiSettings { Port = 0 }, _log);
            Http = new HttpClient { BaseAddress = Server.Url };
        }

        public async ValueTask DisposeAsync()
        {
            Http.Dispose();
            await Server.DisposeAsync();
            Engine.Dispose();
            _log.Dispose();
            _folder.Dispose();
        }

        /// <summary>The definition.</summary>
        public double Value(int[] ids)
        {
            using var tape = Tape.Scratch();
            var batch = TokenBatch.ForInference([ids]);
            var hidden = Engine.Model.Norm.Forward(Engine.Model.Hidden(batch, Pass.Inference(batch, adapter: "cat")));
            return 0.25 + hidden.ToFloats()[^Width..].Select((h, i) => (double)h * Weight(i)).Sum();
        }

        public async Task<double[]> Scores(string json)
        {
            var (status, body) = await Send("/v1/score/evaluation", json);
            Assert.Equal(200, status);
            var answer = JsonNode.Parse(body)!;
            Assert.Equal(("score.evaluation", "cat"), ((string?)answer["object"], (string?)answer["model"]));
            return [.. answer["scores"]!.AsArray().Select(s => (double)s!)];
        }

        private static float Weight(int i) => (((i * 7) % 11) - 5) / 20f;

        public async Task<string> Say(string model, int number, int words = 1, int tokens = 16)
        {
            var (_, body) = await Send("/v1/chat/completions", new JsonObject
            {
                ["model"] = model,
                ["max_tokens"] = tokens,
                ["seed"] = number,
                ["temperature"] = 1,
                ["messages"] = new JsonArray(new JsonObject
                {
                    ["role"] = "user",
                    ["content"] = string.Join(' ', Enumerable.Range(0, words).Select(w => $"question {number} {w}")),
                }),
            }.ToJsonString());
            return (string)JsonNode.Parse(body)!["choices"]![0]!["message"]!["content"]!;
        }

        /// <summary>A long stream, of which the first token is there.</summary>
        public async Task<Events> Stream(string model)
        {
            using var content = new StringContent($$"""
                {"model":"{{model}}","max_tokens":900,"stream":true,"temperature":0,"logit_bias":{"1":-100},"messages":[{"role":"user","content":"count"}]}
                """, new MediaTypeHeaderValue("application/json"));
            using var ask = new HttpRequestMessage(HttpMethod.Post, new Uri("/v1/chat/completions", UriKind.Relative)) { Content = content };
            var answer = await Http.SendAsync(ask, HttpCompletionOption.ResponseHeadersRead, Stop);
            var events = new Events(answer, new StreamReader(await answer.Content.ReadAsStreamAsync(Stop)));
            await events.Read("\"content\":\"");
            return events;
        }

        /// <summary>Events of a stream as they come.</summary>
        public sealed class Events(HttpResponseMessage answer, StreamReader reader)
        {
            /// <summary>Up to an event that holds this.</summary>
            public async Task Read(string text)
            {
                while (!(await reader.ReadLineAsync(Stop) ?? throw new InvalidOperationException($"the stream ended without {text}"))
                    .Contains(text, StringComparison.Ordinal))
                {
                }
            }

            public async Task ReadToEnd()
            {
                await Read("[DONE]").WaitAsync(TimeSpan.FromSeconds(60), Stop); // it hangs where it waits for what waits for it
                reader.Dispose();
                answer.Dispose();
            }
        }

        public async Task<(int, string?)> Post(string path, string json)
        {
            var (status, body) = await Send(path, json);
            return (status, status == 200 ? null : (string?)JsonNode.Parse(body)!["error"]!["code"]);
        }

        public async Task<string[]> Models() =>
            [.. JsonNode.Parse(await Http.GetStringAsync(new Uri("/v1/models", UriKind.Relative), Stop))!["data"]!.AsArray().Select(m => (string)m!["id"]!)];

        public async Task<(int Status, string Body)> Send(string path, string json)
        {
            using var content = new StringContent(json, new MediaTypeHeaderValue("application/json"));
            using var answer = await Http.PostAsync(new Uri(path, UriKind.Relative), content, Stop);
            return ((int)answer.StatusCode, await answer.Content.ReadAsStringAsync(Stop));
        }

        private static void Make(string[] model, string folder, int seed)
        {
            var (loaded, _) = ModelKeys.Read(Settings.Read(model)).Load();
            using (loaded)
            {
                var settings = new LoraSettings(4, Experts: true);
                LoraAdapter.Attach(loaded, settings, (ulong)seed);
                var random = new Random(seed);
                foreach (var (_, tensor) in loaded.AllTrainable)
                    tensor.Store([.. Enumerable.Range(0, (int)tensor.Count).Select(_ => (random.NextSingle() - 0.5f) * 0.8f)]);
                AdapterFolder.Save(loaded, settings, folder, null);
            }
        }
    }
}
