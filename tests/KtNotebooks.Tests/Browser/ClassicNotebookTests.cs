using System.Text.Json.Nodes;

using KtNotebooks.Interactive;
using KtNotebooks.Tests.Tokenizers;

using Xunit;

namespace KtNotebooks.Tests.Browser;

/// <summary>
/// The classic Notebook, started by `kt notebook lab`, in a real browser: what is shown, TAB and Shift-TAB, the stop button in a training, restart. Pictures
/// are left in artifacts/test-results/browser.
/// </summary>
public sealed class ClassicNotebookTests : IDisposable
{
    private readonly Samples.Folder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public async Task A_notebook_is_run_completed_stopped_and_restarted()
    {
        using var browser = await Chromium.Open();
        using var server = Start();
        Write("page.ipynb", "Directory.SetCurrentDirectory(Repository.Root);",
            "new BarChart(\"letters\", [\"cat\", \"猫\"]).Add(\"n\", [3, 1])", NotebookServer.Training(_folder),
            "$\"stopped at {steps}\"",
            "Console.Wri");
        await browser.Go(await server.Address("notebooks/page.ipynb"));
        await browser.Until("window.Jupyter && Jupyter.notebook && Jupyter.notebook.kernel && Jupyter.notebook.kernel.info_reply"
            + ".implementation == 'ktnotebooks'");

        // TAB and Shift-TAB, before any cell has run.
        await Select(browser, 4);
        await browser.Press("Tab", 9);
        await browser.Until("[...document.querySelectorAll('.completions option')].some(o => o.textContent == 'WriteLine')");
        await browser.Picture("classic-tab");
        await browser.Press("Escape", 27);
        await browser.Value("Jupyter.notebook.get_cell(4).set_text('Console.WriteLine'), 0");
        await Select(browser, 4);
        await browser.Press("Tab", 9, shift: true);
        await browser.Until("document.querySelector('#tooltip').textContent.includes('WriteLine(')");
        await browser.Picture("classic-shift-tab");

        // A chart as a picture, and one that moves.
        await browser.Value("Jupyter.notebook.execute_cells([0, 1, 2]), 0");
        await browser.Until("document.querySelectorAll('.cell')[1].querySelector('svg title')");
        await browser.Until("document.querySelectorAll('.cell')[2].querySelector('svg title')?.textContent.includes('live')");
        var first = (string)(await browser.Value("document.querySelectorAll('.cell')[2].querySelector('svg').outerHTML"))!;
        await browser.Until($"document.querySelectorAll('.cell')[2].querySelector('svg').outerHTML.length > {first.Length + 100}");
        await browser.Picture("classic-live");

        // The stop button; variables stay.
        await browser.Value("Jupyter.notebook.kernel.interrupt(), 0");
        await browser.Until("!document.querySelectorAll('.cell')[2].classList.contains('running')");
        await browser.Value("Jupyter.notebook.execute_cells([3]), 0");
        await browser.Until("/stopped at [1-9]/.test(document.querySelectorAll('.cell')[3].querySelector('.output').textContent)");
        await browser.Value("Jupyter.notebook.get_cell(2).element[0].scrollIntoView(), 0");
        await browser.Picture("classic-stopped");

        // Restart: variables go, and the kernel answers again.
        await browser.Value("Jupyter.notebook.kernel.restart(), 0");
        await browser.Until("Jupyter.notebook.kernel.is_connected() && !Jupyter.notebook.kernel_busy");
        await browser.Value("Jupyter.notebook.execute_cells([3]), 0");
        await browser.Until("document.querySelectorAll('.cell')[3].querySelector('.output').textContent.includes('CS0103')");
    }

    [Fact]
    public async Task Trained_tokens_differ_in_a_notebook_that_is_not_trusted()
    {
        using var browser = await Chromium.Open();
        using var server = Start();
        var view = new TokenView([("masked", false), ("trained", true)]);
        NotebookServer.Write(_folder, "untrusted.ipynb", new JsonArray(new JsonObject
        {
            ["output_type"] = "display_data",
            ["metadata"] = new JsonObject(),
            ["data"] = new JsonObject { ["text/html"] = view.ToHtml(), ["text/plain"] = view.ToText() },
        }), "1");
        await browser.Go(await server.Address("notebooks/untrusted.ipynb"));
        await browser.Until("document.querySelector('.output_html')?.textContent.includes('trained')");
        Assert.False((bool)(await browser.Value("Jupyter.notebook.trusted"))!);
        var looks = (JsonArray)(await browser.Value("[...document.querySelectorAll('.output_html font')].slice(0, 2).map(e => getComputedStyle(e).color + "
            + "getComputedStyle(e).fontWeight)"))!;
        Assert.Equal(2, looks.Select(l => (string?)l).Distinct().Count());
        await browser.Picture("classic-untrusted");
    }

    private static async Task Select(Chromium browser, int cell) => await browser.Value(
        $"Jupyter.notebook.select({cell}), Jupyter.notebook.edit_mode(), Jupyter.notebook.get_cell({cell}).code_mirror.focus(), "
        + $"Jupyter.notebook.get_cell({cell}).code_mirror.setCursor(0, 99), 0");

    private void Write(string name, params string[] cells) => NotebookServer.Write(_folder, name, [], cells);

    private NotebookServer Start()
    {
        Require.Hardware("notebook", File.Exists("/usr/bin/jupyter-notebook") ? null : "the classic Notebook is not here (Debian: jupyter-notebook)");
        return new NotebookServer(_folder.Path);
    }
}
