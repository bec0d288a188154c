using KtNotebooks.Data;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Data;

/// <summary>A column of weights: a row of weight two counts as two rows, in the sum and in what the mean is over.</summary>
public sealed class RowWeightTests : IDisposable
{
    private readonly Samples.Folder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("d.json", """[{"q": "hello", "a": "fine day", "w": 2}, {"q": "day", "a": "no"}, {"q": "what", "a": "happy cat", "w": 0.5}]""")]
    [InlineData("d.csv", "q,a,w\nhello,fine day,2\nday,no,1\nwhat,happy cat,0.5\n")]
    public void A_weight_is_a_share_of_the_mean(string file, string text)
    {
        var rows = Rows(file, text);
        Assert.Equal([2, 1, 0.5f], rows.Select(r => r.Weight));
        var batch = ExampleWindows.Batch(rows);
        var targets = rows.Select(r => r.Targets).ToArray();
        var all = (2 * targets[0]) + targets[1] + (0.5 * targets[2]);
        for (var s = 0; s < 3; s++)
            for (var t = batch.SeqStarts[s]; t < batch.SeqStarts[s + 1]; t++)
                Assert.Equal(batch.Labels[t] < 0 ? 0 : rows[s].Weight / all, batch.Weights[t], 1e-7);
    }

    [Fact]
    public void A_weight_that_is_none_is_named() => Assert.EndsWith("d.json:1: column 'w' must be a weight, a number of 0 or more, but is -1.",
        Assert.Throws<InvalidDataException>(() => Rows("d.json", """[{"q": "hello", "a": "fine day", "w": -1}]""")).Message, StringComparison.Ordinal);

    [Fact]
    public void Rows_of_several_weights_are_not_packed() => Assert.Contains("rows of several weights cannot be packed",
        Assert.Throws<InvalidDataException>(() => Packing.Pack(Rows("d.json", """[{"q": "hello", "a": "fine day", "w": 2}, {"q": "day", "a": "no"}]"""),
            PackingMode.Neat, 99)).Message, StringComparison.Ordinal);

    private EncodedExample[] Rows(string file, string text)
    {
        _folder.Write(file, text);
        _folder.Write("dataset_info.json", $$"""{"d": {"file_name": "{{file}}", "columns": {"prompt": "q", "response": "a", "weight": "w"} } }""");
        var encoder = new SftEncoder(Templates.Get("deepseek"), Samples.Small, 60);
        return [.. DatasetLoader.Load(_folder.Path, "d").Select(encoder.Encode)];
    }
}
