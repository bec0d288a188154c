using System.Text.Json;

using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Training;

/// <summary>The config of each stage in notebooks/configs runs from the root of the checkout, and its data is what datasets/README.md says of it.</summary>
[Collection("cpu variant")]
public class StageConfigTests
{
    private static readonly string Configs = Path.Combine(Checkout.Root, "notebooks/configs");

    public static TheoryData<string> Names => [.. Directory.GetFiles(Configs, "*.yaml").Select(file => Path.GetFileNameWithoutExtension(file))
        .Where(name => !name.EndsWith("-predict", StringComparison.Ordinal))];

    [Theory]
    [MemberData(nameof(Names))]
    public void A_config_of_a_stage_trains(string name)
    {
        using var folder = new Samples.Folder();
        var output = Path.Combine(folder.Path, "out");
        var config = Path.Combine(Configs, name + ".yaml");
        string In(string path) => Path.Combine(Checkout.Root, path);
        string[] fewer = File.ReadAllText(config).Contains("val_size:", StringComparison.Ordinal) ? ["val_size=4"] : [];
        if (name == "neko-pt") fewer = [.. fewer, "cutoff_len=32"]; // texts are cut into sequences, of which few rows are to give some
        using var run = FineTuneRun.Open([config, $"model_name_or_path={In("notebooks/models/kt-tiny")}", $"dataset_dir={In("datasets")}",
            $"kt_optimize_rule={In("rules/cpu.yaml")}", $"output_dir={output}", "max_samples=20", "max_steps=2", "per_device_train_batch_size=2",
            "gradient_accumulation_steps=1", "eval_steps=1", "save_steps=1", "logging_steps=1", "plot_loss=false",
            "chunk_size=64", .. fewer]); // which no window fits into
        var result = run.Run(TestContext.Current.CancellationToken);
        Assert.True(result is { Steps: 2, Interrupted: false, EvalLoss: { } evaluated } && double.IsFinite(result.LastLoss) && double.IsFinite(evaluated),
            $"{result}");
        Assert.Equal(name == "neko-reward", File.Exists(Path.Combine(output, RewardAdaptation.FileName)));
    }

    [Fact]
    public void Pairs_and_likes_are_made_from_the_questions()
    {
        JsonElement[] Rows(string name) =>
            [.. JsonDocument.Parse(File.ReadAllText(Path.Combine(Checkout.Root, "datasets", name))).RootElement.EnumerateArray()];
        var rows = Rows("neko_qa_train.json");
        foreach (var (pair, i) in Rows("neko_pairs.json").Select((pair, i) => (pair, i)))
            Assert.Equal((Text(rows[i], "instruction"), Text(rows[i], "output"), Text(rows[i + 1], "output")),
                (Text(pair, "instruction"), Text(pair, "chosen"), Text(pair, "rejected")));
        foreach (var (row, i) in Rows("neko_likes.json").Select((row, i) => (row, i)))
            Assert.Equal((Text(rows[i], "instruction"), Text(rows[i + (i % 2)], "output"), i % 2 == 0),
                (Text(row, "instruction"), Text(row, "output"), row.GetProperty("liked").GetBoolean()));
    }

    private static string? Text(JsonElement row, string name) => row.GetProperty(name).GetString();
}
