using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;

using KtNotebooks.Interactive;
using KtNotebooks.Tests.Tokenizers;

using Xunit;

namespace KtNotebooks.Tests.Browser;

/// <summary>
/// The classic Notebook, started by `kt notebook lab`, in a real browser: what is shown, TAB and Shift-TAB, the stop button in a training, restart. Pictures
/// are left in artifacts/test-results/browser.
/// </summary>
public sealed partial class ClassicNotebookTests : IDisposable
{
    private const string Training = """
        var steps = 0;
        using (var run = FineTuneRun.Open("notebooks/configs/neko-lora.yaml", "output_dir=OUT", "overwrite_output_dir=true", "num_train_epochs=1000"))
        using (var view = new TrainingView("live"))
        {
            run.Trainer.OnStep += s =>
            {
                steps = s.Step;
                view.Update(s.Step, s.TotalSteps, s.Loss, s.LearningRate, s.TokensPerSecond, s.Elapsed, s.Remaining);
            };
            run.Run(Cancel);
        }
        """;

    private readonly Samples.Folder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public async Task A_notebook_is_run_completed_stopped_and_restarted()
    {
        using var browser = await Chromium.Open();
        using var server = Start();
        Write("page.ipynb", "Directory.SetCurrentDirectory(Repository.Root);",
            "new BarChart(\"letters\", [\"cat\", \"猫\"]).Add(\"n\", [3, 1])", Training.Replace("OUT", Path.Combine(_folder.Path, "out")),
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
        Write("untrusted.ipynb", new JsonArray(new JsonObject
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

    private void Write(string name, params string[] cells) => Write(name, [], cells);

    private void Write(string name, JsonArray outputs, params string[] cells) => _folder.Write(name, new JsonObject
    {
        ["cells"] = new JsonArray([.. cells.Select(c => new JsonObject
        {
            ["cell_type"] = "code",
            ["metadata"] = new JsonObject(),
            ["source"] = c,
            ["outputs"] = outputs.DeepClone(),
            ["execution_count"] = null,
        })]),
        ["metadata"] = new JsonObject { ["kernelspec"] = new JsonObject { ["name"] = "ktnotebooks", ["display_name"] = "C#", ["language"] = "C#" } },
        ["nbformat"] = 4,
        ["nbformat_minor"] = 4,
    }.ToJsonString());

    private Server Start()
    {
        Require.Hardware("notebook", File.Exists("/usr/bin/jupyter-notebook") ? null : "the classic Notebook is not here (Debian: jupyter-notebook)");
        return new Server(_folder.Path);
    }

    /// <summary>`kt notebook lab` until disposed.</summary>
    private sealed partial class Server : IDisposable
    {
        private readonly Process _process;
        private readonly TaskCompletionSource<string> _address = new();

        public Server(string folder)
        {
            using var free = new TcpListener(IPAddress.Loopback, 0);
            free.Start();
            var port = ((IPEndPoint)free.LocalEndpoint).Port;
            free.Stop();
            var start = new ProcessStartInfo(Path.Combine(AppContext.BaseDirectory, "kt"),
                ["notebook", "lab", folder, "--no-browser", "--port", $"{port}", "--classic"])
            {
                RedirectStandardError = true,
                RedirectStandardOutput = true,
            };
            start.Environment["JUPYTER_RUNTIME_DIR"] = Path.Combine(folder, "runtime");
            start.Environment["JUPYTER_CONFIG_DIR"] = Path.Combine(folder, "config");
            start.Environment["JUPYTER_DATA_DIR"] = Path.Combine(folder, "data");
            _process = Process.Start(start)!;
            List<string> said = [];
            _process.ErrorDataReceived += (_, line) =>
            {
                if (line.Data is null) _address.TrySetException(new InvalidOperationException(string.Join('\n', said)));
                else if (Url().Match(line.Data) is { Success: true } url) _address.TrySetResult(url.Value);
                said.Add(line.Data ?? "");
            };
            _process.OutputDataReceived += (_, _) => { };
            _process.BeginErrorReadLine();
            _process.BeginOutputReadLine();
        }

        /// <summary>Of a page of it, with the token.</summary>
        public async Task<string> Address(string page)
        {
            var address = await _address.Task.WaitAsync(TimeSpan.FromSeconds(60), TestContext.Current.CancellationToken);
            return address.Replace("/?token", $"/{page}?token", StringComparison.Ordinal);
        }

        public void Dispose()
        {
            if (!_process.HasExited) _process.Kill(entireProcessTree: true);
            _process.WaitForExit();
            _process.Dispose();
        }

        [GeneratedRegex(@"http://(localhost|127\.0\.0\.1):\d+/\?token=\w+")] private static partial Regex Url();
    }
}
