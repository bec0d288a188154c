using System.Collections;
using System.Globalization;
using System.Text;

namespace KtNotebooks.Interactive;

public enum Alignment { Left, Center, Right }

/// <summary>
/// Rows of cells as text/html (inline styles only), text/markdown and text/plain. Numbers are formatted by <see cref="Ticks.Format"/> and stand right.
/// <code>
/// new Table("experts", "tokens/s", "GPU GB") { Caption = "V2-Lite, 8,192-token step" }.Row("streamed", 7812.0, 5.6).Row("resident", 21034.0, 36.1)
/// </code>
/// </summary>
[TypeFormatterSource(typeof(ShowableFormatters), PreferredMimeTypes = ["text/html", "text/markdown", "text/plain"])]
public sealed class Table(params IReadOnlyList<string> headers) : IShowable
{
    private readonly List<string[]> _rows = [];
    private readonly List<object?[]> _cells = [];
    private readonly bool[] _numeric = [.. headers.Select(_ => true)];
    private Alignment[]? _alignment;

    public string Caption { get; init; } = "";

    /// <summary>Of the columns.</summary>
    public IReadOnlyList<string> Headers => headers;

    /// <summary>Row by row, as they were given; null where a row is shorter.</summary>
    public IReadOnlyList<IReadOnlyList<object?>> Cells => _cells;

    /// <summary>Adds a row. Fewer cells than headers leave the rest empty; more are an error.</summary>
    public Table Row(params IReadOnlyList<object?> cells)
    {
        ArgumentNullException.ThrowIfNull(cells);
        if (cells.Count > headers.Count)
            throw new ArgumentException($"[Table] a row has {cells.Count} cells, but there are {headers.Count} headers", nameof(cells));
        var row = new string[headers.Count];
        for (var i = 0; i < row.Length; i++)
        {
            var cell = i < cells.Count ? cells[i] : null;
            row[i] = Text(cell);
            _numeric[i] &= cell is null or sbyte or byte or short or ushort or int or uint or long or ulong or nint or float or double or decimal or TimeSpan;
        }
        _rows.Add(row);
        _cells.Add([.. Enumerable.Range(0, headers.Count).Select(i => i < cells.Count ? cells[i] : null)]);
        return this;
    }

    /// <summary>Sets the alignment of the columns from the left; without it columns of numbers stand right, others left.</summary>
    public Table Align(params Alignment[] alignment)
    {
        _alignment = alignment;
        return this;
    }

    private static string Text(object? cell) => cell switch
    {
        null => "",
        double d => Ticks.Format(d),
        float f => Ticks.Format(f),
        bool b => b ? "yes" : "no",
        sbyte or byte or short or ushort or int or uint or long or ulong or nint => ((IFormattable)cell).ToString("#,0", CultureInfo.InvariantCulture),
        TimeSpan t => Durations.Text(t),
        IFormattable f => f.ToString(null, CultureInfo.InvariantCulture),
        not string and IEnumerable many => Elements(many),
        _ => cell.ToString() ?? "",
    };

    /// <summary>The first elements of a list; lists in it in brackets.</summary>
    private static string Elements(IEnumerable many)
    {
        const int Most = 20;
        string[] shown = [.. many.Cast<object?>().Take(Most + 1).Select(e => e is IEnumerable and not string ? $"[{Text(e)}]" : Text(e))];
        return string.Join(", ", shown.Take(Most)) + (shown.Length > Most ? ", …" : "");
    }

    private Alignment Side(int column) =>
        _alignment is { } given && column < given.Length ? given[column] : _numeric[column] && _rows.Count > 0 ? Alignment.Right : Alignment.Left;

    public MimeBundle Show() => new MimeBundle(ToText()).With("text/html", ToHtml()).With("text/markdown", ToMarkdown());

    public string ToHtml()
    {
        var html = new StringBuilder("<table style=\"border-collapse:collapse;font-size:90%;margin:0.5em 0\">\n");
        if (Caption.Length > 0) html.Append(Markup.Caption(Caption));
        html.Append("<thead><tr>");
        for (var i = 0; i < headers.Count; i++)
            html.Append("<th style=\"padding:4px 10px;border-bottom:2px solid #8c959f;").Append(Css(i)).Append("\">").Append(Html(headers[i])).Append("</th>");
        html.Append("</tr></thead>\n<tbody>\n");
        foreach (var row in _rows)
        {
            html.Append("<tr>");
            for (var i = 0; i < row.Length; i++)
                html.Append("<td style=\"padding:4px 10px;border-bottom:1px solid #d8dee4;vertical-align:top;max-width:28em;overflow-wrap:anywhere;")
                    .Append(Css(i)).Append("\">")
                    .Append(Html(row[i])).Append("</td>");
            html.Append("</tr>\n");
        }
        return html.Append("</tbody></table>").ToString();
    }

    private string Css(int column) => Side(column) switch
    {
        Alignment.Right => "text-align:right;font-variant-numeric:tabular-nums",
        Alignment.Center => "text-align:center",
        _ => "text-align:left",
    };

    private static string Html(string text) => Markup.Escape(text).Replace("\n", "<br>");

    public string ToMarkdown()
    {
        var text = new StringBuilder();
        if (Caption.Length > 0) text.Append("**").Append(Cell(Caption)).Append("**\n\n");
        text.Append("| ").AppendJoin(" | ", headers.Select(Cell)).Append(" |\n|");
        for (var i = 0; i < headers.Count; i++) text.Append(Side(i) switch { Alignment.Right => "---:|", Alignment.Center => ":---:|", _ => "---|" });
        foreach (var row in _rows) text.Append("\n| ").AppendJoin(" | ", row.Select(Cell)).Append(" |");
        return text.ToString();

        static string Cell(string cell) => Markup.Escape(cell).Replace("\\", "\\\\").Replace("|", "\\|").Replace("\r", "").Replace("\n", "<br>");
    }

    public string ToText()
    {
        var text = new StringBuilder();
        if (Caption.Length > 0) text.AppendLine(Caption);
        var widths = headers.Select((h, i) => _rows.Select(r => TextWidth.Of(OneLine(r[i]))).Append(TextWidth.Of(h)).Max()).ToArray();
        Line(headers);
        text.AppendLine(string.Join("─┼─", widths.Select(w => new string('─', w))));
        foreach (var row in _rows) Line(row);
        return text.ToString().TrimEnd();

        void Line(IReadOnlyList<string> cells) => text.AppendLine(string.Join(" │ ", cells.Select((c, i) => Pad(OneLine(c), widths[i], Side(i)))).TrimEnd());
    }

    private static string OneLine(string cell) => cell.ReplaceLineEndings(" ");

    private static string Pad(string text, int width, Alignment side) => side switch
    {
        Alignment.Right => TextWidth.PadLeft(text, width),
        Alignment.Center => TextWidth.PadRight(TextWidth.PadLeft(text, (width + TextWidth.Of(text)) / 2), width),
        _ => TextWidth.PadRight(text, width),
    };
}
