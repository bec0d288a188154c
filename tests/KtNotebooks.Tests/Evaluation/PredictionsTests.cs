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
}
