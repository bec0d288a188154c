using KtNotebooks.Jupyter.Cells;

using Microsoft.DotNet.Interactive.Formatting;

namespace Microsoft.DotNet.Interactive;

/// <summary>Something that was shown and can be replaced in place.</summary>
public sealed class DisplayedValue
{
    private readonly string[] _mimeTypes;

    private DisplayedValue(string[] mimeTypes) => _mimeTypes = mimeTypes;

    public string DisplayId { get; } = Guid.NewGuid().ToString("N");

    /// <summary>Shows another value in the same place, in the MIME types of the first one.</summary>
    public void Update(object? updatedValue) => Cell.Current?.Output.Update(Formatter.Bundle(updatedValue, _mimeTypes), DisplayId);

    internal static DisplayedValue Show(object? value, string[] mimeTypes)
    {
        var shown = new DisplayedValue(mimeTypes);
        var bundle = Formatter.Bundle(value, mimeTypes);
        if (Cell.Current is { } cell) cell.Output.Show(bundle, shown.DisplayId);
        else Console.WriteLine(bundle.Text);
        return shown;
    }
}
