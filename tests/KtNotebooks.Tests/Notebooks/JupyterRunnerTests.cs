using System.Diagnostics;
using System.Text.Json.Nodes;

using KtNotebooks.Jupyter;

using Xunit;

namespace KtNotebooks.Tests.Notebooks;

public sealed class JupyterRunnerTests : IDisposable
{
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("kt-jupyter-runner-");

    public void Dispose() => _folder.Delete(recursive: true);

    [Fact]
    public void Runs_in_the_notebooks_folder_and_stores_the_outputs()
    {
        var notebook = Write("Path.GetFileName(Environment.CurrentDirectory)", "", "var x = 6;", "x * 7");
        var executed = Path.Combine(_folder.FullName, "executed.ipynb");
        var seen = new List<(int, int)>();
        var result = Jupyters.Create(_folder.FullName).Run(notebook, executed, (cell, of) => seen.Add((cell, of)), TestContext.Current.CancellationToken);
        Assert.Null(result.Error);
        Assert.Equal(3, result.CellsRun);
        Assert.Equal([(1, 3), (2, 3), (3, 3)], seen);
        Assert.True(result.KernelPeakBytes is null or > 50_000_000);
        Assert.Equal([_folder.Name, "42"], Results(executed));
    }

    [Fact]
    public void A_failing_cell_is_named_and_ends_the_run()
    {
        var notebook = Write("1", "throw new InvalidDataException(\"on purpose\");", "3");
        var executed = Path.Combine(_folder.FullName, "executed.ipynb");
        var result = Jupyters.Create(_folder.FullName).Run(notebook, executed, null, TestContext.Current.CancellationToken);
        Assert.Equal("code cell 2: InvalidDataException: on purpose", result.Error);
        Assert.Equal(["1"], Results(executed));
    }

    [Fact]
    public void Cancelling_ends_the_kernel_too_and_writes_nothing()
    {
        var runner = Jupyters.Create(_folder.FullName);
        var notebook = Write("System.IO.File.WriteAllText(\"pid\", Environment.ProcessId.ToString());", "System.Threading.Thread.Sleep(-1);");
        var executed = Path.Combine(_folder.FullName, "executed.ipynb");
        using var cancel = CancellationTokenSource.CreateLinkedTokenSource(TestContext.Current.CancellationToken);
        Assert.ThrowsAny<OperationCanceledException>(() =>
            runner.Run(notebook, executed, (cell, _) => cancel.CancelAfter(cell == 2 ? 200 : Timeout.Infinite), cancel.Token));
        Assert.False(File.Exists(executed));
        var kernel = int.Parse(File.ReadAllText(Path.Combine(_folder.FullName, "pid")), System.Globalization.CultureInfo.InvariantCulture);
        Assert.Throws<ArgumentException>(() => Process.GetProcessById(kernel));
    }

    private string Write(params string[] code)
    {
        var cells = code.Select((source, i) => (JsonNode)new JsonObject
        {
            ["cell_type"] = "code",
            ["id"] = $"cell-{i}",
            ["metadata"] = new JsonObject(),
            ["source"] = source,
            ["outputs"] = new JsonArray(),
            ["execution_count"] = null,
        });
        var notebook = new JsonObject
        {
            ["cells"] = new JsonArray([.. cells]),
            ["metadata"] = new JsonObject { ["kernelspec"] = new JsonObject { ["name"] = KernelSpec.Name, ["display_name"] = "C#", ["language"] = "C#" } },
            ["nbformat"] = 4,
            ["nbformat_minor"] = 5,
        };
        var path = Path.Combine(_folder.FullName, "given.ipynb");
        File.WriteAllText(path, notebook.ToJsonString());
        return path;
    }

    /// <summary>The text of every execute_result, in order; nbformat stores it as a list of lines.</summary>
    private static string[] Results(string executed) =>
        [.. ((JsonArray)JsonNode.Parse(File.ReadAllText(executed))!["cells"]!).SelectMany(c => (JsonArray)c!["outputs"]!)
            .Where(o => (string?)o!["output_type"] == "execute_result")
            .Select(o => o!["data"]!["text/plain"]! is JsonArray lines ? string.Concat(lines.Select(l => (string?)l)) : (string)o["data"]!["text/plain"]!)];
}
