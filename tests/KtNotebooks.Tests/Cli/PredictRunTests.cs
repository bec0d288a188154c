using System.Text.Json.Nodes;

using KtNotebooks.Evaluation;
using KtNotebooks.Tests.Segmentation;

using Xunit;

namespace KtNotebooks.Tests.Cli;

/// <summary>`kt predict` as a user meets it: run through, killed, stopped by Ctrl-C, started again, with other batch sizes.</summary>
public class PredictRunTests
{
    private const string Ahead = "generated_predictions.ahead.jsonl";

    [Fact]
    public void A_run_leaves_all_rows_in_order_and_the_scores()
    {
        Python.Require();
        using var place = new Workplace();
        var (exit, output, errors) = Kt.Run(Predict(place));
        Assert.Equal((0, ""), (exit, errors));
        Assert.Contains("done: 24 rows", output, StringComparison.Ordinal);
        Assert.Contains("ETA", output, StringComparison.Ordinal);
        Assert.Equal(["all_results.json", "generated_predictions.jsonl", "predict_results.json", "predict_settings.json"], Directory.GetFiles(place.Output)
            .Select(Path.GetFileName).Order(StringComparer.Ordinal));
        var rows = Predictions.Read(FileOf(place));
        for (var i = 0; i < 24; i++)
        {
            Assert.EndsWith($"User: What is the weather on day {i}?\n\nAssistant:", rows[i].Prompt, StringComparison.Ordinal);
            Assert.Equal(i % 2 == 0 ? "主人，今天天气真好喵~" : "The weather is fine.", rows[i].Label);
        }
        var results = JsonNode.Parse(File.ReadAllText(Path.Combine(place.Output, "predict_results.json")))!.AsObject();
        Assert.Equal(["predict_bleu-4", "predict_kt-bleu-1", "predict_kt-bleu-2", "predict_kt-bleu-3", "predict_kt-bleu-4", "predict_rouge-1",
            "predict_rouge-2", "predict_rouge-l", "predict_runtime", "predict_samples_per_second", "predict_tokens_per_second"], results.Select(r => r.Key));
        var again = JsonNode.Parse(Kt.Run("eval", "--predictions", FileOf(place), "--json").Output)!;
        Assert.Equal((double)again["bleu-4"]!, (double)results["predict_bleu-4"]!);
        Assert.Equal(again.ToJsonString(), JsonNode.Parse(Kt.Run("eval", place.Output, "--json").Output)!.ToJsonString());
    }

    /// <summary>Under the same names there may be another model, or other answers.</summary>
    [Fact]
    public void A_retrained_base_and_corrected_answers_are_told_from_the_ones_before()
    {
        using var place = new Workplace();
        Assert.Equal(0, Kt.Run(Predict(place, "max_samples=2")).Exit);
        var data = Path.Combine(place.Root, "data", "good.json");
        var before = File.ReadAllText(data);
        File.WriteAllText(data, before.Replace("The weather is fine.", "Fine.", StringComparison.Ordinal));
        Assert.StartsWith($"{place.Output} holds predictions made with answers_sha256 ", Kt.Refuses(Predict(place, "max_samples=2")), StringComparison.Ordinal);
        File.WriteAllText(data, before);
        Models.Tiny.Save(place.Model, seed: 5);
        Assert.StartsWith($"{place.Output} holds predictions made with model_fingerprint ", Kt.Refuses(Predict(place, "max_samples=2")),
            StringComparison.Ordinal);
    }

    [Fact]
    public void A_killed_run_goes_on_to_the_same_file_whatever_the_batch_size()
    {
        using var place = new Workplace();
        Assert.Equal(0, Kt.Run(Predict(place, $"output_dir={place.Output}-straight", "per_device_eval_batch_size=1", "overwrite_output_dir=true")).Exit);
        using (var kt = Kt.Start(Predict(place, "per_device_eval_batch_size=3", "cpu_infer=1")))
        {
            kt.Until(() => File.Exists(FileOf(place)) && new FileInfo(FileOf(place)).Length > 0);
            kt.Kill();
            kt.End();
        }
        // As if the kill had come in the middle of a line, here and in the side file.
        File.AppendAllText(FileOf(place), "{\"prompt\": \"Us");
        File.AppendAllText(Path.Combine(place.Output, Ahead), "{\"row\": 23, \"pro");
        var (exit, output, errors) = Kt.Run(Predict(place, "per_device_eval_batch_size=8"));
        Assert.Equal((0, ""), (exit, errors));
        Assert.Contains("of 24 rows are done; going on", output, StringComparison.Ordinal);
        Assert.Equal(File.ReadAllText(FileOf(place, "-straight")), File.ReadAllText(FileOf(place)));
        Assert.False(File.Exists(Path.Combine(place.Output, Ahead)));
    }

    [Fact]
    public void A_row_that_is_too_long_for_the_model_is_left_out_by_name()
    {
        using var place = new Workplace();
        Assert.Equal(256, (int)JsonNode.Parse(File.ReadAllText(Path.Combine(place.Model, "config.json")))!["max_position_embeddings"]!);
        var rows = new[] { "short", string.Concat(Enumerable.Repeat("天 weather ", 200)), "short too" };
        place.Write("data/good.json", new JsonArray([.. rows.Select(r => new JsonObject { ["instruction"] = r, ["output"] = "y" })]).ToJsonString());
        var (exit, _, errors) = Kt.Run(Predict(place, "cutoff_len=2000"));
        Assert.Equal(0, exit);
        Assert.Matches(@"^1 rows are left out, the longest have [\d,]+ tokens: the prompt and one token of an answer must fit the 256 positions that the model "
            + @"was made for; cutoff_len=255 shortens prompts:\n  \S+good.json:2: [\d,]+ tokens\n$", errors);
        Assert.Equal(2, Predictions.Read(place.Output).Count); // the folder will do
        var cut = Kt.Run(Predict(place, "cutoff_len=255", "overwrite_output_dir=true"));
        Assert.Equal((0, ""), (cut.Exit, cut.Errors));
        Assert.Equal(3, Predictions.Read(FileOf(place)).Count);
        place.Write("data/good.json", new JsonArray(new JsonObject { ["instruction"] = rows[1], ["output"] = "y" }).ToJsonString());
        Assert.Matches("good.json:1: the prompt of this row, as of all others, is too long", Kt.Refuses(Predict(place, "cutoff_len=2000",
            "overwrite_output_dir=true")));
    }

    [Fact]
    public void Ctrl_C_keeps_what_is_there()
    {
        using var place = new Workplace();
        using (var kt = Kt.Start(Predict(place, "per_device_eval_batch_size=1", "max_new_tokens=200")))
        {
            kt.Until(() => File.Exists(FileOf(place)) && new FileInfo(FileOf(place)).Length > 0);
            kt.Interrupt();
            var (exit, output, errors) = kt.End();
            Assert.Equal((130, ""), (exit, errors));
            Assert.Contains("of 24 rows; they are in", output, StringComparison.Ordinal);
        }
        Assert.InRange(Predictions.Read(FileOf(place)).Count, 1, 23);
    }

    [Fact]
    public void Other_settings_do_not_go_on_with_the_rows_of_these()
    {
        using var place = new Workplace();
        Assert.Equal(0, Kt.Run(Predict(place, "max_samples=2")).Exit);
        Assert.Equal($"{place.Output} holds predictions made with seed 42, now it is 43; choose another output_dir, or overwrite_output_dir=true to begin "
            + "again", Kt.Refuses(Predict(place, "max_samples=2", "seed=43")));
        Assert.Equal(0, Kt.Run(Predict(place, "max_samples=2", "seed=43", "overwrite_output_dir=true")).Exit);
        place.Write("data/good.json", File.ReadAllText(Path.Combine(place.Root, "data/good.json")).Replace("day 1?", "day one?", StringComparison.Ordinal));
        Assert.Equal($"{FileOf(place)}: row 2 was made from another prompt than the data set has there now; choose another output_dir, or "
            + "overwrite_output_dir=true to begin again", Kt.Refuses(Predict(place, "max_samples=2", "seed=43")));
    }

    [Fact]
    public void Damaged_files_of_an_earlier_run_are_named()
    {
        using var place = new Workplace();
        Assert.Equal(0, Kt.Run(Predict(place, "max_samples=2")).Exit);
        const string Otherwise = "choose another output_dir, or overwrite_output_dir=true to begin again";
        var (settings, lines) = (Path.Combine(place.Output, "predict_settings.json"), File.ReadAllLines(FileOf(place)));
        var noted = File.ReadAllText(settings);
        File.WriteAllText(settings, "");
        var refused = Kt.Refuses(Predict(place, "max_samples=2"));
        Assert.StartsWith($"{settings}: is empty, and must hold JSON; ", refused, StringComparison.Ordinal);
        Assert.EndsWith($"so nobody knows how the predictions beside it were made: {Otherwise}", refused, StringComparison.Ordinal);
        File.WriteAllText(settings, noted);
        foreach (var (line, message) in new[] { ("{}", "it has no 'prompt' as kt predict writes it"), ("[1]", "it has no 'prompt' as kt predict writes it"),
            ("null", "it has no 'prompt' as kt predict writes it"), ("{", "the file ends before") })
        {
            File.WriteAllText(FileOf(place), $"{lines[0]}\n{line}\n");
            Assert.StartsWith($"{FileOf(place)}:2: not a row of predictions: {message}", Kt.Refuses(Predict(place, "max_samples=2")), StringComparison.Ordinal);
        }
    }

    [Theory]
    [InlineData("eval_dataset=godo", "Unknown dataset 'godo'")]
    [InlineData("per_device_eval_batch_size=0", "command line: 'per_device_eval_batch_size' must be positive, but is '0'")]
    [InlineData("temprature=1", "command line: unknown key 'temprature'. Did you mean 'temperature'")]
    public void A_wrong_value_by_its_key(string pair, string message)
    {
        using var place = new Workplace();
        Assert.StartsWith(message, Kt.Refuses(Predict(place, pair)), StringComparison.Ordinal);
        Assert.False(Directory.Exists(place.Output));
    }

    private static string FileOf(Workplace place, string suffix = "") => Path.Combine(place.Output + suffix, Predictions.FileName);

    private static string[] Predict(Workplace place, params string[] pairs) =>
        ["predict", $"model_name_or_path={place.Model}", $"dataset_dir={Path.Combine(place.Root, "data")}", "eval_dataset=good", "template=deepseek",
            $"output_dir={place.Output}", "max_new_tokens=40", "top_p=1", "temperature=1.5", .. pairs];
}
