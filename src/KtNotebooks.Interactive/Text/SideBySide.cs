using System.Text;

namespace KtNotebooks.Interactive;

/// <summary>
/// Answers before and after training beside their question, as text/html (inline styles only) and text/plain. Line breaks of the answers stay.
/// <code>
/// new SideBySide().Add("Who are you?", before: "I am a model.", after: "I am KtNotebooks.")
/// </code>
/// </summary>
[TypeFormatterSource(typeof(ShowableFormatters), PreferredMimeTypes = ["text/html", "text/plain"])]
public sealed class SideBySide(string question = "question", string before = "before", string after = "after") : IShowable
{
    private readonly List<(string Question, string Before, string After)> _rows = [];

    public string Caption { get; init; } = "";

    /// <summary>Columns of the text form.</summary>
    public int TextColumns { get; init; } = 110;

    public SideBySide Add(string question, string before, string after)
    {
        ArgumentNullException.ThrowIfNull(question);
        ArgumentNullException.ThrowIfNull(before);
        ArgumentNullException.ThrowIfNull(after);
        _rows.Add((question, before, after));
        return this;
    }

    public MimeBundle Show() => new MimeBundle(ToText()).With("text/html", ToHtml());

    public string ToHtml()
    {
        const string cell = "padding:8px 12px;border-bottom:1px solid #d8dee4;vertical-align:top;text-align:left;white-space:pre-wrap;overflow-wrap:anywhere;";
        const string head = "padding:6px 12px;border-bottom:2px solid #8c959f;text-align:left;";
        // Narrower than that, as on a phone, it scrolls: words would be cut into letters.
        const string table = "border-collapse:collapse;table-layout:fixed;width:100%;min-width:34em;font-size:92%;line-height:1.45;margin:0.5em 0";
        var html = new StringBuilder($"<table style=\"{table}\">\n");
        if (Caption.Length > 0) html.Append(Markup.Caption(Caption));
        html.Append("<thead><tr><th style=\"width:26%;").Append(head).Append("\">").Append(Markup.Escape(question))
            .Append("</th><th style=\"").Append(head).Append("\">").Append(Markup.Escape(before))
            .Append("</th><th style=\"").Append(head).Append("\">").Append(Markup.Escape(after)).Append("</th></tr></thead>\n<tbody>\n");
        foreach (var row in _rows)
            html.Append("<tr><td style=\"").Append(cell).Append("font-weight:600\">").Append(Markup.Escape(row.Question))
                .Append("</td><td style=\"").Append(cell).Append("color:#57606a;background:#f6f8fa\">").Append(Markup.Escape(row.Before))
                .Append("</td><td style=\"").Append(cell).Append("color:#24292f;background:#eaf5fd\">").Append(Markup.Escape(row.After)).Append("</td></tr>\n");
        return html.Append("</tbody></table>").ToString();
    }

    public string ToText()
    {
        var free = Math.Max(24, TextColumns - 6);
        int[] widths = [free * 26 / 100, free * 37 / 100, free * 37 / 100];
        var text = new StringBuilder();
        if (Caption.Length > 0) text.AppendLine(Caption);
        Row([question, before, after]);
        foreach (var row in _rows)
        {
            text.AppendLine(string.Join("─┼─", widths.Select(w => new string('─', w))));
            Row([row.Question, row.Before, row.After]);
        }
        return text.ToString().TrimEnd();

        void Row(string[] cells)
        {
            var wrapped = cells.Select((c, i) => TextWidth.Wrap(c, widths[i])).ToArray();
            for (var line = 0; line < wrapped.Max(w => w.Count); line++)
                text.AppendLine(string.Join(" │ ", wrapped.Select((w, i) => TextWidth.PadRight(line < w.Count ? w[line] : "", widths[i]))).TrimEnd());
        }
    }
}
