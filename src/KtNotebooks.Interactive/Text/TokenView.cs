using System.Text;

namespace KtNotebooks.Interactive;

/// <summary>
/// The tokens of one example: those that the loss sees (trained) coloured, the others (masked, label −100) grey. text/html with inline styles, so that it
/// survives sanitizers as far as they allow (where they take the styles away, in notebooks that are not trusted, trained ones are bold and blue still), and
/// text/plain with trained runs in ⟦ ⟧. A line break shows as ↵ and breaks the line as well, a tab as ⇥.
/// </summary>
[TypeFormatterSource(typeof(ShowableFormatters), PreferredMimeTypes = ["text/html", "text/plain"])]
public sealed class TokenView(IReadOnlyList<(string Text, bool Trained)> tokens) : IShowable
{
    public string Caption { get; init; } = "";

    private string Counts
    {
        get
        {
            var trained = tokens.Count(t => t.Trained);
            return $"{trained} of {tokens.Count} tokens trained" + (tokens.Count > 0 ? $" ({100.0 * trained / tokens.Count:0.#} %)" : "");
        }
    }

    public MimeBundle Show() => new MimeBundle(ToText()).With("text/html", ToHtml());

    public string ToHtml()
    {
        var html = new StringBuilder();
        html.Append("<div style=\"border:1px solid #d8dee4;border-radius:6px;padding:10px 14px;margin:0.5em 0;background:#ffffff;color:#24292f;")
            .Append("font-family:system-ui,sans-serif\">\n");
        if (Caption.Length > 0) html.Append("<div style=\"font-weight:bold;margin-bottom:6px\">").Append(Markup.Escape(Caption)).Append("</div>\n");
        html.Append("<div style=\"font-family:ui-monospace,Menlo,Consolas,monospace;font-size:13px;line-height:1.75;")
            .Append("white-space:pre-wrap;overflow-wrap:anywhere\">");
        foreach (var (text, trained) in tokens)
        {
            var style = IsSpecial(text) ? "font-weight:bold;outline:1px dashed #8c959f;outline-offset:-1px;" : "font-weight:normal;";
            html.Append(Colored($"{style}border-right:1px solid #ffffff;border-radius:2px;", Markup.Escape(Visible(text)).Replace("\n", "<br>"), trained));
        }
        html.Append("</div>\n<div style=\"font-size:12px;color:#57606a;margin-top:8px\">")
            .Append(Colored("font-weight:normal;padding:1px 6px;border-radius:2px;", "trained", true)).Append(' ')
            .Append(Colored("padding:1px 6px;border-radius:2px;", "masked", false)).Append(' ')
            .Append(Counts).Append("</div>\n</div>");
        return html.ToString();
    }

    private static string Colored(string style, string html, bool trained) => trained
        ? $"<b style=\"{style}background:#cfe6f7;color:#0b3d63\"><font color=\"#0b5a94\">{html}</font></b>"
        : $"<span style=\"{style}background:#f1f3f5;color:#6e7781\"><font color=\"#6e7781\">{html}</font></span>";

    public string ToText()
    {
        var text = new StringBuilder();
        if (Caption.Length > 0) text.AppendLine(Caption);
        var inside = false;
        foreach (var (token, trained) in tokens)
        {
            if (trained != inside) text.Append(trained ? '⟦' : '⟧');
            inside = trained;
            text.Append(Visible(token));
        }
        if (inside) text.Append('⟧');
        return text.Append("\n— ").Append(Counts).Append("; trained ones stand in ⟦ ⟧").ToString();
    }

    /// <summary>Control characters by a sign; a line break by a sign and itself.</summary>
    private static string Visible(string text)
    {
        var visible = new StringBuilder(text.Length);
        foreach (var c in text.Replace("\r\n", "\n"))
            visible.Append(c switch
            {
                '\n' => "↵\n",
                '\t' => "⇥",
                < ' ' => ((char)('\u2400' + c)).ToString(), // the block of control pictures has their order
                '\u007F' => "␡",
                _ => c.ToString(),
            });
        return visible.ToString();
    }

    /// <summary>The spellings of special tokens in the families that we load: &lt;s&gt;, &lt;|im_end|&gt;, &lt;｜User｜&gt;, [PAD].</summary>
    private static bool IsSpecial(string text) =>
        text.Length > 2 && !text.Any(char.IsWhiteSpace)
        && ((text[0] == '<' && text[^1] == '>') || (text[0] == '[' && text[^1] == ']' && text[1..^1].All(char.IsAsciiLetterUpper)));
}
