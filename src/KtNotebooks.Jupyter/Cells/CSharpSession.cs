using System.Diagnostics;

using KtNotebooks.Interactive;

using Microsoft.CodeAnalysis;
using Microsoft.DotNet.Interactive;
using Microsoft.DotNet.Interactive.Formatting;

namespace KtNotebooks.Jupyter.Cells;

/// <summary>
/// A living C# session: runs cells one after another on its own thread and keeps their variables.
/// The Jupyter kernel and the notebook runner both stand on it; it knows neither.
/// </summary>
internal sealed class CSharpSession : IDisposable
{
    private readonly CellThread _thread = new();
    private readonly CellLoadContext _loader = new();
    private readonly Dictionary<string, CellText> _sources = [];
    private readonly List<MetadataReference> _pending = [];
    private int _evaluations;

    internal CSharpSession()
    {
        Chain = new ScriptChain(_loader);
        References = new AssemblyReferences(_loader);
        Packages = new NuGetReferences(_loader);
        Ready = _thread.Post(WarmUp);
    }

    /// <summary>Completes when the compiler is warm; the first cell waits for it by itself.</summary>
    internal Task<bool> Ready { get; }

    internal ScriptChain Chain { get; }

    internal Variables Variables { get; } = new();

    internal AssemblyReferences References { get; }

    internal NuGetReferences Packages { get; }

    /// <summary>Runs a cell. The task ends when the cell has; it never fails: errors are in the result.</summary>
    /// <param name="ended">Called on the cell's thread just before.</param>
    internal Task<CellResult> Execute(string text, Cell cell, Action? ended = null) => _thread.Post(() =>
    {
        var result = InCell(cell, () => Run(text, cell));
        ended?.Invoke();
        return result;
    });

    /// <summary>Evaluates an expression without leaving a trace in the session (Jupyter's user_expressions).</summary>
    internal Task<CellResult> Evaluate(string expression, Cell cell) => _thread.Post(() => InCell(cell, () =>
    {
        var submission = Chain.Compile(expression, $"expression-{++_evaluations}.csx", cancel: cell.KernelCancel);
        return new CellResult(null, Formatter.Bundle(_thread.Guard(cell, () => Chain.Start(submission))));
    }));

    internal void Interrupt() => _thread.Interrupt();

    /// <summary>References that the next submission brings in.</summary>
    internal void AddReferences(IEnumerable<string> paths) => _pending.AddRange(paths.Select(p => MetadataReference.CreateFromFile(p)));

    public void Dispose() => _thread.Dispose();

    private CellResult InCell(Cell cell, Func<CellResult> run)
    {
        cell.Enter();
        _thread.Enter(cell);
        try
        {
            return run();
        }
        catch (OperationCanceledException) when (cell.KernelCancel.IsCancellationRequested)
        {
            return new CellResult(CellErrors.Describe(new InterruptedException(), _sources), null);
        }
        catch (Exception e)
        {
            return new CellResult(CellErrors.Describe(e, _sources), null);
        }
        finally
        {
            _thread.Leave();
            Cell.Leave();
        }
    }

    private CellResult Run(string text, Cell cell)
    {
        _sources[cell.Label] = new CellText(text);
        if (WorkingFolder.Path is null) cell.Output.Write("stderr", WorkingFolder.Gone);
        CodeDepth.Check(text, cell.Label);
        var source = CellSource.Split(text);
        var clock = Stopwatch.StartNew();
        var timed = false;
        foreach (var directive in source.Directives)
        {
            timed |= directive.Name == "time";
            Directives.Run(directive, this, cell);
        }
        var result = string.IsNullOrWhiteSpace(source.Code) && _pending.Count == 0 ? CellResult.Nothing : RunCode(source.Code, cell);
        if (timed) cell.Output.Show(new MimeBundle($"Wall time: {clock.Elapsed.TotalMilliseconds:0.####}ms"), null);
        return result;
    }

    private CellResult RunCode(string code, Cell cell)
    {
        var submission = Chain.Compile(code, cell.Label, _pending, cell.KernelCancel);
        _sources[cell.Label] = new CellText(_sources[cell.Label].Written, submission.Woven);
        _pending.Clear();
        var succeeded = false;
        try
        {
            // Formatting the value may run the user's code too, so it is guarded like the cell itself.
            var result = _thread.Guard(cell, async () =>
            {
                var value = await Chain.Start(submission);
                return submission.HasValue && value is not DisplayedValue ? new CellResult(null, Formatter.Bundle(value)) : CellResult.Nothing;
            });
            succeeded = true;
            return result;
        }
        finally
        {
            if (Chain.Adopt(submission) is { } state) Variables.Add(state, release: succeeded && !cell.KeepOld);
        }
    }

    /// <summary>Compiles the submission that carries all references and imports, and makes the JIT meet the compiler's usual paths.</summary>
    private bool WarmUp()
    {
        var first = Chain.Compile("", "start.csx");
        Chain.Adopt(first);
        using var silent = new Cell("warm-up.csx", NoOutput.Instance);
        var submission = Chain.Compile("var xs = new List<int> { 1, 2 }; int Twice(int x) => 2 * x; foreach (var x in xs.Select(x => Twice(x))) await "
            + "Task.Yield(); $\"{xs.Count}\"", silent.Label);
        return _thread.Guard(silent, () => Chain.Start(submission)) is string && Formatter.Bundle(1).Text == "1";
    }
}
