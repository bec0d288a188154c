using KtNotebooks.Interactive;

namespace KtNotebooks.Jupyter.Cells;

/// <summary>What the front end shows for an exception. <paramref name="Traceback"/> holds lines with ANSI colours.</summary>
internal sealed record CellError(string Name, string Value, IReadOnlyList<string> Traceback);

/// <summary>How a cell ended: with an error, with a value to show, or with neither.</summary>
internal sealed record CellResult(CellError? Error, MimeBundle? Value)
{
    internal static readonly CellResult Nothing = new(null, null);
}
