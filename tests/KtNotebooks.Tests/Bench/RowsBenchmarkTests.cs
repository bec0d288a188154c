using KtNotebooks.Bench;
using KtNotebooks.Tests.Tokenizers;

using Xunit;

namespace KtNotebooks.Tests.Bench;

public class RowsBenchmarkTests
{
    [Fact]
    public void Every_kind_of_file_gives_the_rows_that_were_written()
    {
        using var folder = new Samples.Folder();
        (string, string)[] rows = [.. Enumerable.Range(0, 3000).Select(i => ($"Frage {i} \"你好\"\n", new string('x', i % 7)))];
        var results = RowsBenchmark.Run(rows, folder.Path, TestContext.Current.CancellationToken).ToList();
        Assert.Equal(["rows.jsonl", "rows.parquet", "rows.arrow"], results.Select(r => r.File));
        Assert.All(results, r => Assert.Equal(3000, r.Rows));
        Assert.All(results, r => Assert.InRange(r.FirstRowSeconds, double.Epsilon, r.Seconds));
        Assert.Empty(Directory.GetFiles(folder.Path));
    }
}
