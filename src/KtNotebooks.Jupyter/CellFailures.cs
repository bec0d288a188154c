using System.Runtime.ExceptionServices;

using KtNotebooks.Jupyter.Cells;

namespace KtNotebooks.Jupyter;

/// <summary>
/// Exceptions of code that outlives its cell: threads of its own, timers, async void, finalizers. .NET ends the process at each of them; here the thread
/// ends, and the cell that started it shows why.
/// </summary>
internal static class CellFailures
{
    private static int _set;
    private static LastWords? _words;

    /// <summary>From now on, for the rest of the process: .NET takes one such handler.</summary>
    internal static void Survive(LastWords? words)
    {
        _words = words;
        if (Interlocked.Exchange(ref _set, 1) == 1) return;
        ExceptionHandling.SetUnhandledExceptionHandler(Show);
        // What the handler is not asked about, such as a call of Environment.FailFast, leaves at least its name.
        AppDomain.CurrentDomain.UnhandledException += (_, e) =>
            _words?.Ends($"unhandled {e.ExceptionObject.GetType().Name}: {(e.ExceptionObject as Exception)?.Message}");
        AppDomain.CurrentDomain.ProcessExit += (_, _) =>
        {
            if (Cell.Running is { } cell) _words?.Ends($"{cell.Label} ended the process, by Environment.Exit or a signal");
        };
    }

    /// <returns>True: the process goes on.</returns>
    internal static bool Show(Exception error)
    {
        try
        {
            Cell.Current?.Output.Write("stderr", $"[kernel] unhandled in the background: {CellErrors.Brief(error)}\n");
        }
        catch (Exception)
        {
            // Whatever happens while a failure is told, the process goes on.
        }
        return true;
    }
}
