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
        _folder.Write("big.jsonl", string.Concat(Enumerable.Range(0, 2000).Select(i => $$"""{"instruction":"question {{i}}","output":{{(i % 100 == 7 ? "null" : $"\"{new string('x', 1000)} {i}\"")}}}""" + "\n")));
    }

    [Fact]
    public void Keys_have_upstreams_names_and_defaults()
    {
        var settings = DataKeys.Read(Settings.Read(["dataset=a"]));
        Assert.Equal(("datasets", "a", 2048, PackingMode.None, "concat", true), (settings.Folder, settings.Names, settings.Cutoff, settings.Packing, settings.MixStrategy, settings.Template.EnableThinking));
        settings = DataKeys.Read(Settings.Read(["dataset=a,b", "template=qwen3", "enable_thinking=null", "default_system=s", "tool_format=default", "packing=true", "neat_packing=true", "mix_strategy=interleave_over", "interleave_probs=0.5,0.5"]));
        Assert.Equal((null, "s", ToolForm.Plain, PackingMode.Neat), (settings.Template.EnableThinking, settings.Template.DefaultSystem, settings.Template.Tools, settings.Packing));
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

        static string Text(EncodedExample row) => $"{row.Source} {string.Join(' ', row.Ids)} {string.Join(' ', row.Labels)} {string.Join(' ', row.Starts)} {row.Apart}";
    }

    [Fact]
    public void Left_out_rows_and_open_placeholders_are_noted()
    {
        _folder.Write("a.jsonl", "{\"instruction\":\"who\",\"output\":\"I am {{name}}.\"}\n{\"instruction\":\"who\",\"output\":null}\n");
        var notes = Load("dataset=a").Notes(Samples.Small);
        Assert.Contains("a.jsonl:2: the answer is null", notes[0]);
        Assert.StartsWith("1 answers hold {{name}}", notes[1]);
    }

    public void Dispose()
    {
        Environment.SetEnvironmentVariable("KT_CACHE", _cache);
        _folder.Dispose();
    }

    private TrainingData Load(params string[] pairs) =>
        TrainingData.Load(DataKeys.Read(Settings.Read([$"dataset_dir={_folder.Path}", "template=deepseek", .. pairs])), Path.Combine(_folder.Path, "model"), Samples.Small);

    private void Rows(string name, int count) => _folder.Write($"{name}.jsonl", string.Concat(Enumerable.Range(0, count).Select(i => $$"""{"instruction":"{{name}} {{i}}","output":"{{i}}"}""" + "\n")));
}
