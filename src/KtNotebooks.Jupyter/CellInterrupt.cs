using System.ComponentModel;

namespace KtNotebooks.Jupyter;

/// <summary>Called by the code of cells; see LoopPolls. Public because cells are assemblies of their own.</summary>
[EditorBrowsable(EditorBrowsableState.Never)]
public static class CellInterrupt
{
    private static volatile bool s_wanted;

    /// <summary>True from the moment in which the running cell is to be aborted until it has ended.</summary>
    public static bool Wanted => s_wanted;

    internal static Thread? CellThread { get; set; }

    /// <summary>A managed wait, in which the abort or the interrupt of the cell thread takes effect. Other threads go on.</summary>
    public static void Land()
    {
        if (Thread.CurrentThread == CellThread) Thread.Sleep(1);
    }

    internal static void Set(bool wanted) => s_wanted = wanted;
}
