using KtNotebooks.Interactive;

namespace KtNotebooks.Jupyter.Cells;

/// <summary>Where the output of one cell goes: a Jupyter client or the outputs of a notebook file.</summary>
internal interface ICellOutput
{
    void Write(string stream, string text);

    void Show(MimeBundle bundle, string? displayId);

    void Update(MimeBundle bundle, string displayId);

    void Clear(bool wait);

    /// <summary>Text for the front end's pager (`#!help`).</summary>
    void Page(string text);

    /// <summary>Asks the person at the front end; throws <see cref="NotSupportedException"/> where nobody can answer.</summary>
    string ReadLine(string prompt, bool password, CancellationToken cancel);
}

/// <summary>
/// One run of one cell. Flows with async code, so that what a background task prints after the cell has ended still lands in the cell
/// that started it.
/// </summary>
internal sealed class Cell : IDisposable
{
    private static readonly AsyncLocal<Cell?> Flowing = new();
    private static volatile Cell? _latest, _running;
    private readonly CancellationTokenSource _ask = new();

    internal Cell(string label, ICellOutput output)
    {
        (Label, Output) = (label, output);
        // Background code may look at the token after the cell's end, when the source would refuse.
        KernelCancel = _ask.Token;
    }

    /// <summary>The cell of the running code; outside of any cell's flow the one that started last; null before the first.</summary>
    internal static Cell? Current => Flowing.Value ?? _latest;

    /// <summary>The one that the cell thread is in; null between cells.</summary>
    internal static Cell? Running => _running;

    /// <summary>Appears in stack traces as the file name, such as cell-3.csx.</summary>
    internal string Label { get; }

    internal ICellOutput Output { get; }

    /// <summary>Whether the code has asked for <see cref="Cancel"/>; such code gets time to stop by itself.</summary>
    internal bool WatchesCancel { get; private set; }

    /// <summary>An interrupt has come, and its token is or will be cancelled.</summary>
    internal bool StopAsked { get; set; }

    internal bool KeepOld { get; set; }

    /// <summary>Cancelled when the user interrupts the cell.</summary>
    internal CancellationToken Cancel
    {
        get
        {
            WatchesCancel = true;
            return KernelCancel;
        }
    }

    /// <summary>The same token for the kernel's own work, which does not count as user code that watches.</summary>
    internal CancellationToken KernelCancel { get; }

    internal void AskToStop() => _ask.Cancel();

    internal void Enter() => Flowing.Value = _latest = _running = this;

    internal static void Leave() => Flowing.Value = _running = null;

    public void Dispose() => _ask.Dispose();
}
