using System.Text.Json.Nodes;

using KtNotebooks.Evaluation;
using KtNotebooks.Tests.Cli;
using KtNotebooks.Tests.Segmentation;
using KtNotebooks.Tests.Tokenizers;

using Xunit;

namespace KtNotebooks.Tests.Evaluation;

public class PredictionsTests
{
    [Fact]
    public void A_row_is_written_as_LLaMA_Factory_writes_it_and_read_back()
    {
        using var folder = new Samples.Folder();
        var row = new Prediction("User: 你好\n\nAssistant:", "喵~ \"a\" <b> & 😀", "c\td");
        const string Line = """{"prompt":"User: 你好\n\nAssistant:","predict":"喵~ \"a\" <b> & 😀","label":"c\td"}""";
        Assert.Equal(JsonNode.Parse(Line)!.ToJsonString(), JsonNode.Parse(Predictions.ToLine(row))!.ToJsonString());
        Assert.Contains("你好", Predictions.ToLine(row), StringComparison.Ordinal);
        Assert.Equal([row, row], Predictions.Read(folder.Write("p.jsonl", Predictions.ToLine(row) + Predictions.ToLine(row))));
    }

    [Theory]
    [InlineData("{\"predict\": \"a\", \"label\": \"b\"}\n{\"predict\": \"a\"}\n",
        ":2: no 'label' in this row; wanted an object with prompt, predict and label")]
    [InlineData("{\"predict\": 5, \"label\": \"b\"}\n", ":1: 'predict' must be a string, but is a number")]
    [InlineData("", ": no rows; wanted one object with prompt, predict and label on each line")]
    public void A_wrong_row_is_named(string text, string message)
    {
        using var folder = new Samples.Folder();
        var file = folder.Write("p.jsonl", text);
        Assert.Equal(file + message, Assert.Throws<InvalidDataException>(() => Predictions.Read(file)).Message);
    }

    [Fact]
    public void Kt_eval_prints_one_object_with_both_families_of_names()
    {
        Python.Require();
        using var folder = new Samples.Folder();
        var file = folder.Write("p.jsonl", Predictions.ToLine(new("", "我爱你。你爱我。", "我爱你。我爱猫。")) + Predictions.ToLine(new("", "", "猫")));
        var (exit, output, errors) = Kt.Run("eval", "--predictions", file, "--json");
        Assert.Equal((0, ""), (exit, errors));
        var scores = (JsonObject)JsonNode.Parse(output)!;
        Assert.Equal(["bleu-4", "rouge-1", "rouge-2", "rouge-l", "kt-bleu-1", "kt-bleu-2", "kt-bleu-3", "kt-bleu-4"], scores.Select(s => s.Key));
        Assert.Equal(39.7635 / 2, (double)scores["bleu-4"]!, 9);
        Assert.Equal(Path.Combine(folder.Path, "gone.jsonl") + ": no such file", Kt.Refuses("eval", "--predictions", Path.Combine(folder.Path, "gone.jsonl")));
    }

    /// <summary>Questions alone are answered, and nothing is scored then; an evaluation leaves such rows out, as training does.</summary>
    [Fact]
    public void A_row_without_an_answer_is_predicted_and_not_evaluated()
    {
        using var folder = new Samples.Folder();
        folder.Write("dataset_info.json", """{"d":{"file_name":"d.json"}}""");
        var file = folder.Write("d.json", """[{"instruction":"a","output":null},{"instruction":"b","output":"c"}]""");
        string[] Keys(string output) => ["model_name_or_path=" + Path.Combine(Checkout.Root, "notebooks/models/kt-tiny"), "template=deepseek",
            "dataset_dir=" + folder.Path, "eval_dataset=d", "max_new_tokens=3", "output_dir=" + Path.Combine(folder.Path, output)];
        using (var run = PredictRun.Open(Keys("p")))
        {
            List<string> notes = [];
            run.OnNote += notes.Add;
            Assert.Null(run.Run(TestContext.Current.CancellationToken).Scores);
            Assert.Equal("no scores: not every row has an answer to compare with", Assert.Single(notes));
            Assert.Equal(["", "c"], Predictions.Read(Path.Combine(folder.Path, "p", Predictions.FileName)).Select(p => p.Label));
        }
        using var evaluation = EvalRun.Open(Keys("e"));
        Assert.Equal($"{file}:1: the answer is null or missing", evaluation.LeftOut[^1]);
        Assert.Equal(1, evaluation.Run(TestContext.Current.CancellationToken).Rows);
    }
}
