using KtNotebooks.Interactive;

namespace KtNotebooks.Jupyter.Cells;

/// <summary>Shows what library code (charts, progress) draws in the cell that it was called from.</summary>
internal sealed class CellDisplay : IDisplayHost
{
    public void Show(MimeBundle bundle, string? displayId) => Output.Show(bundle, displayId);

    public void Update(MimeBundle bundle, string displayId) => Output.Update(bundle, displayId);

    private static ICellOutput Output => Cell.Current?.Output ?? NoOutput.Instance;
}
