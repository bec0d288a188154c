using KtNotebooks.Segmentation;

namespace KtNotebooks.Evaluation;

/// <summary>
/// The scores of one run on one task, for a table: from a file of predictions, row by row, so that means have intervals; or published elsewhere, then without.
/// </summary>
/// <param name="Task">What was asked.</param>
/// <param name="Name">Of the run.</param>
/// <param name="Scores">By name; the interval is a point where it is not known.</param>
/// <param name="Source">The command, or who published it.</param>
/// <param name="Published">Not measured here.</param>
public sealed record ScoredRun(string Task, string Name, IReadOnlyDictionary<string, Estimate> Scores, string Source, bool Published = false)
{
    /// <summary>The names of scores in the order of tables; those of multiple choice are shares in percent here.</summary>
    public static readonly IReadOnlyList<string> Names = ["bleu-4", "rouge-1", "rouge-2", "rouge-l", "kt-bleu-1", "kt-bleu-2", "kt-bleu-3", "kt-bleu-4",
        "accuracy-strict", "parse-failures"];

    /// <summary>Scores a file of predictions, or the one in an output folder. Multiple-choice rows get accuracy instead of text scores.</summary>
    public static ScoredRun Load(string task, string name, string path, Jieba jieba)
    {
        if (Directory.Exists(path)) path = Path.Combine(path, Predictions.FileName);
        var rows = Predictions.Read(path);
        Dictionary<string, Estimate> scores = [];
        if (ChoiceScores.OfPredictions(rows) is not null)
        {
            ChoiceScores[] each = [.. rows.Select(row => ChoiceScores.OfPredictions([row])!)];
            scores["accuracy-strict"] = Bootstrap.Mean([.. each.Select(e => 100 * e.Strict)]);
            scores["parse-failures"] = Bootstrap.Mean([.. each.Select(e => 100 * e.ParseFailures)]);
        }
        else
        {
            var each = TextScores.OfAll(rows, jieba);
            for (var i = 0; i < each[0].All.Count; i++) scores[each[0].All[i].Name] = Bootstrap.Mean([.. each.Select(e => e.All[i].Value)]);
        }
        return new ScoredRun(task, name, scores, $"kt eval --predictions {path}");
    }

    /// <summary>
    /// What KTransformers published for fine-tuning (its user guide and technical notes of version 0.4.1): other data, other splits (unpublished), models
    /// of 16 and 671 billion parameters. Word BLEU and ROUGE; multiple choice as accuracy. There are no figures for NekoQA.
    /// </summary>
    public static IReadOnlyList<ScoredRun> PublishedByKTransformers { get; } =
    [
        Texts("translationese", "DeepSeek-V2-Lite", [20.66, 8.33, 4.54, 2.89, 22.71, 4.52, 19.19]),
        Texts("translationese", "DeepSeek-V2-Lite + LoRA", [35.41, 22.44, 15.42, 11.18, 42.03, 18.38, 33.10]),
        Texts("translationese", "DeepSeek-V3", [8.49, 3.34, 1.62, 0.96, 15.91, 2.55, 10.07]),
        Texts("translationese", "DeepSeek-V3 + LoRA", [37.02, 23.70, 16.21, 11.49, 43.43, 18.96, 34.54]),
        Texts("afrimed-saq", "DeepSeek-V2-Lite", [13.58, 11.12, 9.10, 7.23, 22.48, 7.81, 11.73]),
        Texts("afrimed-saq", "DeepSeek-V2-Lite + LoRA", [35.90, 27.63, 22.99, 19.15, 35.25, 17.50, 28.44]),
        Texts("afrimed-saq", "DeepSeek-V3", [12.75, 10.27, 8.05, 5.99, 20.33, 5.65, 10.11]),
        Texts("afrimed-saq", "DeepSeek-V3 + LoRA", [42.42, 34.12, 28.95, 24.54, 41.97, 22.37, 33.28]),
        Choices("DeepSeek-V2-Lite", 6.45),
        Choices("DeepSeek-V2-Lite + LoRA", 48.12),
        Choices("DeepSeek-V3", 58.33),
        Choices("DeepSeek-V3 + LoRA", 79.30),
    ];

    private static ScoredRun Texts(string task, string name, double[] values) =>
        OfPublished(task, name, [.. new[] { "kt-bleu-1", "kt-bleu-2", "kt-bleu-3", "kt-bleu-4", "rouge-1", "rouge-2", "rouge-l" }.Zip(values)]);

    private static ScoredRun Choices(string name, double percent) => OfPublished("afrimed-mcq", name, [("accuracy-strict", percent)]);

    private static ScoredRun OfPublished(string task, string name, (string Name, double Value)[] values) =>
        new(task, name, values.ToDictionary(v => v.Name, v => new Estimate(v.Value, v.Value, v.Value)), "published by KTransformers, not measured here",
            Published: true);
}
