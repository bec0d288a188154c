using System.CommandLine;
using System.Diagnostics;

using KtNotebooks.Interactive;
using KtNotebooks.Jupyter.Notebooks;

namespace KtNotebooks.Cli;

/// <summary>kt tour: executes all notebooks and leaves a page with every chart; what a newcomer runs first.</summary>
internal static class TourCommand
{
    public static Command Create()
    {
        var output = new Option<string?>("--out") { Description = "where the executed notebooks and index.html go (default: artifacts/tour of the checkout)" };
        var notebooks = new Option<string?>("--notebooks") { Description = "the folder of notebooks (default: notebooks of the checkout)" };
        var command = new Command("tour", "Execute every notebook with the built-in tiny model; results and charts in artifacts/tour") { output, notebooks };
        command.SetAction((parsed, cancel) => Task.Run(
            () => Run(parsed.GetValue(notebooks) ?? Repository.Path("notebooks"), parsed.GetValue(output) ?? Repository.Path("artifacts/tour"), cancel),
            CancellationToken.None));
        return command;
    }

    private static int Run(string folder, string output, CancellationToken cancel)
    {
        folder = Path.GetFullPath(folder);
        if (!Directory.Exists(folder)) throw new DirectoryNotFoundException($"{folder}: no such folder; --notebooks wants one with *.ipynb in it");
        var notebooks = Directory.GetFiles(folder, "*.ipynb").Order(StringComparer.Ordinal).ToArray();
        if (notebooks.Length == 0) throw new FileNotFoundException($"no notebook (*.ipynb) in {folder}");
        output = Path.GetFullPath(output);
        Directory.CreateDirectory(output);
        var jupyter = JupyterRunner.Create(Path.Combine(output, ".jupyter"), KernelCommands.Start());
        if (jupyter is null)
            Console.WriteLine("Python's nbclient is not here (Debian: python3-nbclient): the notebooks run inside kt instead of through Jupyter");

        var clock = Stopwatch.StartNew();
        var report = new HtmlReport("KtNotebooks: the tour", $"{Environment.ProcessorCount} processors, {DateTime.Now:yyyy-MM-dd HH:mm}");
        var failures = new List<string>();
        foreach (var notebook in notebooks)
        {
            var name = Path.GetFileName(notebook);
            var executed = Path.Combine(output, name);
            var start = clock.Elapsed;
            var result = jupyter is null ? RunHere(notebook, executed, cancel)
                : jupyter.Run(notebook, executed, (cell, of) => Line($"{name}: cell {cell} of {of}", final: false), cancel);
            cancel.ThrowIfCancellationRequested();
            var facts = $"{result.CellsRun} cells, {(clock.Elapsed - start).TotalSeconds:F0} s"
                + $"{(result.KernelPeakBytes is { } peak ? $", kernel's peak memory {peak / 1e6:F0} MB" : "")}";
            Line($"{name}: {(result.Success ? facts : $"FAILED after {facts}")}", final: true);
            if (!result.Success) failures.Add($"{name}: {result.Error}");
            report.Notebook(executed).Link(name, facts);
        }
        report.Save(Path.Combine(output, "index.html"));
        Console.WriteLine($"{notebooks.Length} notebooks in {clock.Elapsed.TotalSeconds:F0} s; look at {Path.Combine(output, "index.html")}");
        foreach (var failure in failures) Console.Error.WriteLine($"kt tour: {failure}");
        return failures.Count == 0 ? 0 : 1;
    }

    private static NotebookResult RunHere(string notebook, string executed, CancellationToken cancel)
    {
        var before = Environment.CurrentDirectory;
        Environment.CurrentDirectory = Path.GetDirectoryName(Path.GetFullPath(notebook))!;
        try
        {
            return NotebookRunner.Run(notebook, executed, [], cancel);
        }
        finally
        {
            Environment.CurrentDirectory = before;
        }
    }

    /// <summary>Passing states overwrite each other on a terminal and are left out of a log.</summary>
    private static void Line(string text, bool final)
    {
        if (Console.IsOutputRedirected)
        {
            if (final) Console.WriteLine(text);
        }
        else Console.Write($"\r\x1b[2K{text}{(final ? "\n" : "")}");
    }
}
