namespace KtNotebooks.Jupyter.Cells;

/// <summary>What cells of our kernel can call besides .NET Interactive's functions and those of the extension; its Jupyter front has the first two.</summary>
public static class CellApi
{
#pragma warning disable IDE1006 // The lower-case names are the notebooks' own.
    /// <summary>Asks the user for a line; throws NotSupportedException where nobody can answer.</summary>
    public static string input(string prompt = "") => Ask(prompt, false);

    /// <summary>Like <see cref="input"/>, without showing what is typed.</summary>
    public static string password(string prompt = "") => Ask(prompt, true);
#pragma warning restore IDE1006

    /// <summary>Removes the cell's output, at once or when the next output comes.</summary>
    public static void ClearOutput(bool wait = false) => Cell.Current?.Output.Clear(wait);

    internal static string Ask(string prompt, bool password)
    {
        var cell = Cell.Current ?? throw new NotSupportedException("[input] only a running cell can ask for input");
        return cell.Output.ReadLine(prompt, password, cell.KernelCancel);
    }
}
