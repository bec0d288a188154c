using System.Collections.Concurrent;
using System.Diagnostics;
using System.Reactive.Disposables;

using KtNotebooks.DotNetInteractive;
using KtNotebooks.Interactive;
using KtNotebooks.Jupyter.Hosting;

using Microsoft.CodeAnalysis;
using Microsoft.DotNet.Interactive.Formatting;
using Microsoft.DotNet.Interactive.Utility;

namespace KtNotebooks.Jupyter.Cells;

/// <summary>
/// A living C# session: runs cells one after another on its own thread and keeps their variables.
/// The Jupyter kernel and the notebook runner both stand on it; it knows neither.
/// </summary>
internal sealed class CSharpSession : IDisposable
{
    private readonly CellThread _thread = new();
    private readonly CellLoadContext _loader = new();
    private readonly ConcurrentDictionary<string, CellText> _sources = [];
    private readonly List<MetadataReference> _pending = [];
    private volatile Submission? _running;
    private int _evaluations, _nested;

    static CSharpSession()
    {
        // Every context would put its own writers in the console's place for as long as it lives. Ours know cells that have ended, and keep nothing.
        var (output, errors) = (Console.Out, Console.Error);
        ConsoleOutput.Subscribe(_ => Disposable.Empty);
        Console.SetOut(output);
        Console.SetError(errors);
        KtNotebooksExtension.RegisterFormatters();
        CellScope.Token = () => Cell.Current?.Cancel ?? CancellationToken.None;
    }

    internal CSharpSession()
    {
        Chain = new ScriptChain(_loader);
        References = new AssemblyReferences(_loader);
        Packages = new NuGetReferences(_loader);
        Extensions = new PackageExtensions(this);
        Kernel = new CellKernel(this);
        Ready = _thread.Post(WarmUp);
    }

    /// <summary>Completes when the compiler is warm; the first cell waits for it by itself.</summary>
    internal Task<bool> Ready { get; }

    internal ScriptChain Chain { get; }

    /// <summary>The chain from the moment on in which it has the references and imports: TAB is answered before the first cell has run.</summary>
    internal ScriptChain ReadyChain()
    {
        if (Chain.Last is null) Ready.Wait();
        return Chain;
    }

    internal Variables Variables { get; } = new();

    internal AssemblyReferences References { get; }

    internal NuGetReferences Packages { get; }

    internal PackageExtensions Extensions { get; }

    internal CellKernel Kernel { get; }

    internal CellLoadContext Loader => _loader;

    /// <summary>Runs a cell. The task ends when the cell has; it never fails: errors are in the result.</summary>
    /// <param name="ended">Called on the cell's thread just before.</param>
    internal Task<CellResult> Execute(string text, Cell cell, Action? ended = null) => _thread.Post(() =>
    {
        var result = InCell(cell, () => Run(text, cell), text);
        ended?.Invoke();
        return result;
    });

    /// <summary>Evaluates an expression without leaving a trace in the session (Jupyter's user_expressions).</summary>
    internal Task<CellResult> Evaluate(string expression, Cell cell) => _thread.Post(() => InCell(cell, () =>
    {
        var submission = Chain.Compile(expression, $"expression-{++_evaluations}.csx", cancel: cell.KernelCancel);
        return new CellResult(null, Bundles.Of(_thread.Guard(cell, () => Chain.Start(submission))));
    }, expression));

    internal void Interrupt() => _thread.Interrupt();

    /// <summary>References that the next submission brings in.</summary>
    internal void AddReferences(IEnumerable<string> paths) => _pending.AddRange(paths.Select(p => MetadataReference.CreateFromFile(p)));

    /// <summary>Runs the kernel's own work for a cell, which may run the user's code, so that it can be stopped.</summary>
    internal void Guard(Cell cell, Func<Task> work) => _thread.Guard(cell, async () =>
    {
        await work();
        return true;
    });

    /// <summary>
    /// Code within a running cell: what `#!import` reads, what an extension brings, what a cell sends to Kernel.Root. It sees what the cell has declared so
    /// far, and what it declares is there for the next cells.
    /// </summary>
    /// <returns>Its value, and whether it has one.</returns>
    internal async Task<(object? Value, bool Has)> RunNested(string text)
    {
        var cell = Cell.Current ?? throw new InvalidOperationException("[kernel] code can be sent by a running cell only");
        var label = $"{Path.GetFileNameWithoutExtension(cell.Label)}-{Interlocked.Increment(ref _nested)}.csx";
        _sources[label] = new CellText(text);
        CodeDepth.Check(text, label);
        var source = CellSource.Split(text);
        foreach (var directive in source.Directives) await Directives.Run(directive, this, cell);
        if (string.IsNullOrWhiteSpace(source.Code) && _pending.Count == 0) return (null, false);
        if (_running is { } outer && Chain.Adopt(outer) is { } declared) Variables.Add(declared, release: false);
        var submission = Chain.Compile(source.Code, label, TakePending(), cell.KernelCancel);
        try
        {
            return (await Chain.Start(submission), submission.HasValue);
        }
        finally
        {
            if (Chain.Adopt(submission) is { } state) Variables.Add(state, release: false);
        }
    }

    /// <summary>Runs the C# of a file: see <see cref="Imports"/>.</summary>
    internal async Task Import(string path)
    {
        foreach (var part in Imports.Read(path))
        {
            var (value, has) = await RunNested(part);
            if (has && value is not DisplayedValue) Cell.Current?.Output.Show(Bundles.Of(value), null);
        }
    }

    /// <summary>Makes a variable for the next code, of the value's type where code can name it.</summary>
    internal async Task Declare(string name, object? value, Type? type = null)
    {
        if (!Microsoft.CodeAnalysis.CSharp.SyntaxFacts.IsValidIdentifier(name)) throw new ArgumentException($"'{name}' cannot be the name of a variable");
        await RunNested($"{TypeNames.Code(type ?? value?.GetType() ?? typeof(object)) ?? "dynamic"} {name} = default;");
        Variables.Set(name, value);
    }

    public void Dispose()
    {
        _thread.Dispose();
        Kernel.Dispose();
    }

    private CellResult InCell(Cell cell, Func<CellResult> run, string text)
    {
        cell.Enter();
        _thread.Enter(cell);
        try
        {
            using var context = new CellContext(cell, Kernel, text);
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
        // The token of KernelInvocationContext cannot say that it was asked for.
        if (text.Contains(nameof(CancellationToken), StringComparison.Ordinal)) _ = cell.Cancel;
        if (WorkingFolder.Path is null) cell.Output.Write("stderr", WorkingFolder.Gone);
        CodeDepth.Check(text, cell.Label);
        var source = CellSource.Split(text);
        var clock = Stopwatch.StartNew();
        var timed = false;
        foreach (var directive in source.Directives)
        {
            timed |= directive.Name == "time";
            if (directive.IsLate) continue;
            Run(directive);
        }
        var result = string.IsNullOrWhiteSpace(source.Code) && _pending.Count == 0 ? CellResult.Nothing : RunCode(source.Code, cell);
        foreach (var directive in source.Directives.Where(d => d.IsLate)) Run(directive);
        if (timed) cell.Output.Show(new MimeBundle($"Wall time: {clock.Elapsed.TotalMilliseconds:0.####}ms"), null);
        return result;

        void Run(Directive directive)
        {
            if (directive.RunsCode) Guard(cell, () => Directives.Run(directive, this, cell));
            else Directives.Run(directive, this, cell).GetAwaiter().GetResult();
        }
    }

    private MetadataReference[] TakePending()
    {
        MetadataReference[] pending = [.. _pending];
        _pending.Clear();
        return pending;
    }

    private CellResult RunCode(string code, Cell cell)
    {
        var submission = Chain.Compile(code, cell.Label, _pending, cell.KernelCancel);
        _sources[cell.Label] = new CellText(_sources[cell.Label].Written, submission.Woven);
        _pending.Clear();
        _running = submission;
        var succeeded = false;
        try
        {
            // Formatting the value may run the user's code too, so it is guarded like the cell itself.
            var result = _thread.Guard(cell, async () =>
            {
                var value = await Chain.Start(submission);
                return submission.HasValue && value is not DisplayedValue ? new CellResult(null, Bundles.Of(value)) : CellResult.Nothing;
            });
            succeeded = true;
            return result;
        }
        finally
        {
            _running = null;
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
        return _thread.Guard(silent, () => Chain.Start(submission)) is string && Bundles.Of(1).Text == "1";
    }
}
