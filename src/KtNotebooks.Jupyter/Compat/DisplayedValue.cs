using KtNotebooks.Jupyter.Cells;

using Microsoft.DotNet.Interactive.Formatting;

namespace Microsoft.DotNet.Interactive;

/// <summary>Something that was shown and can be replaced in place.</summary>
public sealed class DisplayedValue
{
    private readonly Cell? _cell;
    private readonly string[] _mimeTypes;

    private DisplayedValue(Cell? cell, string[] mimeTypes) => (_cell, _mimeTypes) = (cell, mimeTypes);

    public string DisplayId { get; } = Guid.NewGuid().ToString("N");

    /// <summary>Shows another value in the same place, in the MIME types of the first one.</summary>
    public void Update(object? updatedValue) => _cell?.Output.Update(Formatter.Bundle(updatedValue, _mimeTypes), DisplayId);

    internal static DisplayedValue Show(object? value, string[] mimeTypes)
    {
        var shown = new DisplayedValue(Cell.Current, mimeTypes);
        var bundle = Formatter.Bundle(value, mimeTypes);
        if (shown._cell is { } cell) cell.Output.Show(bundle, shown.DisplayId);
        else Console.WriteLine(bundle.Text);
        return shown;
    }
}
