using System.Text.Json.Nodes;

using KtNotebooks.Jupyter.Cells;

namespace KtNotebooks.Jupyter.Notebooks;

/// <summary>How a run ended. <paramref name="Error"/> is one line that names the failing cell; null on success.</summary>
public sealed record NotebookResult(bool Success, int CellsRun, string? Error)
{
    /// <summary>The most memory that the kernel's process has held, where it has one of its own and the system tells.</summary>
    public long? KernelPeakBytes { get; init; }

    /// <summary>What a person should know besides.</summary>
    public IReadOnlyList<string> Notes { get; init; } = [];
}

/// <summary>
/// Executes a notebook without Python, in the session that our kernel uses too or in another kernel that Jupyter knows, and stores the outputs as a front
/// end would: valid nbformat 4.5, streams joined, updates of displays applied to the stored output.
/// </summary>
public static class NotebookRunner
{
    /// <param name="path">The .ipynb to run.</param>
    /// <param name="outputPath">Where the executed notebook goes; null: nowhere. It is written also when a cell fails.</param>
    /// <param name="parameters">Values, name=value, for the cell with the tag `parameters`.</param>
    /// <param name="cancel">Interrupts the running cell and ends the run.</param>
    /// <param name="kernel">The name of an installed kernel, such as .net-csharp; null: our own, in this process.</param>
    /// <param name="timeout">The longest that a cell may take; it is interrupted then, and the run ends.</param>
    /// <returns>Success if every code cell ran, apart from errors in cells tagged raises-exception; those tagged skip-execution are left out.</returns>
    public static NotebookResult Run(string path, string? outputPath, IEnumerable<string> parameters, CancellationToken cancel, string? kernel = null,
        TimeSpan? timeout = null)
    {
        var values = new NotebookParameters(parameters);
        var notebook = NotebookFile.Read(path);
        var notes = values.Inject(notebook);
        if (outputPath is not null) outputPath = Path.GetFullPath(outputPath); // now: a cell may change the current directory
        var displays = new Displays();
        var errors = Console.Error; // not a cell's
        AppDomain.CurrentDomain.ProcessExit += Ended;
        try
        {
            using INotebookKernel runs = kernel is null ? new SessionKernel()
                : new KernelClient(kernel, Path.GetDirectoryName(Path.GetFullPath(path))!, cancel);
            if (runs.Language is { } language) notebook.Language = language;
            return Run(notebook, runs, displays, timeout, cancel) with { Notes = notes };
        }
        finally
        {
            AppDomain.CurrentDomain.ProcessExit -= Ended;
            Store();
        }

        void Store()
        {
            if (outputPath is not null) displays.Settle(() =>
            {
                notebook.OutputsOf = notebook.CodeHash;
                notebook.Write(outputPath);
            });
        }

        // Environment.Exit in a cell: nothing of what ran before it is lost.
        void Ended(object? sender, EventArgs e)
        {
            errors.WriteLine($"code cell {notebook.CodeCells.Count(cell => cell["execution_count"] is not null)}: ended the process");
            Store();
        }
    }

    private static NotebookResult Run(NotebookFile notebook, INotebookKernel kernel, Displays displays, TimeSpan? timeout, CancellationToken cancel)
    {
        var count = 0;
        // What a run that breaks off does not reach has no output: that of an earlier run would be of other code.
        foreach (var cell in notebook.CodeCells.Where(cell => !NotebookFile.Tags(cell).Contains("skip-execution")))
            (cell["outputs"], cell["execution_count"]) = (new JsonArray(), null);
        foreach (var cell in notebook.CodeCells)
        {
            var tags = NotebookFile.Tags(cell);
            if (tags.Contains("skip-execution")) continue;
            var source = NotebookFile.Source(cell);
            var output = new NotebookOutput(displays);
            cell["outputs"] = output.Outputs;
            cell["execution_count"] = null;
            if (string.IsNullOrWhiteSpace(source)) continue;
            count++;
            cell["execution_count"] = count;
            using var patience = CancellationTokenSource.CreateLinkedTokenSource(cancel);
            if (timeout is { } most) patience.CancelAfter(most);
            var error = cancel.IsCancellationRequested ? new CellError("Interrupted", "the run was cancelled", [])
                : kernel.Execute(source, count, output, patience.Token);
            if (error is not null && patience.IsCancellationRequested && !cancel.IsCancellationRequested)
                error = new CellError("Timeout", $"the cell took longer than {timeout!.Value.TotalSeconds:0.#} s and was interrupted", []);
            if (error is not null && (!tags.Contains("raises-exception") || patience.IsCancellationRequested))
            {
                return new NotebookResult(false, count, $"code cell {count}: {error.Name}: {error.Value}");
            }
        }
        return new NotebookResult(true, count, null);
    }
}
