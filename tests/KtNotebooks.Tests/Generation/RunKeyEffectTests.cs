using KtNotebooks.Configuration;
using KtNotebooks.Evaluation;
using KtNotebooks.Generation;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Cli;

using Xunit;

namespace KtNotebooks.Tests.Generation;

/// <summary>
/// Every key of kt chat, kt predict and kt export that the table calls acting reaches what it is for: with another value the answer, the predictions or the
/// exported folder are others, or an unwanted value is refused.
/// </summary>
[Collection(Alone.Name)]
public class RunKeyEffectTests(Workplace place) : IClassFixture<Workplace>
{
    /// <summary>Keys that decide what is said, with a value other than the run's, and what must be given with both.</summary>
    private static readonly Dictionary<string, (string Value, string[] With)> Said = new()
    {
        ["template"] = ("empty", []),
        ["default_system"] = ("Answer.", []),
        ["do_sample"] = ("false", []),
        ["temperature"] = ("0.1", []),
        ["top_p"] = ("0.05", []),
        ["top_k"] = ("1", []),
        ["max_new_tokens"] = ("3", []),
        ["repetition_penalty"] = ("9", []),
        ["seed"] = ("7", []),
    };

    /// <summary>Keys of the rows that predictions are made for.</summary>
    private static readonly Dictionary<string, (string Value, string[] With)> Rows = new()
    {
        ["eval_dataset"] = ("short", []),
        ["dataset_dir"] = ("OTHER", []),
        ["dataset"] = ("short", ["dataset=good", "val_size=0.4"]),
        ["val_size"] = ("0.8", ["dataset=good", "val_size=0.4"]),
        ["max_samples"] = ("3", []),
        ["cutoff_len"] = ("12", []),
        ["tool_format"] = ("qwen", ["eval_dataset=tools", "cutoff_len=200"]),
    };

    /// <summary>Keys whose other values are refused, with such a value.</summary>
    private static readonly Dictionary<string, string> Refused = new()
    {
        ["finetuning_type"] = "oft",
        ["infer_backend"] = "vllm",
        ["stage"] = "dpo",
        ["use_kt"] = "maybe",
        ["do_predict"] = "maybe",
        ["do_eval"] = "maybe",
        ["predict_with_generate"] = "maybe",
    };

    /// <summary>Keys with tests of their own.</summary>
    private static readonly Dictionary<string, string> Elsewhere = new()
    {
        ["enable_thinking"] = nameof(Thinking_reaches_the_prompt),
        ["infer_dtype"] = nameof(Weights_have_the_type_that_is_asked_for),
        ["per_device_eval_batch_size"] = nameof(So_many_rows_are_in_work),
        ["overwrite_output_dir"] = nameof(Finished_predictions_stay_unless_they_are_to_be_overwritten),
        ["output_dir"] = nameof(Finished_predictions_stay_unless_they_are_to_be_overwritten),
        ["export_dir"] = nameof(An_export_has_files_of_the_size_that_is_asked_for),
        ["export_size"] = nameof(An_export_has_files_of_the_size_that_is_asked_for),
        ["export_dtype"] = "AdapterExportTests",
        ["model_name_or_path"] = "HubCacheTests, and every test here",
        ["cache_dir"] = "HubCacheTests",
        ["model_revision"] = "HubCacheTests",
        ["adapter_name_or_path"] = "PredictAdapterTests, AdapterExportTests",
        ["log_level"] = "AdapterLogTests",
        ["api_base"] = "RemoteKeysTests, ServedAdapterTests",
        ["api_model_name"] = "RemoteKeysTests, ServedAdapterTests",
        ["api_key"] = "RemoteKeysTests",
        ["api_concurrency"] = "RemoteKeysTests",
    };

    public static TheoryData<string> SaidKeys => [.. Said.Keys];

    public static TheoryData<string> RowKeys => [.. Rows.Keys];

    public static TheoryData<string> RefusedKeys => [.. Refused.Keys];

    [Theory]
    [InlineData(KeyUse.Chat)]
    [InlineData(KeyUse.Predict)]
    [InlineData(KeyUse.Export)]
    public void No_acting_key_is_without_a_test(KeyUse use)
    {
        // Where weights live is the same record for every command that runs a model: its own tests ask it, and KeyEffectTests.
        string[] placed = ["ktransformers", "own"];
        var open = Keys.All.Where(k => k.Effect == KeyEffect.Acts && k.Uses.HasFlag(use) && !placed.Contains(k.Group)).Select(k => k.Name)
            .Where(n => !Said.ContainsKey(n) && !Rows.ContainsKey(n) && !Refused.ContainsKey(n) && !Elsewhere.ContainsKey(n)
                && n is not ("use_cpu" or "no_cuda"));
        Assert.Empty(open);
    }

    [Theory]
    [MemberData(nameof(SaidKeys))]
    public void A_chat_s_answer_depends_on_it(string key)
    {
        var (value, with) = Said[key];
        Assert.NotEqual(Answer(with), Answer([.. with, $"{key}={value}"]));
    }

    [Theory]
    [MemberData(nameof(SaidKeys))]
    [MemberData(nameof(RowKeys))]
    public void Predictions_depend_on_it(string key)
    {
        var (value, with) = Said.TryGetValue(key, out var said) ? said : Rows[key];
        if (key == "dataset_dir") value = Other();
        Assert.NotEqual(Predicted(with), Predicted([.. with, $"{key}={value}"]));
    }

    [Fact]
    public void The_same_says_the_same()
    {
        Assert.Equal(Answer([]), Answer([]));
        Assert.Equal(Predicted([]), Predicted([]));
    }

    [Theory]
    [MemberData(nameof(RefusedKeys))]
    public void Another_value_is_refused_by_name(string key)
    {
        foreach (var use in new[] { KeyUse.Chat, KeyUse.Predict, KeyUse.Export }.Where(u => Keys.Find(key)!.Uses.HasFlag(u)))
        {
            string[] first = use == KeyUse.Export ? [$"model_name_or_path={place.Model}", $"export_dir={place.Root}/never"] : Base();
            string[] pairs = [.. first, $"{key}={Refused[key]}"];
            var line = Kt.Refuses([use.ToString().ToLowerInvariant(), .. use == KeyUse.Predict ? [.. Inputs(), .. pairs] : pairs]);
            Assert.Contains(key, line, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void Thinking_reaches_the_prompt()
    {
        string[] both = [.. Inputs(), .. Base(), "template=qwen3", $"output_dir={place.Output}"];
        foreach (var read in new Func<Settings, KtNotebooks.Data.Template>[]
            { c => ChatSession.ReadKeys(c).Model.Template, c => PredictSettings.Read(c).Model.Template })
        {
            var (on, off) = (read(Settings.Read(both)), read(Settings.Read([.. both, "enable_thinking=false"])));
            Assert.Equal((true, false), (on.EnableThinking, off.EnableThinking));
            KtNotebooks.Data.Message[] asked = [new(KtNotebooks.Data.Role.User, "Why?")];
            Assert.NotEqual(on.EncodePrompt(Tokenizers.Samples.Small, asked, null), off.EncodePrompt(Tokenizers.Samples.Small, asked, null));
        }
    }

    [Fact]
    public void Weights_have_the_type_that_is_asked_for()
    {
        foreach (var (value, type) in new[] { ("bfloat16", DType.BF16), ("float32", DType.F32) })
        {
            using var chat = ChatSession.Open([.. Base(), $"infer_dtype={value}"]);
            using var predict = PredictRun.Open([.. Inputs(), .. Base(), $"infer_dtype={value}", $"output_dir={place.Root}/{value}"]);
            foreach (var model in new[] { chat.Model, predict.Model })
                Assert.Equal(type, model.AllWeights.Single(w => w.Name == "model.layers.0.self_attn.o_proj.weight").Tensor.Type);
        }
    }

    [Fact]
    public void So_many_rows_are_in_work()
    {
        using var run = PredictRun.Open([.. Inputs(), .. Base(), "per_device_eval_batch_size=3", "max_samples=6", "max_new_tokens=2", "do_sample=false",
            $"output_dir={place.Root}/three"]);
        Assert.Equal(3, run.Settings.BatchSize);
        List<long> kept = [];
        run.OnProgress += p => kept.Add(p.Done);
        run.Run(TestContext.Current.CancellationToken);
        Assert.Equal([1, 2, 3, 4, 5, 6], kept);
    }

    [Fact]
    public void Finished_predictions_stay_unless_they_are_to_be_overwritten()
    {
        var output = $"{place.Root}/kept";
        string[] all = [.. Inputs(), .. Base(), $"output_dir={output}", "max_samples=2"];
        Predict(all);
        Assert.True(File.Exists(Path.Combine(output, Predictions.FileName)));
        Assert.Contains("max_new_tokens", Assert.Throws<ArgumentException>(() => Predict([.. all, "max_new_tokens=3"])).Message, StringComparison.Ordinal);
        Predict([.. all, "max_new_tokens=3", "overwrite_output_dir=true"]);
    }

    [Fact]
    public void An_export_has_files_of_the_size_that_is_asked_for()
    {
        foreach (var (size, several) in new[] { ("5", false), ("0.00005", true) })
        {
            var target = $"{place.Root}/export-{size}";
            var (exit, output, errors) = Kt.Run("export", $"model_name_or_path={place.Model}", $"export_dir={target}", $"export_size={size}");
            Assert.True(exit == 0, output + errors);
            Assert.Equal(several, Directory.GetFiles(target, "*.safetensors").Length > 1);
            Assert.True(File.Exists(Path.Combine(target, "tokenizer.json")));
        }
    }

    [Fact]
    public void Without_a_template_a_model_is_asked_for_one_or_brings_it()
    {
        using var own = new Workplace();
        string[] bare = [.. Base().Where(p => !p.StartsWith("template=", StringComparison.Ordinal)).Skip(1), $"model_name_or_path={own.Model}"];
        // A chat in a notebook is opened as kt chat opens it.
        Assert.Contains("'template' is required", Assert.Throws<ArgumentException>(() => ChatSession.Open(bare)).Message, StringComparison.Ordinal);
        File.WriteAllText(Path.Combine(own.Model, "chat_template.jinja"), "{{ '<|im_start|>' }}");
        Assert.Contains("The template 'qwen3_nothink' needs the token", Assert.Throws<InvalidDataException>(() => ChatSession.Open(bare)).Message,
            StringComparison.Ordinal); // it is that template's, and the tokenizer another's
        var refused = Assert.Throws<ArgumentException>(() => PredictRun.Open([.. Inputs(), .. bare, $"output_dir={own.Output}"]));
        Assert.Contains("brings a chat template", refused.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_bad_adapter_is_told_before_the_model_is_loaded()
    {
        var bad = Directory.CreateDirectory(Path.Combine(place.Root, "bad-adapter")).FullName;
        File.WriteAllText(Path.Combine(bad, "adapter_config.json"), "{}");
        var loads = 0;
        foreach (var open in new Action[]
        {
            () => ChatSession.Open(_ => loads++, [.. Base(), $"adapter_name_or_path={bad}"]).Dispose(),
            () => KtNotebooks.Training.FineTuneRun.Open(_ => loads++, [.. place.Train($"adapter_name_or_path={bad}")[1..]]).Dispose(),
        })
        {
            Assert.Contains(bad, Assert.ThrowsAny<Exception>(open).Message, StringComparison.Ordinal);
            Assert.Equal(0, loads);
        }
    }

    /// <summary>A notebook that runs the cell of its chat again frees the old chat, and goes on with the model.</summary>
    [Fact]
    public void A_chat_with_another_s_model_leaves_it_alone()
    {
        using var own = ChatSession.Open(Base());
        string Said()
        {
            using var chat = new ChatSession(own.Model, own.Tokenizer, own.Template, Sampling.Greedy(5));
            return chat.Answer("Why?", TestContext.Current.CancellationToken);
        }
        Assert.Equal(Said(), Said());
    }

    private string[] Base() => [$"model_name_or_path={place.Model}", "template=deepseek", "max_new_tokens=12", "temperature=2", "top_p=1", "top_k=0"];

    private string[] Inputs()
    {
        var folder = Path.Combine(place.Root, "sets");
        if (!Directory.Exists(folder))
        {
            place.Write("sets/good.json", File.ReadAllText(Path.Combine(place.Root, "data/good.json")));
            place.Write("sets/short.json", """[{"instruction": "Hello", "output": "Good"}, {"instruction": "Bye", "output": "So"}]""");
            place.Write("sets/tools.json",
                """[{"conversations": [{"from": "human", "value": "Add 1"}, {"from": "gpt", "value": "2"}], """
                    + """ "tools": "[{\"name\": \"add\", \"description\": \"adds\", \"parameters\": {\"type\": \"object\", \"properties\": {}}}]"}]""");
            place.Write("sets/dataset_info.json", """
                {"good": {"file_name": "good.json"}, "short": {"file_name": "short.json"},
                 "tools": {"file_name": "tools.json", "formatting": "sharegpt", "columns": {"messages": "conversations", "tools": "tools"}}}
                """);
        }
        return [$"dataset_dir={folder}", "eval_dataset=good"];
    }

    /// <summary>Another folder with a set of the same name.</summary>
    private string Other()
    {
        place.Write("others/good.json", """[{"instruction": "Thanks", "output": "Welcome"}]""");
        place.Write("others/dataset_info.json", """{"good": {"file_name": "good.json"}}""");
        return Path.Combine(place.Root, "others");
    }

    private string Answer(string[] pairs)
    {
        using var chat = ChatSession.Open([.. Base(), .. pairs]);
        return chat.Answer("What is the weather on day 3?", TestContext.Current.CancellationToken);
    }

    private string Predicted(string[] pairs)
    {
        var output = Path.Combine(place.Root, Path.GetRandomFileName());
        // A training config's own rows are asked where eval_dataset is not given.
        var inputs = pairs.Any(p => p.StartsWith("dataset=", StringComparison.Ordinal)) ? Inputs()[..1] : Inputs();
        Predict([.. inputs, .. Base(), $"output_dir={output}", .. pairs]);
        return File.ReadAllText(Path.Combine(output, Predictions.FileName));
    }

    private static void Predict(string[] arguments)
    {
        using var run = PredictRun.Open(arguments);
        run.Run(TestContext.Current.CancellationToken);
    }
}
