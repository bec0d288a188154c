using System.Diagnostics;
using System.Text.Json.Nodes;

using KtNotebooks.Tests.Tokenizers;

using Xunit;

namespace KtNotebooks.Tests.Cli;

/// <summary>kt notebook check, html, new, and run's time-out, on files.</summary>
public sealed class NotebookCommandTests : IDisposable
{
    private readonly Samples.Folder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void A_new_notebook_runs_is_checked_and_becomes_a_page_that_needs_nothing_else()
    {
        string path = Path.Combine(_folder.Path, "mine.ipynb"), page = Path.Combine(_folder.Path, "mine.html");
        Says(0, "mine.ipynb", "notebook", "new", path);
        Says(2, "is not overwritten", "notebook", "new", path);
        Says(1, "nothing says which code", "notebook", "check", path);
        Says(0, "cells ran", "notebook", "run", path, "--out", path, "-p", "steps=2");
        Says(0, "as it should be", "notebook", "check", path);
        Says(0, page, "notebook", "html", path);
        var html = File.ReadAllText(page);
        Assert.Contains("<details open><summary>code</summary>", html, StringComparison.Ordinal);
        Assert.Contains("FineTuneRun.Open", html, StringComparison.Ordinal);
        Assert.Contains("<svg", html, StringComparison.Ordinal);
        Assert.Contains("prefers-color-scheme: dark", html, StringComparison.Ordinal);
        Assert.DoesNotMatch("(src|href)=\"(https?:)?//", html);
        Assert.DoesNotContain("<script", html, StringComparison.Ordinal);
        File.WriteAllText(path, File.ReadAllText(path).Replace("Take(3)", "Take(2)", StringComparison.Ordinal));
        Says(1, "its code has changed", "notebook", "check", path);
    }

    [Theory]
    [InlineData("{\"image/png\": \"\"}", "has no text form")]
    [InlineData("{\"application/vnd.plotly.v1+json\": {}, \"text/plain\": \"x\"}", "needs a script")]
    [InlineData("{\"text/html\": \"<script>1</script>\", \"text/plain\": \"x\"}", "needs a script")]
    [InlineData("{\"image/svg+xml\": \"<svg xmlns='http://www.w3.org/2000/svg'/>\", \"text/plain\": \"x\"}", "no <title>")]
    [InlineData("{\"image/svg+xml\": \"<svg><title>best NaN</title></svg>\", \"text/plain\": \"x\"}", "says NaN")]
    [InlineData("{\"text/plain\": \"/home/ada/secret\"}", "/home/ada/secret")]
    public void What_a_reader_could_not_see_or_should_not_is_named(string data, string says)
    {
        var output = new JsonObject { ["output_type"] = "display_data", ["metadata"] = new JsonObject(), ["data"] = JsonNode.Parse(data) };
        Says(1, says, "notebook", "check", Write(Cell("1", output)));
    }

    [Fact]
    public void Long_lines_errors_and_pictures_without_text_are_named_with_their_cell()
    {
        var error = new JsonObject { ["output_type"] = "error", ["ename"] = "Oops", ["evalue"] = "no", ["traceback"] = new JsonArray() };
        var prose = new JsonObject { ["cell_type"] = "markdown", ["metadata"] = new JsonObject(), ["source"] = "![](a.png) ![seen](b.png)" };
        var path = Write(prose, Cell("1\n" + new string('1', 101)), Cell("2", error));
        Says(1, "cell 1: the picture a.png has no text", "notebook", "check", path);
        Says(1, "cell 2: line 2 has 101 characters", "notebook", "check", path);
        Says(1, "cell 3: its output is an error: Oops: no", "notebook", "check", path);
    }

    [Fact]
    public void A_cell_that_takes_too_long_is_interrupted_and_named()
    {
        var clock = Stopwatch.StartNew();
        var path = Write(Cell("1 + 1"), Cell("while (true) { }"));
        Says(1, "code cell 2: Timeout: the cell took longer than 1.5 s", "notebook", "run", path, "--timeout", "1.5");
        Assert.True(clock.Elapsed < TimeSpan.FromMinutes(2));
        Says(2, "--timeout", "notebook", "run", path, "--timeout", "-1");
    }

    private string Write(params JsonNode[] cells) => _folder.Write("given.ipynb", new JsonObject
    {
        ["cells"] = new JsonArray(cells),
        ["metadata"] = new JsonObject(),
        ["nbformat"] = 4,
        ["nbformat_minor"] = 5,
    }.ToJsonString());

    private static JsonObject Cell(string source, params JsonNode[] outputs) => new()
    {
        ["cell_type"] = "code",
        ["metadata"] = new JsonObject(),
        ["source"] = source,
        ["outputs"] = new JsonArray(outputs),
        ["execution_count"] = null,
    };

    private static void Says(int exit, string words, params string[] arguments)
    {
        var (code, said, errors) = Kt.Run(arguments);
        Assert.True(code == exit, $"{string.Join(' ', arguments)}: exit code {code}\n{said}\n{errors}");
        Assert.Contains(words, said + errors, StringComparison.Ordinal);
    }
}
