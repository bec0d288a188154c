namespace KtNotebooks.Interactive;

/// <summary>
/// Tells a notebook host how to show a type. Hosts (the archived .NET Interactive and our kernel) look for an attribute of this name with these two properties
/// by reflection, so no reference to the host is needed.
/// </summary>
[AttributeUsage(AttributeTargets.Class | AttributeTargets.Interface)]
internal sealed class TypeFormatterSourceAttribute(Type formatterSourceType) : Attribute
{
    public Type FormatterSourceType { get; } = formatterSourceType;

    /// <summary>Pictures come as Plotly's figures first where the host sends those as JSON.</summary>
    public string[] PreferredMimeTypes
    {
        get => ShowableFormatters.SendsJson && field.Contains(Chart.SvgType) ? [Chart.PlotlyType, .. field] : field;
        set;
    } = [];
}

/// <summary>Formatters for every <see cref="IShowable"/>: one for each MIME type that our views use; each says no where the bundle lacks its type.</summary>
internal sealed class ShowableFormatters
{
    private static readonly string[] MimeTypes = ["text/html", "text/markdown", Chart.PlotlyType, Chart.SvgType, Chart.PngType, "text/plain"];

    /// <summary>
    /// Set by our extension: .NET Interactive alone would send JSON as a text that holds it, which front ends cannot draw. Hosts that take the bundle itself do
    /// not ask here.
    /// </summary>
    internal static bool SendsJson { get; set; }

#pragma warning disable CA1822 // the convention asks for an instance method
    public IEnumerable<object> CreateTypeFormatters() =>
        MimeTypes.Select(m => new ShowableFormatter(m));
#pragma warning restore CA1822
}

internal sealed class ShowableFormatter(string mimeType)
{
    public string MimeType { get; } = mimeType;

    /// <summary>Writes the form of this MIME type, binary ones as base64; false when there is none.</summary>
    public bool Format(object instance, TextWriter writer)
    {
        if (instance is not IShowable showable || !showable.Show().Data.TryGetValue(MimeType, out var value)) return false;
        writer.Write(MimeText.Of(value));
        return true;
    }
}
