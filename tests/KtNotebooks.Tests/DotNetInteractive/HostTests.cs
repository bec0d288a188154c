using System.Globalization;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;

using KtNotebooks.Jupyter;
using KtNotebooks.Jupyter.Notebooks;
using KtNotebooks.Tests.Notebooks;

using Xunit;

namespace KtNotebooks.Tests.DotNetInteractive;

/// <summary>The same cells in .NET Interactive and in our kernel, each started from its kernel spec as Jupyter starts it.</summary>
[Collection(Packed.Name)]
public sealed class HostTests(Packed packed, ITestOutputHelper output)
{
    private const string Plotly = "application/vnd.plotly.v1+json";

    private const int MinutesAllowed = 15;
    private const string FirstCell = "#r \"nuget: KtNotebooks\"\nDirectory.SetCurrentDirectory(Repository.Root);";

    private static CancellationToken Cancelled => TestContext.Current.CancellationToken;

    public static TheoryData<string> Notebooks => NotebookTests.All;

    [Theory]
    [InlineData(KernelSpec.DotNetInteractiveAlias)]
    [InlineData(KernelSpec.Name)]
    public void Everything_that_shows_itself_is_shown_in_its_own_mime_types(string host)
    {
        using var kernel = Start(host);
        string[] pictures = [Plotly, "image/png", "image/svg+xml", "text/plain"];
        Assert.Equal(pictures, Shown(kernel, "new BarChart(\"a\", [\"x\", \"y\"], y: \"n\").Add(\"s\", [1.0, 2.0])"));
        Assert.Equal(pictures, Shown(kernel, "new LineChart(\"a\", \"x\", \"y\").Add(\"s\", [1.0, 2.0], [1.0, 2.0])"));
        Assert.Equal(pictures, Shown(kernel, "new Histogram(\"a\", [1.0, 2.0], bins: 2, x: \"x\")"));
        Assert.Equal(pictures, Shown(kernel, "new Treemap(\"a\", \"M\").Add(\"x\", 1)"));
        Assert.Equal(["text/html", "text/markdown", "text/plain"], Shown(kernel, "new Table(\"a\", \"b\").Row(1, 2)"));
        Assert.Equal(["text/html", "text/plain"], Shown(kernel, "new TokenView([(\"a\", true)])"));
        Assert.Equal(pictures, Shown(kernel, "using (var v = new TrainingView(\"live\"))\n    v.Update(1, 2, 3.0, 0.1, 10, TimeSpan.Zero, TimeSpan.Zero);"));
        // As JSON, and not as a text that holds some: front ends hand it to Plotly as it is.
        Assert.IsType<JsonObject>(Assert.Single(Run(kernel, "new Histogram(\"a\", [1.0, 2.0], bins: 2, x: \"x\")"))!["data"]![Plotly]);
        Assert.Contains("True", Text(Run(kernel, "Cancel.CanBeCanceled")), StringComparison.Ordinal);
        Assert.Contains("True", Text(Run(kernel, "File.Exists(\"KtNotebooks.sln\")")), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(KernelSpec.DotNetInteractiveAlias)]
    [InlineData(KernelSpec.Name)]
    public void Stopping_the_cell_stops_the_training_and_keeps_the_variables(string host)
    {
        using var kernel = Start(host);
        var folder = Directory.CreateTempSubdirectory("kt-host-tests-");
        try
        {
            Run(kernel, "var steps = 0; var run = FineTuneRun.Open(\"notebooks/configs/neko-lora.yaml\", "
                + $"\"output_dir={folder.FullName}\", \"overwrite_output_dir=true\", \"num_train_epochs=1000\");\nrun.Trainer.OnStep += s => steps = s.Step;");
            using var stop = CancellationTokenSource.CreateLinkedTokenSource(Cancelled);
            stop.CancelAfter(TimeSpan.FromSeconds(6));
            var clock = System.Diagnostics.Stopwatch.StartNew();
            Execute(kernel, "run.Run(Cancel);", stop.Token);
            Assert.InRange(clock.Elapsed.TotalSeconds, 5, 60);
            var reached = Step(kernel);
            Assert.True(reached > 0);
            Thread.Sleep(2000);
            Assert.Equal(reached, Step(kernel));
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    [Theory]
    [MemberData(nameof(Notebooks))]
    public void Each_notebook_runs_in_dotnet_interactive_too(string name)
    {
        Require.Hardware("dotnet-interactive", packed.Missing);
        var folder = Directory.CreateTempSubdirectory("kt-host-tests-");
        try
        {
            using var patience = CancellationTokenSource.CreateLinkedTokenSource(Cancelled);
            patience.CancelAfter(TimeSpan.FromMinutes(MinutesAllowed));
            var (given, executed) = (Path.Combine(Checkout.Root, "notebooks", name), Path.Combine(folder.FullName, name));
            var clock = System.Diagnostics.Stopwatch.StartNew();
            var result = NotebookRunner.Run(given, executed, [], patience.Token, KernelSpec.DotNetInteractiveAlias);
            output.WriteLine($"{name}: {result.CellsRun} cells in {clock.Elapsed.TotalSeconds:F0} s");
            Assert.True(result.Success, $"{name}: {result.Error}");
            // The first cell differs: there it tells about the package.
            Assert.Equal(Pictures(given).Skip(1), Pictures(executed).Skip(1));
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    [Fact]
    public void A_kernel_that_is_not_there_is_named_with_those_that_are()
    {
        var error = Assert.Throws<FileNotFoundException>(() => new KernelClient("klingon", Checkout.Root, Cancelled));
        Assert.Matches(@"no kernel 'klingon' is installed; there is .*ktnotebooks", error.Message);
    }

    private KernelClient Start(string host)
    {
        if (host == KernelSpec.DotNetInteractiveAlias) Require.Hardware("dotnet-interactive", packed.Missing);
        var kernel = new KernelClient(host, Path.Combine(Checkout.Root, "notebooks"), Cancelled);
        Run(kernel, FirstCell);
        return kernel;
    }

    private static JsonArray Run(KernelClient kernel, string code)
    {
        var (error, outputs) = Execute(kernel, code, Cancelled);
        Assert.True(error is null, $"{code}: {error}");
        return outputs;
    }

    private static (string? Error, JsonArray Outputs) Execute(KernelClient kernel, string code, CancellationToken cancel)
    {
        var displays = new Displays();
        var output = new NotebookOutput(displays);
        var error = kernel.Execute(code, 1, output, cancel);
        displays.Settle(() => { });
        return (error is null ? null : $"{error.Name}: {error.Value}", output.Outputs);
    }

    private static int Step(KernelClient kernel) =>
        int.Parse(Regex.Match(Text(Run(kernel, "$\"at step {steps}.\"")), @"at step (\d+)\.").Groups[1].Value, CultureInfo.InvariantCulture);

    /// <summary>The MIME types of the one thing that a cell shows.</summary>
    private static string[] Shown(KernelClient kernel, string code) => Types(Assert.Single(Run(kernel, code))!);

    private static string[] Types(JsonNode shown) => [.. ((JsonObject)shown["data"]!).Select(d => d.Key).Order(StringComparer.Ordinal)];

    private static string Text(JsonArray outputs) => outputs.ToJsonString();

    /// <summary>The MIME types of all pictures and tables, cell by cell; plain values may differ, as hosts have formatters of their own for them.</summary>
    private static string[][] Pictures(string path) =>
        [.. ((JsonArray)JsonNode.Parse(File.ReadAllText(path))!["cells"]!).Where(c => (string?)c!["cell_type"] == "code")
            .Select(c => c!["outputs"]!.AsArray().Where(o => o!["data"] is not null)
                .Select(o => Types(o!)).Where(t => t.Length > 1)
                .Select(t => string.Join(' ', t)).ToArray())];
}
