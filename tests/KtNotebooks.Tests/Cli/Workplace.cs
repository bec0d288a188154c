using System.Text.Json;

using KtNotebooks.Tests.Models;
using KtNotebooks.Tests.Tokenizers;

namespace KtNotebooks.Tests.Cli;

/// <summary>A temporary folder with a tiny model and a small data set.</summary>
public sealed class Workplace : IDisposable
{
    private readonly Samples.Folder _folder = new();

    public Workplace()
    {
        Tiny.Save(Model);
        var rows = Enumerable.Range(0, 24)
            .Select(i => new { instruction = $"What is the weather on day {i}?", output = i % 2 == 0 ? "主人，今天天气真好喵~" : "The weather is fine." });
        _folder.Write("data/good.json", JsonSerializer.Serialize(rows));
        _folder.Write("data/bad.json", """[{"instruction": "a", "output": "b"}, {"instruction": "a", "output": 7}]""");
        _folder.Write("data/dataset_info.json",
            """{"good": {"file_name": "good.json"}, "bad": {"file_name": "bad.json"}, "gone": {"file_name": "gone.json"}}""");
    }

    public string Root => _folder.Path;

    public string Model => Path.Combine(Root, "model");

    public string Output => Path.Combine(Root, "out");

    /// <summary>Arguments of `kt train` for a run of 24 rows, 2 a step, with more or other pairs.</summary>
    public string[] Train(params string[] pairs) =>
    [
        "train", $"model_name_or_path={Model}", $"dataset_dir={Path.Combine(Root, "data")}", "dataset=good", "template=deepseek", $"output_dir={Output}",
        "lora_rank=2", "cutoff_len=40", "per_device_train_batch_size=2",
        "learning_rate=1e-2", "lr_scheduler_type=cosine", "logging_steps=1", "num_train_epochs=1", .. pairs,
    ];

    public string Write(string name, string text) => _folder.Write(name, text);

    public void Dispose() => _folder.Dispose();
}
