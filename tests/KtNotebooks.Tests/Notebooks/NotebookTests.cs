using System.Text.Json.Nodes;
using System.Text.RegularExpressions;

using KtNotebooks.Jupyter;

using Xunit;

namespace KtNotebooks.Tests.Notebooks;

/// <summary>The notebooks of the repository: each runs as it is through real Jupyter, and what is stored in it is what a reader may see.</summary>
[Collection(DotNetInteractive.Packed.Name)] // which runs the same notebooks, that work in the same folders
public sealed partial class NotebookTests(ITestOutputHelper output)
{
    private const int MinutesAllowed = 15;
    private const long MostMemory = 4_000_000_000, MostBytes = 2_000_000;

    private static readonly string Folder = Path.Combine(Checkout.Root, "notebooks");

    public static TheoryData<string> All => [.. Directory.GetFiles(Folder, "*.ipynb").Order(StringComparer.Ordinal).Select(f => Path.GetFileName(f))];

    [Theory]
    [MemberData(nameof(All))]
    public void Runs_and_shows_what_is_stored_in_it(string name)
    {
        var folder = Directory.CreateTempSubdirectory("kt-notebook-tests-");
        try
        {
            var jupyter = Jupyters.Create(folder.FullName);
            using var patience = CancellationTokenSource.CreateLinkedTokenSource(TestContext.Current.CancellationToken);
            patience.CancelAfter(TimeSpan.FromMinutes(MinutesAllowed));
            var executed = Path.Combine(folder.FullName, name);
            var result = jupyter.Run(Source(name), executed, null, patience.Token);
            Assert.True(result.Success, $"{name}: {result.Error}");
            output.WriteLine($"{result.CellsRun} cells, the kernel's peak memory {result.KernelPeakBytes / 1e6:F0} MB");
            Assert.True(result.KernelPeakBytes is null or < MostMemory, $"the kernel held {result.KernelPeakBytes / 1e9:F1} GB");
            foreach (var (fresh, stored) in CodeCells(executed).Zip(CodeCells(Source(name))))
            {
                Assert.Equal(Kinds(fresh), Kinds(stored));
            }
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    [Theory]
    [MemberData(nameof(All))]
    public void Is_kept_clean(string name)
    {
        var text = File.ReadAllText(Source(name));
        var notebook = JsonNode.Parse(text)!;
        Assert.True(text.Length < MostBytes, $"{name} has {text.Length / 1e6:F1} MB; show less in it");
        Assert.Equal(4, (int)notebook["nbformat"]!);
        Assert.Equal(KernelSpec.Name, (string?)notebook["metadata"]?["kernelspec"]?["name"]);
        Assert.All(CodeCells(Source(name)), cell => Assert.DoesNotContain("error", Kinds(cell)));
        var path = HomePath().Match(text);
        Assert.False(path.Success, $"{name} holds a path of the machine that ran it: {path.Value}");
    }

    private static string Source(string name) => Path.Combine(Folder, name);

    private static IEnumerable<JsonObject> CodeCells(string path) =>
        ((JsonArray)JsonNode.Parse(File.ReadAllText(path))!["cells"]!).OfType<JsonObject>().Where(c => (string?)c["cell_type"] == "code");

    /// <summary>Which kinds of output a cell has; how many of each may differ from run to run, as printed text arrives in pieces.</summary>
    private static string[] Kinds(JsonObject cell) =>
        [.. ((JsonArray)cell["outputs"]!).Select(o => (string)o!["output_type"]!).Distinct().Order(StringComparer.Ordinal)];

    // Not inside base64, where any letters may stand between slashes.
    [GeneratedRegex(@"(?<![\w+/.:])/(home|root|tmp|work|mnt|opt|var|Users)/[^""\s\\]*")]
    private static partial Regex HomePath();
}
