using System.Runtime.CompilerServices;

using KtNotebooks.Jupyter.Cells;

using Microsoft.DotNet.Interactive;
using Microsoft.DotNet.Interactive.Commands;
using Microsoft.DotNet.Interactive.Events;
using Microsoft.DotNet.Interactive.Formatting;

namespace KtNotebooks.Jupyter.Hosting;

/// <summary>
/// The running cell as .NET Interactive's types see it: KernelInvocationContext.Current. What is published on it is shown in the cell.
/// The context keeps every event until the cell ends, so those that have been shown give their content back.
/// </summary>
internal sealed class CellContext : IDisposable
{
    private readonly Cell _cell;
    private readonly KernelInvocationContext _context;
    private readonly IDisposable _events;
    private readonly CancellationTokenRegistration _stop;

    internal CellContext(Cell cell, CellKernel kernel, string code)
    {
        _cell = cell;
        var command = new SubmitCode(code, kernel.Name);
        _context = KernelInvocationContext.GetOrCreateAmbientContext(command);
        kernel.Handle(command, _context);
        // Code that outlives the cell may still ask for its token, when the source would refuse.
        Owns(_context) = false;
        var source = Source(_context);
        _stop = cell.KernelCancel.Register(source.Cancel);
        _events = _context.KernelEvents.Subscribe(new Shown(this));
    }

    public void Dispose()
    {
        _stop.Dispose();
        _events.Dispose();
        _context.Dispose();
    }

    private void Show(KernelEvent happened)
    {
        switch (happened)
        {
            case DisplayedValueProduced e: _cell.Output.Show(Bundles.Join(e.FormattedValues, e.Value), e.ValueId); break;
            case DisplayedValueUpdated e: _cell.Output.Update(Bundles.Join(e.FormattedValues, e.Value), e.ValueId); break;
            case ReturnValueProduced e: _cell.Output.Show(Bundles.Join(e.FormattedValues, e.Value), null); break;
            case StandardOutputValueProduced e: _cell.Output.Write("stdout", e.FormattedValues.FirstOrDefault()?.Value ?? ""); break;
            case StandardErrorValueProduced e: _cell.Output.Write("stderr", e.FormattedValues.FirstOrDefault()?.Value ?? ""); break;
            case ErrorProduced e: _cell.Output.Write("stderr", e.Message + "\n"); break;
        }
        // Those of commands that the cell has sent are read by it.
        if (happened is not DisplayEvent shown || happened.Command != _context.Command) return;
        Values(shown) = [];
        Value(shown) = null;
    }

    [UnsafeAccessor(UnsafeAccessorKind.Field, Name = "_cancellationTokenSource")]
    private static extern ref CancellationTokenSource Source(KernelInvocationContext context);

    [UnsafeAccessor(UnsafeAccessorKind.Field, Name = "_ownsCancellationTokenSource")]
    private static extern ref bool Owns(KernelInvocationContext context);

    [UnsafeAccessor(UnsafeAccessorKind.Field, Name = "<FormattedValues>k__BackingField")]
    private static extern ref IReadOnlyCollection<FormattedValue> Values(DisplayEvent shown);

    [UnsafeAccessor(UnsafeAccessorKind.Field, Name = "<Value>k__BackingField")]
    private static extern ref object? Value(DisplayEvent shown);

    private sealed class Shown(CellContext context) : IObserver<KernelEvent>
    {
        public void OnNext(KernelEvent value) => context.Show(value);

        public void OnCompleted() { }

        public void OnError(Exception error) { }
    }
}
