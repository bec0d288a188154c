using System.CommandLine;
using System.Diagnostics;
using System.Text.RegularExpressions;

using KtNotebooks.Cli;
using KtNotebooks.Tests.Tokenizers;

using Xunit;

namespace KtNotebooks.Tests.Cli;

/// <summary>
/// Whatever stands where a command wants a file or a folder, the answer is one line that names it, at once. Run without a process of its own each, since
/// there are many.
/// </summary>
[Collection(Alone.Name)]
public sealed partial class WrongFileTests : IDisposable
{
    private readonly Samples.Folder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("train X")]
    [InlineData("train X output_dir=OUT")]
    [InlineData("pretrain X")]
    [InlineData("chat X")]
    [InlineData("chat model_name_or_path=X template=deepseek")]
    [InlineData("chat model_name_or_path=TINY template=deepseek adapter_name_or_path=X")]
    [InlineData("predict X")]
    [InlineData("eval X")]
    [InlineData("eval --predictions X")]
    [InlineData("export X")]
    [InlineData("export model_name_or_path=TINY adapter_name_or_path=X export_dir=OUT")]
    [InlineData("plan X")]
    [InlineData("plan deepseek-v3 kt_optimize_rule=X")]
    [InlineData("data check X")]
    [InlineData("data afrimed X --out OUT")]
    [InlineData("data make plain-qa --out OUT --rows 2 --source X")]
    [InlineData("model inspect X")]
    [InlineData("model load X")]
    [InlineData("model make --shape X --out OUT")]
    [InlineData("convert fp8-to-bf16 X OUT")]
    [InlineData("tokenize --tokenizer X")]
    [InlineData("bench tokenize --tokenizer X")]
    [InlineData("bench rows --file X")]
    [InlineData("report t/n=X --out OUT")]
    [InlineData("verify X")]
    [InlineData("adapter X OUT")]
    [InlineData("tour --notebooks X --out OUT")]
    public async Task Is_answered_with_one_line(string line)
    {
        foreach (var (kind, path) in Kinds())
        {
            var error = await Refusal(line, path);
            Assert.True(error is not null, $"{kind}: kt {line} was done");
            Assert.True(error is ArgumentException or IOException or InvalidDataException or NotSupportedException, $"{kind}: kt {line}: {error}");
            Assert.False(SentencesOfDotNet().IsMatch(error.Message), $"{kind}: kt {line}: {error.Message}");
            Assert.False(Path.Exists(Path.Combine(_folder.Path, "OUT")), $"{kind}: kt {line} has written");
        }
    }

    /// <summary>Texts may be anything, but not a folder, a pipe or a device.</summary>
    [Theory]
    [InlineData("tokenize --tokenizer TINY --file X")]
    [InlineData("bench tokenize --tokenizer TINY --file X")]
    public async Task A_file_of_texts_is_a_regular_one(string line)
    {
        foreach (var (kind, path) in Kinds().Where(k => k.Kind is not ("empty" or "garbage")))
            Assert.Contains(path, (await Refusal(line, path))?.Message ?? kind, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("train")]
    [InlineData("pretrain")]
    [InlineData("chat")]
    [InlineData("predict")]
    [InlineData("export")]
    [InlineData("plan")]
    [InlineData("data check")]
    [InlineData("data afrimed")]
    [InlineData("data make neko")]
    [InlineData("model inspect")]
    [InlineData("model load")]
    [InlineData("model make")]
    [InlineData("convert fp8-to-bf16")]
    [InlineData("tokenize")]
    [InlineData("bench tokenize")]
    [InlineData("report")]
    [InlineData("verify")]
    [InlineData("adapter")]
    [InlineData("notebook run")]
    [InlineData("kernel run")]
    public void Nothing_where_something_is_wanted_is_named(string line) =>
        Assert.StartsWith($"kt {line} wants ", CommandLineErrors.Describe(Commands.Parse(Commands.Create(), line.Split(' '))), StringComparison.Ordinal);

    /// <summary>What the command throws; null when it did something. A command that waits for ever fails.</summary>
    private async Task<Exception?> Refusal(string line, string path)
    {
        string[] words = [.. line.Split(' ')
            .Select(w => w.Replace("TINY", Path.Combine(Checkout.Root, "notebooks/models/kt-tiny"), StringComparison.Ordinal)
            .Replace("OUT", Path.Combine(_folder.Path, "OUT"), StringComparison.Ordinal).Replace("X", path, StringComparison.Ordinal))];
        var run = Task.Run(() => Commands.Parse(Commands.Create(), words).InvokeAsync(new InvocationConfiguration { EnableDefaultExceptionHandler = false }));
        var error = await Record.ExceptionAsync(() => run.WaitAsync(TimeSpan.FromSeconds(30), TestContext.Current.CancellationToken));
        return error is TimeoutException ? throw new TimeoutException($"kt {string.Join(' ', words)} waits") : error;
    }

    private IEnumerable<(string Kind, string Path)> Kinds()
    {
        yield return ("missing", Path.Combine(_folder.Path, "missing"));
        yield return ("folder", Directory.CreateDirectory(Path.Combine(_folder.Path, "folder")).FullName);
        yield return ("empty", _folder.Write("empty", ""));
        var garbage = Path.Combine(_folder.Path, "garbage");
        var bytes = new byte[3000];
        new Random(1).NextBytes(bytes);
        File.WriteAllBytes(garbage, bytes);
        yield return ("garbage", garbage);
        yield return ("device", "/dev/null");
        var pipe = Path.Combine(_folder.Path, "pipe");
        if (!Path.Exists(pipe)) Process.Start("mkfifo", [pipe]).WaitForExit();
        yield return ("pipe", pipe);
    }

    [GeneratedRegex("Could not find|Access to the path|Index was out of range|The given key|Nullable object|Object reference|Specified argument|Value cannot "
        + "be null|LineNumber:|isFinalBlock")]
    private static partial Regex SentencesOfDotNet();
}
