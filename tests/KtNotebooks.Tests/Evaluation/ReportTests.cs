using KtNotebooks.Evaluation;
using KtNotebooks.Tests.Cli;
using KtNotebooks.Tests.Segmentation;
using KtNotebooks.Tests.Tokenizers;

using Xunit;

namespace KtNotebooks.Tests.Evaluation;

public class ReportTests
{
    [Fact]
    public void An_interval_holds_the_mean_and_narrows_with_the_rows()
    {
        double[] Coins(int n) => [.. Enumerable.Range(0, n).Select(i => i % 2 == 0 ? 0.0 : 100)];
        var (few, many) = (Bootstrap.Mean(Coins(100)), Bootstrap.Mean(Coins(1600)));
        Assert.Equal(50, few.Mean, 12);
        // The means of 100 coins have a deviation of 5: 95 % lie within ±9.8, of 1,600 within ±2.45; a resampled bound of 2,000 has about 4 % of noise.
        Assert.Equal(40.2, few.Low, 1.0);
        Assert.Equal(59.8, few.High, 1.0);
        Assert.Equal(2.45, (many.High - many.Low) / 2, 0.3);
        Assert.Equal(few, Bootstrap.Mean(Coins(100)));
        Assert.NotEqual(few, Bootstrap.Mean(Coins(100), seed: 1));
        Assert.Equal(new Estimate(7, 7, 7), Bootstrap.Mean([7, 7, 7]));
    }

    [Fact]
    public void Kt_report_writes_the_same_tables_and_pictures_each_time()
    {
        Python.Require();
        using var folder = new Samples.Folder();
        string Rows(string name, params (string Predict, string Label)[] rows) =>
            folder.Write(name, string.Concat(rows.Select(r => Predictions.ToLine(new("A. x\nB. y\n", r.Predict, r.Label)))));
        string[] arguments =
        [
            "report", $"translationese/base={Rows("base.jsonl", ("你好", "你好，老伙计"), ("不", "不，我的朋友"))}",
            $"translationese/LoRA={Rows("lora.jsonl", ("你好，老伙计", "你好，老伙计"), ("不", "不，我的朋友"))}",
            $"afrimed-mcq/base={Rows("mcq.jsonl", ("B", "B"), ("the second", "B"))}", "--published", "--out",
        ];
        string[] Saved(string name)
        {
            var output = Path.Combine(folder.Path, name);
            var (exit, _, errors) = Kt.Run([.. arguments, output]);
            Assert.Equal((0, ""), (exit, errors));
            Assert.Equal(["afrimed-mcq.png", "report.html", "report.md", "translationese.png"], Directory.GetFiles(output).Select(Path.GetFileName)
                .Order(StringComparer.Ordinal));
            return [.. Directory.GetFiles(output).Order(StringComparer.Ordinal).Select(f => Convert.ToBase64String(File.ReadAllBytes(f)))];
        }
        Assert.Equal(Saved("one"), Saved("two"));
        var text = File.ReadAllText(Path.Combine(folder.Path, "one", "report.md"));
        Assert.Contains("DeepSeek-V2-Lite + LoRA (published)", text, StringComparison.Ordinal);
        Assert.Contains("| 48.12 |", text, StringComparison.Ordinal);
        Assert.Contains("| base | 50.00 [0.00, 100.00] | 50.00 [0.00, 100.00] |", text, StringComparison.Ordinal);
        Assert.Equal("'base.jsonl' is not of the form TASK/NAME=FILE", Kt.Refuses("report", "base.jsonl", "--out", folder.Path));
    }
}
