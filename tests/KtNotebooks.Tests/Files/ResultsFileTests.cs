using KtNotebooks.Files;
using KtNotebooks.Tests.Tokenizers;

using Xunit;

namespace KtNotebooks.Tests.Files;

public sealed class ResultsFileTests : IDisposable
{
    private readonly Samples.Folder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void Splits_come_together_and_a_new_one_replaces_its_own()
    {
        ResultsFile.Write(_folder.Path, "predict", [("bleu-4", 7)]);
        ResultsFile.Write(_folder.Path, "train", [("epoch", 3), ("loss", 0.5), ("runtime", double.NaN)]);
        Assert.Equal(["epoch", "train_loss"], Keys("train_results.json"));
        Assert.Equal(["epoch", "predict_bleu-4", "train_loss"], Keys("all_results.json"));
        ResultsFile.Clear(_folder.Path, "train");
        Assert.False(File.Exists(Path.Combine(_folder.Path, "train_results.json")));
        Assert.Equal(["epoch", "predict_bleu-4"], Keys("all_results.json"));
    }

    [Fact]
    public void A_damaged_file_is_named()
    {
        var path = _folder.Write("all_results.json", "[1]");
        Assert.Equal($"{path}: must be a JSON object, but is a list",
            Assert.Throws<InvalidDataException>(() => ResultsFile.Write(_folder.Path, "train", [("loss", 1)])).Message);
    }

    private IEnumerable<string> Keys(string file) => ResultsFile.Read(Path.Combine(_folder.Path, file)).Select(r => r.Key);
}
