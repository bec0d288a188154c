using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Tests.Cli;
using KtNotebooks.Tests.Tokenizers;

using Xunit;

namespace KtNotebooks.Tests.Jupyter;

/// <summary>`kt notebook run` on notebooks as people write them: what went wrong once, by kind.</summary>
public sealed class NotebookRunTests : IDisposable
{
    private readonly Samples.Folder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void Cells_without_statements_run_and_their_usings_stay()
    {
        var cells = Run(["using System.Text.RegularExpressions;", "// only a comment", "/* two\nlines */", "#pragma warning disable CS0219",
            "#region a\n#endregion", "#if false\nnonsense\n#endif", "Regex.IsMatch(\"abc\", \"b\")"]);
        Assert.Contains("True", Text(cells[^1]), StringComparison.Ordinal);
    }

    [Fact]
    public void What_a_task_writes_after_its_cell_is_kept_in_that_cell()
    {
        var cells = Run(["_ = System.Threading.Tasks.Task.Run(async () => { await System.Threading.Tasks.Task.Delay(300); System.Console.WriteLine(\"late "
            + "words\"); });", "System.Threading.Thread.Sleep(900); 1 + 1"]);
        Assert.All(cells.SelectMany(c => c["outputs"]!.AsArray()).Where(o => (string?)o!["output_type"] == "stream"), o => Assert.NotNull(o!["text"]));
        Assert.Contains("late words", string.Concat(cells.Select(Text)), StringComparison.Ordinal);
    }

    [Fact]
    public void What_a_run_that_breaks_off_does_not_reach_has_no_output()
    {
        var notebook = Notebook(["1 + 1", "throw new Exception(\"stop\");", "3 + 3"]);
        foreach (var cell in notebook["cells"]!.AsArray())
            cell!["outputs"] = new JsonArray(new JsonObject { ["output_type"] = "stream", ["name"] = "stdout", ["text"] = "of an earlier run" });
        var (path, target) = (_folder.Write("stops.ipynb", notebook.ToJsonString()), Path.Combine(_folder.Path, "out.ipynb"));
        Assert.NotEqual(0, Kt.Run("notebook", "run", path, "--out", target).Exit);
        var cells = JsonNode.Parse(File.ReadAllText(target))!["cells"]!.AsArray();
        Assert.Equal([1, 1, 0], cells.Select(c => c!["outputs"]!.AsArray().Count));
        Assert.DoesNotContain("earlier", File.ReadAllText(target), StringComparison.Ordinal);
    }

    [Fact]
    public void A_cell_that_ends_the_process_loses_nothing_of_what_ran()
    {
        var notebook = Notebook(["1 + 1", "Console.WriteLine(\"so far\"); Environment.Exit(3);", "2"]);
        var target = Path.Combine(_folder.Path, "out.ipynb");
        var (exit, _, errors) = Kt.Run("notebook", "run", _folder.Write("exits.ipynb", notebook.ToJsonString()), "--out", target);
        Assert.Equal((3, "code cell 2: ended the process"), (exit, errors.Trim()));
        var cells = JsonNode.Parse(File.ReadAllText(target))!["cells"]!.AsArray();
        Assert.Equal([1, 1, 0], cells.Select(c => c!["outputs"]!.AsArray().Count));
    }

    [Fact]
    public void Checks_go_on_behind_a_file_that_cannot_be_read()
    {
        var python = _folder.Write("py.ipynb",
            """{"cells":[],"metadata":{"kernelspec":{"name":"python3","language":"python"}},"nbformat":4,"nbformat_minor":5}""");
        var (exit, _, errors) = Kt.Run("notebook", "check", python, Path.Combine(_folder.Path, "nothere.ipynb"), _folder.Write("broken.ipynb", "{"));
        Assert.Equal(1, exit);
        foreach (var name in (string[])["py.ipynb", "nothere.ipynb", "broken.ipynb"]) Assert.Contains(name, errors, StringComparison.Ordinal);
    }

    [Fact]
    public void Cultures_have_names_and_a_cell_begins_without_one()
    {
        var cells = Run(["1234.5.ToString(\"N1\", System.Globalization.CultureInfo.GetCultureInfo(\"de-DE\"))", "1234.5.ToString(\"N1\")"]);
        Assert.Contains("1.234,5", Text(cells[0]), StringComparison.Ordinal);
        Assert.Contains("1,234.5", Text(cells[1]), StringComparison.Ordinal);
    }

    [Fact]
    public void Parameters_take_the_place_of_the_tagged_cell_s_values()
    {
        var notebook = Notebook(["int n = 1;\nstring who = \"nobody\";", "$\"{who} {n}\""]);
        notebook["cells"]![0]!["metadata"] = new JsonObject { ["tags"] = new JsonArray("parameters") };
        var cells = Run(notebook, "-p", "n=5", "-p", "who=Ada");
        Assert.Contains("Ada 5", Text(cells[^1]), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("not json", "JSON")]
    [InlineData("{\"cells\": [null], \"metadata\": {}, \"nbformat\": 4, \"nbformat_minor\": 5}", "cell")]
    [InlineData("{\"cells\": [], \"metadata\": {\"kernelspec\": {\"name\": \"python3\", \"language\": \"python\"}}, \"nbformat\": 4, \"nbformat_minor\": 5}",
        "python")]
    [InlineData("{\"worksheets\": [], \"metadata\": {}, \"nbformat\": 3, \"nbformat_minor\": 0}", "3")]
    public void What_is_no_notebook_of_ours_is_told_in_a_line(string text, string says)
    {
        var (exit, _, errors) = Kt.Run("notebook", "run", _folder.Write("odd.ipynb", text));
        Assert.NotEqual(0, exit);
        Assert.Contains(says, errors, StringComparison.OrdinalIgnoreCase);
        Assert.DoesNotContain("   at ", errors, StringComparison.Ordinal);
    }

    [Fact]
    public void Clearing_the_console_clears_the_output_and_help_is_shown_where_no_pager_is()
    {
        var cells = Run(["Console.WriteLine(\"gone\");\nfor (var i = 0; i < 2; i++) Console.Clear();\nConsole.WriteLine(\"here\");", "#!help"]);
        Assert.Equal("here\n", (string?)Assert.Single(cells[0]["outputs"]!.AsArray())!["text"]);
        Assert.Contains("#!lsmagic", Text(cells[1]), StringComparison.Ordinal);
    }

    [Fact]
    public void Of_a_long_line_an_error_shows_the_place()
    {
        var notebook = Notebook([$"var a = \"{new string('x', 5000)}\"; int b = nothing;  // {new string('y', 5000)}"]);
        notebook["cells"]![0]!["metadata"] = new JsonObject { ["tags"] = new JsonArray("raises-exception") };
        var lines = Run(notebook)[0]["outputs"]![0]!["traceback"]!.AsArray().Select(l => ((string)l!).Replace("\e[31m", "").Replace("\e[0m", "")).ToArray();
        var at = Array.FindIndex(lines, l => l.Contains("int b = nothing;", StringComparison.Ordinal));
        Assert.InRange(lines[at].Length, 100, 200);
        Assert.Equal(lines[at].IndexOf("nothing", StringComparison.Ordinal), lines[at + 1].IndexOf('^'));
    }

    private JsonNode[] Run(string[] sources) => Run(Notebook(sources));

    private JsonNode[] Run(JsonObject notebook, params string[] options)
    {
        var file = _folder.Write("in.ipynb", notebook.ToJsonString());
        var output = Path.Combine(_folder.Path, "out.ipynb");
        var (exit, said, errors) = Kt.Run(["notebook", "run", file, "--out", output, .. options]);
        Assert.True(exit == 0, $"{said}\n{errors}");
        return [.. JsonNode.Parse(File.ReadAllText(output))!["cells"]!.AsArray().Select(c => c!)];
    }

    private static JsonObject Notebook(string[] sources) => new()
    {
        ["cells"] = new JsonArray([.. sources.Select((source, i) => new JsonObject
        {
            ["cell_type"] = "code",
            ["id"] = $"c{i}",
            ["metadata"] = new JsonObject(),
            ["execution_count"] = null,
            ["outputs"] = new JsonArray(),
            ["source"] = source,
        })]),
        ["metadata"] = new JsonObject(),
        ["nbformat"] = 4,
        ["nbformat_minor"] = 5,
    };

    /// <summary>Everything that a cell has put out, as text.</summary>
    private static string Text(JsonNode cell) =>
        string.Concat(cell["outputs"]!.AsArray()
            .Select(o => o!.ToJsonString(new JsonSerializerOptions { Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping })));
}
