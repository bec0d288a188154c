using KtNotebooks.Tests.Tokenizers;

using Xunit;

namespace KtNotebooks.Tests.Browser;

/// <summary>
/// JupyterLab, started by `kt notebook lab`, in a real browser: what is shown, TAB and Shift-TAB, the stop button in a training, restart. No pip reaches here,
/// so its front end is put together from npm's packages (JupyterLab/package.json) and stands on Debian's jupyterlab-server. Pictures are left in
/// artifacts/test-results/browser.
/// </summary>
public sealed class JupyterLabTests : IDisposable
{
    private const string Panel = "jupyterlab.shell.widgets('main').next()", Cells = Panel + ".content.widgets",
        Kernel = Panel + ".sessionContext.session.kernel";

    private readonly Samples.Folder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public async Task A_notebook_is_run_completed_stopped_and_restarted()
    {
        Require.Hardware("npm", Missing());
        var programs = Path.Combine(Checkout.Root, "artifacts", "jupyterlab");
        Require.Hardware("npm", Build(programs));
        using var browser = await Chromium.Open();
        using var server = new NotebookServer(_folder.Path, programs);
        NotebookServer.Write(_folder, "page.ipynb", [], "Directory.SetCurrentDirectory(Repository.Root);",
            "new BarChart(\"letters\", [\"cat\", \"猫\"]).Add(\"n\", [3, 1])", NotebookServer.Training(_folder), "$\"stopped at {steps}\"", "Console.Wri");
        await browser.Go(await server.Address("lab/tree/page.ipynb"));
        await browser.Until($"window.jupyterlab?.shell?.widgets('main').next()?.sessionContext?.session?.kernel?.status == 'idle' && {Cells}.length == 5");
        await browser.Value($"jupyterlab.shell.activateById({Panel}.id), 0");
        Assert.Equal("ktnotebooks", (string?)await browser.Value($"{Kernel}.name"));

        // TAB and Shift-TAB, before any cell has run.
        await Ask(browser, 4, "Console.Wri", shift: false,
            "[...document.querySelectorAll('.jp-Completer-item')].some(o => o.textContent.includes('WriteLine'))");
        await browser.Picture("lab-tab");
        await browser.Press("Escape", 27);
        await Ask(browser, 4, "Console.WriteLine", shift: true, "document.querySelector('.jp-Tooltip')?.textContent.includes('WriteLine(') == true");
        await browser.Picture("lab-shift-tab");
        await browser.Press("Escape", 27);

        // All cells: a chart as a picture, and one that moves.
        await browser.Value("jupyterlab.commands.execute('notebook:run-all-cells'), 0");
        await browser.Until(Shown(1, "querySelector('.jp-OutputArea svg title, .jp-OutputArea img')"));
        await browser.Until(Shown(2, "querySelector('.jp-OutputArea svg, .jp-OutputArea img')"));
        var moving = $"{Cells}[2].node.querySelector('.jp-OutputArea').innerHTML";
        var first = (string)(await browser.Value(moving))!;
        await browser.Until($"{moving}.length > {first.Length + 100}");
        await browser.Value($"{Cells}[2].node.querySelector('.jp-OutputArea').scrollIntoView(), 0");
        await browser.Picture("lab-live");

        // The stop button; variables stay, and the cells behind it go on. (The kernel says "idle" of the message that interrupts too.)
        await browser.Value("jupyterlab.commands.execute('notebook:interrupt-kernel'), 0");
        await browser.Until($"/\\d/.test({Cells}[4].node.querySelector('.jp-InputPrompt').textContent)");
        await browser.Until($"/stopped at [1-9]/.test({Cells}[3].node.querySelector('.jp-OutputArea').textContent)");
        await browser.Value($"{Cells}[2].node.querySelector('.jp-OutputArea').scrollIntoView(), 0");
        await browser.Picture("lab-stopped");

        // Restart: variables go, and the kernel answers again.
        await browser.Value($"{Kernel}.restart(), 0");
        await browser.Until($"{Kernel}.connectionStatus == 'connected' && {Kernel}.status == 'idle'");
        await browser.Value($"{Panel}.content.activeCellIndex = 3, jupyterlab.commands.execute('notebook:run-cell'), 0");
        await browser.Until($"{Cells}[3].node.querySelector('.jp-OutputArea').textContent.includes('CS0103')");
    }

    private static string Shown(int cell, string what) => $"{Cells}[{cell}].node.{what} != null";

    /// <summary>TAB behind a text until it is answered: the page may be given the focus, or the kernel connected to its completer, a moment later.</summary>
    private static async Task Ask(Chromium browser, int cell, string text, bool shift, string answer)
    {
        for (var tries = 0; tries < 12; tries++)
        {
            await browser.Value($"{Cells}[{cell}].model.value.text = '{text}', {Panel}.content.activeCellIndex = {cell}, {Panel}.content.mode = 'edit', "
                + $"{Cells}[{cell}].editor.focus(), {Cells}[{cell}].editor.setCursorPosition({{ line: 0, column: 99 }}), 0");
            await browser.Press("Tab", 9, shift);
            for (var waited = 0; waited < 40; waited++)
            {
                if ((bool)(await browser.Value(answer))!) return;
                await Task.Delay(250, TestContext.Current.CancellationToken);
            }
            await browser.Press("Escape", 27);
        }
        await browser.Until(answer, seconds: 1); // says what it waited for
    }

    private static string? Missing()
    {
        if (!OperatingSystem.IsLinux() || !File.Exists("/usr/bin/python3")) return "Debian's Python is not here";
        return NpmPackages.Run("/usr/bin/python3", "-c", "import jupyterlab_server").Status == 0 ? null
            : "jupyterlab-server is not here (Debian: python3-jupyterlab-server)";
    }

    /// <summary>Puts JupyterLab together in a folder, once for these sources; returns why that fails, or null.</summary>
    private static string? Build(string folder)
    {
        var source = Path.Combine(Checkout.Root, "tests/KtNotebooks.Tests/Browser/JupyterLab");
        string[] files = [.. Directory.GetFiles(source, "*", SearchOption.AllDirectories).Order(StringComparer.Ordinal)];
        var (sources, stamp) = (string.Concat(files.Select(File.ReadAllText)), Path.Combine(folder, "built-of.txt"));
        if (File.Exists(stamp) && File.ReadAllText(stamp) == sources) return null;
        Checkout.Copy(source, folder);
        var program = Path.Combine(folder, "jupyter-lab");
        if (!OperatingSystem.IsWindows()) File.SetUnixFileMode(program, File.GetUnixFileMode(program) | UnixFileMode.UserExecute);
        if (NpmPackages.Run("npm", "install", "--prefix", folder, "--ignore-scripts", "--legacy-peer-deps", "--no-audit", "--no-fund") is
            { Status: not 0 } install) return $"npm install fails: {install.Error}";
        if (NpmPackages.Run("node", Path.Combine(folder, "node_modules/webpack/bin/webpack.js"), "--config", Path.Combine(folder, "webpack.config.js")) is
            { Status: not 0 } build) return $"webpack fails: {build.Output}{build.Error}";
        File.WriteAllText(stamp, sources);
        return null;
    }
}
