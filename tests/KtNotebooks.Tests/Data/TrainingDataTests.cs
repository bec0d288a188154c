using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Tests.Tokenizers;
using Xunit;

namespace KtNotebooks.Tests.Data;

[Collection(Alone.Name)] // sets KT_CACHE
public sealed class TrainingDataTests : IDisposable
{
    private readonly Samples.Folder _folder = new();
    private readonly string? _cache = Environment.GetEnvironmentVariable("KT_CACHE");

    public TrainingDataTests()
    {
        Environment.SetEnvironmentVariable("KT_CACHE", Path.Combine(_folder.Path, "cache"));
        Samples.Small.Save(Path.Combine(_folder.Path, "model"));
        _folder.Write("dataset_info.json", """{"a":{"file_name":"a.jsonl"},"b":{"file_name":"b.jsonl"},"big":{"file_name":"big.jsonl"}}""");
        Rows("a", 30);
        Rows("b", 10);
        _folder.Write("big.jsonl", string.Concat(Enumerable.Range(0, 2000)
            .Select(i => $$"""{"instruction":"question {{i}}","output":{{(i % 100 == 7 ? "null" : $"\"{new string('x', 1000)} {i}\"")}}}""" + "\n")));
    }

    [Fact]
    public void Keys_have_upstreams_names_and_defaults()
    {
        var settings = DataKeys.Read(Settings.Read(["dataset=a"]));
        Assert.Equal(("data", "a", 2048, PackingMode.None, "concat", true),
            (settings.Folder, settings.Names, settings.Cutoff, settings.Packing, settings.MixStrategy, settings.Template.EnableThinking));
        settings = DataKeys.Read(Settings.Read(["dataset=a,b", "template=qwen3", "enable_thinking=null", "default_system=s", "tool_format=default",
            "packing=true", "neat_packing=true", "mix_strategy=interleave_over", "interleave_probs=0.5,0.5"]));
        Assert.Equal((null, "s", ToolForm.Plain, PackingMode.Neat),
            (settings.Template.EnableThinking, settings.Template.DefaultSystem, settings.Template.Tools, settings.Packing));
        Assert.Equal([0.5, 0.5], settings.Probabilities!);
        Assert.False(DataKeys.Read(Settings.Read(["dataset=a", "enable_thinking=false"])).Template.EnableThinking);
    }

    [Fact]
    public void Sets_are_mixed_and_split()
    {
        var data = Load("dataset=a,b", "mix_strategy=interleave_under", "max_samples=8", "val_size=4");
        Assert.Equal((12, 4), (data.Train.Length, data.HeldOut.Length));
        Assert.Equal(8, data.Train.Concat(data.HeldOut).Count(row => row.Source.Contains("a.jsonl", StringComparison.Ordinal)));
        Assert.Equal(10, Load("dataset=a", "eval_dataset=b").HeldOut.Length);
        Assert.Throws<ArgumentException>(() => Load("dataset=a", "eval_dataset=b", "val_size=1"));
    }

    [Fact]
    public void Packed_rows_are_one_token_shorter_than_the_cutoff()
    {
        var data = Load("dataset=a", "neat_packing=true", "cutoff_len=64");
        Assert.Equal(30, data.Train.Sum(row => row.Starts.Length));
        Assert.All(data.Train, row => Assert.True(row.Apart && row.Ids.Length <= 63));
        Assert.True(data.Train.Length < 30);
    }

    [Fact]
    public void Large_sets_are_cached_by_content()
    {
        var first = Load("dataset=big", "val_size=10");
        Assert.False(first.FromCache);
        Assert.Equal(20, first.Skipped.Count);
        var again = Load("dataset=big", "val_size=10");
        Assert.True(again.FromCache);
        Assert.Equal(first.Skipped, again.Skipped);
        Assert.Equal(first.Train.Concat(first.HeldOut).Select(Text), again.Train.Concat(again.HeldOut).Select(Text));
        Assert.False(Load("dataset=big", "val_size=10", "overwrite_cache=true").FromCache);
        Assert.False(Load("dataset=big", "val_size=10", "cutoff_len=100").FromCache);

        File.AppendAllText(Path.Combine(_folder.Path, "big.jsonl"), """{"instruction":"one","output":"more"}""");
        Assert.False(Load("dataset=big", "val_size=10").FromCache);

        foreach (var file in Directory.GetFiles(Path.Combine(_folder.Path, "cache", "data")))
        {
            var bytes = File.ReadAllBytes(file);
            bytes[^1] ^= 1;
            File.WriteAllBytes(file, bytes);
        }
        Assert.False(Load("dataset=big", "val_size=10").FromCache);

        static string Text(EncodedExample row) =>
            $"{row.Source} {string.Join(' ', row.Ids)} {string.Join(' ', row.Labels)} {string.Join(' ', row.Starts)} {row.Apart}";
    }

    [Fact]
    public void Left_out_rows_and_open_placeholders_are_noted()
    {
        _folder.Write("a.jsonl", "{\"instruction\":\"who\",\"output\":\"I am {{name}}.\"}\n{\"instruction\":\"who\",\"output\":null}\n");
        var notes = Load("dataset=a").Notes(null);
        Assert.Contains("a.jsonl:2: the answer is null", notes[0]);
        Assert.StartsWith("1 answers hold {{name}}", notes[1]);
    }

    [Fact]
    public void The_places_of_the_identity_set_are_filled()
    {
        _folder.Write("a.jsonl", """{"instruction":"are you {{name}}?","output":"I am {{name}} by {{author}}, not {{x}}."}""");
        var filled = Load(s => s with { IdentityName = "Mina", IdentityAuthor = "us" });
        Assert.Equal("I am Mina by us, not {{x}}.<｜end▁of▁sentence｜>", Learned(filled.Train[0]));
        Assert.Contains("are you Mina?", Samples.Small.Decode(filled.Train[0].Ids));
        Assert.Empty(filled.Notes(null));
        Assert.StartsWith("1 answers hold", Assert.Single(Load(s => s with { IdentityName = "Mina" }).Notes(null)));
        Assert.Contains("have no effect", Assert.Single(Load(s => s with { Names = "b", IdentityName = "Mina" }).Notes(null)));
    }

    [Fact]
    public void Our_identity_set_has_the_places_and_no_question_twice()
    {
        var rows = DatasetLoader.Load(Path.Combine(Checkout.Root, "data"), "identity,alpaca_en_demo");
        Assert.Equal(rows.Count, rows.Select(r => r.Prompt[0].Content).Distinct().Count());
        Assert.All(rows.Take(90), row => Assert.Contains("{{", row.Answer));
        Assert.All(rows.Skip(90), row => Assert.DoesNotContain("{{", row.Answer));
    }

    [Fact]
    public void Rows_without_a_token_to_learn_are_left_out_and_a_set_of_them_is_refused()
    {
        var question = new string('?', 400);
        _folder.Write("a.jsonl", $$"""{"instruction":"{{question}}","output":"yes"}""" + "\n" + """{"instruction":"?","output":"yes, this is learned"}""");
        var data = Load("dataset=a", "cutoff_len=4");
        Assert.Single(data.Train);
        Assert.Equal($"{_folder.Path}/a.jsonl:1: nothing to learn: cutoff_len 4 leaves no token of the answer", Assert.Single(data.Skipped));
        var error = Assert.Throws<InvalidDataException>(() => Load("dataset=a", "max_samples=1", "cutoff_len=4"));
        Assert.Contains("none of the 1 rows of the dataset 'a' has anything to learn: cutoff_len is 4", error.Message);
    }

    [Fact]
    public void A_template_that_is_not_given_is_noted_or_refused()
    {
        var note = Assert.Single(Load(s => s with { TemplateGiven = false, Template = Templates.Get("empty") }).Notes(null));
        Assert.Contains("no token teaches the model where an answer ends", note);
        var settings = Path.Combine(_folder.Path, "model", "tokenizer_config.json");
        File.WriteAllText(settings, """{"chat_template":"{% for m in messages %}<|im_start|>{{ m.role }}"}""");
        var error = Assert.Throws<ArgumentException>(() => Load(s => s with { TemplateGiven = false }));
        Assert.Contains("this one looks like qwen3_nothink", error.Message);
        Assert.Empty(Load(s => s).Notes(null));
    }

    [Fact]
    public void Rows_longer_than_the_model_s_positions_are_noted()
    {
        var longest = Load("dataset=a").Train.Max(row => row.Ids.Length);
        Assert.Empty(Load("dataset=a").Notes(longest));
        Assert.StartsWith("30 rows have more tokens than the 5 positions", Assert.Single(Load("dataset=a").Notes(5)));
        Assert.StartsWith("30 rows have more tokens than the 5"
            + " positions", Assert.Single(Load("dataset=a", "packing=true").Notes(5))); // positions begin anew with each row
    }

    [Fact]
    public void What_the_cache_does_is_said()
    {
        Assert.DoesNotContain(Load("dataset=big").Notes(null), n => n.Contains("overwrite_cache"));
        Assert.Contains(Load("dataset=big").Notes(null), n => n.StartsWith("the encoded rows are those of an earlier run", StringComparison.Ordinal));
        Assert.Contains(Load("dataset=big", "overwrite_cache=true").Notes(null), n => n.StartsWith("overwrite_cache: the rows were encoded"
            + " anew", StringComparison.Ordinal));
        Assert.Contains(Load("dataset=a", "overwrite_cache=true").Notes(null), n => n.StartsWith("overwrite_cache has no effect"
            + " here", StringComparison.Ordinal));
    }

    [Fact]
    public void Every_setting_that_changes_the_rows_makes_another_cache_file()
    {
        Func<DataSettings, DataSettings>[] changes =
        [
            s => s, s => s with { Cutoff = 99 }, s => s with { MaxSamples = 1999 }, s => s with { ValSize = 3 },
            s => s with { MixStrategy = "interleave_under" }, s => s with { Probabilities = [1] }, s => s with { TrainOnPrompt = true },
            s => s with { MaskHistory = true }, s => s with { Packing = PackingMode.Neat },
            s => s with { PackingHorizon = 10 }, s => s with { Seed = 1 }, s => s with { IdentityName = "x" }, s => s with { IdentityAuthor = "x" },
            s => s with { Evaluation = "a" }, s => s with { Template = Templates.Get("qwen3") }, s => s with { TemplateGiven = false },
            s => s with { Template = s.Template with { Tools = ToolForm.Qwen } }, s => s with { Template = s.Template with { DefaultSystem = "x" } },
            s => s with { Template = s.Template with { EnableThinking = null } },
        ];
        var settings = DataKeys.Read(Settings.Read([$"dataset_dir={_folder.Path}", "dataset=big", "template=deepseek"]));
        var keys = changes.Select(change => EncodedKey.Of(change(settings), Path.Combine(_folder.Path, "model"),
            SftEncoder.Of(settings, Samples.Small))).ToArray();
        Assert.All(keys, Assert.NotNull);
        Assert.Equal(keys.Length, keys.Distinct().Count());
        // What is not named here has no part in the rows.
        string[] without = ["Folder", "OverwriteCache", "StreamBuffer"]; // streams are not kept
        Assert.Equal(16, typeof(DataSettings).GetProperties().Select(p => p.Name).Except(without).Count());
    }

    public void Dispose()
    {
        Environment.SetEnvironmentVariable("KT_CACHE", _cache);
        _folder.Dispose();
    }

    [Theory]
    [InlineData("tiktoken.model")]
    [InlineData("added_tokens.json")]
    [InlineData("special_tokens_map.json")]
    [InlineData("merges.txt")]
    public void Kept_rows_belong_to_every_file_of_the_tokenizer(string file)
    {
        using var folder = new Samples.Folder();
        folder.Write("big.json", $$"""[{"instruction": "Hello", "output": "{{new string('x', 2_100_000)}}"}]""");
        folder.Write("dataset_info.json", """{"big": {"file_name": "big.json"}}""");
        folder.Write("model/tokenizer.json", "{}");
        var settings = DataKeys.Read(Settings.Read([$"dataset_dir={folder.Path}", "dataset=big", "template=deepseek"]));
        string? Key() => EncodedKey.Of(settings, Path.Combine(folder.Path, "model"), SftEncoder.Of(settings, Samples.Small));
        var before = Key();
        Assert.NotNull(before);
        folder.Write("model/" + file, "a");
        var with = Key();
        folder.Write("model/" + file, "b");
        Assert.Equal(3, new HashSet<string?> { before, with, Key() }.Count);
    }

    private TrainingData Load(params string[] pairs) =>
        Load(DataKeys.Read(Settings.Read([$"dataset_dir={_folder.Path}", "template=deepseek", .. pairs])));

    private TrainingData Load(Func<DataSettings, DataSettings> change)
    {
        var settings = DataKeys.Read(Settings.Read([$"dataset_dir={_folder.Path}", "dataset=a", "template=deepseek"]));
        return Load(change(settings));
    }

    private TrainingData Load(DataSettings settings) =>
        TrainingData.Load(settings, Path.Combine(_folder.Path, "model"), SftEncoder.Of(settings, Samples.Small));

    private static string Learned(EncodedExample row) => Samples.Small.Decode([.. row.Labels.Where(l => l >= 0)]);

    private void Rows(string name, int count) =>
        _folder.Write($"{name}.jsonl", string.Concat(Enumerable.Range(0, count).Select(i => $$"""{"instruction":"{{name}} {{i}}","output":"{{i}}"}""" + "\n")));
}
