using System.Text.Json.Nodes;

using KtNotebooks.Interactive;
using KtNotebooks.Jupyter.Cells;

namespace KtNotebooks.Jupyter.Notebooks;

/// <summary>What runs the cells of a notebook: the session of our own kernel, or any kernel that Jupyter knows.</summary>
internal interface INotebookKernel : IDisposable
{
    /// <summary>Runs a cell until it has ended; its outputs are in <paramref name="output"/> then.</summary>
    /// <param name="source">Not blank.</param>
    /// <param name="count">Of the cell, from 1.</param>
    /// <param name="output">Takes everything that the cell shows, its value and its error too.</param>
    /// <param name="cancel">Interrupts it.</param>
    /// <returns>The error that ended it; null: it ended well.</returns>
    CellError? Execute(string source, int count, NotebookOutput output, CancellationToken cancel);

    /// <summary>What notebooks say of their language; null leaves it as it is.</summary>
    JsonObject? Language { get; }
}

/// <summary>The session of our own kernel, in this process.</summary>
internal sealed class SessionKernel : INotebookKernel
{
    private readonly IDisposable _console = CellConsole.Install();
    private readonly CSharpSession _session = new();
    private readonly IDisplayHost? _before = Display.Host;

    internal SessionKernel()
    {
        CellFailures.Survive(null);
        Display.Host = new CellDisplay();
    }

    public JsonObject? Language => Protocol.KernelInfo.Language();

    public CellError? Execute(string source, int count, NotebookOutput output, CancellationToken cancel)
    {
        using var cell = new Cell($"cell-{count}.csx", output);
        using var interrupt = cancel.Register(_session.Interrupt);
        var result = _session.Execute(source, cell).Result;
        output.Finish(result, count);
        return result.Error;
    }

    public void Dispose()
    {
        Display.Host = _before;
        _session.Dispose();
        _console.Dispose();
    }
}
