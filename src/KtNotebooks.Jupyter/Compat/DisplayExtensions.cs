using Microsoft.DotNet.Interactive;
using Microsoft.DotNet.Interactive.Formatting;

namespace System;

/// <summary>In namespace System, as in .NET Interactive, so that `x.Display()` needs no using.</summary>
public static class DisplayExtensions
{
    /// <param name="value">Anything.</param>
    /// <param name="mimeTypes">Empty: those preferred for the value's type.</param>
    public static DisplayedValue Display(this object? value, params string[] mimeTypes) => DisplayedValue.Show(value, mimeTypes);

    /// <summary>Shows a text as what it is, such as text/markdown or image/svg+xml.</summary>
    public static DisplayedValue DisplayAs(this string value, string mimeType) => DisplayedValue.Show(new FormattedValue(mimeType, value), []);

    public static DisplayedValue DisplayTable<T>(this IEnumerable<T> rows) => DisplayedValue.Show(rows.ToArray(), [Formatter.HtmlMimeType]);
}
