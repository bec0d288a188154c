using System.ComponentModel;
using System.Diagnostics.CodeAnalysis;

using KtNotebooks.Jupyter.Cells;

namespace KtNotebooks.Jupyter;

/// <summary>Called by the code of cells; see LoopPolls. Public because cells are assemblies of their own.</summary>
[EditorBrowsable(EditorBrowsableState.Never)]
public static class CellInterrupt
{
    private static volatile bool _wanted;

    /// <summary>True from the moment in which the running cell is to be aborted until it and the loops that it left on other threads have ended.</summary>
    public static bool Wanted => _wanted;

    /// <summary>
    /// Only throws: the JIT then knows that the call never returns and keeps the loop's variables in registers. Loops that cells have
    /// started on other threads end by it too.
    /// </summary>
    [DoesNotReturn]
    public static void Land() => throw new InterruptedException();

    internal static void Set(bool wanted) => _wanted = wanted;
}
