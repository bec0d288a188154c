using System.Text;

using KtNotebooks.Files;

namespace KtNotebooks.Interactive;

/// <summary>
/// One self-contained HTML page: headings, text, tables and charts inline, no script, no network, readable on a phone and on paper.
/// <code>
/// new HtmlReport("The tour").Heading("Training").Paragraph("Six steps.").Add(chart).Link("adapter/adapter_config.json").Save("artifacts/tour/index.html");
/// </code>
/// </summary>
public sealed class HtmlReport(string title, string subtitle = "")
{
    private const string Style = """
        :root { color-scheme: light dark; --ink: #24292f; --quiet: #57606a; --page: #ffffff; --soft: #f6f8fa; --line: #d8dee4; --link: #0b5a94;
               --shade: #0000004d; }
        @media (prefers-color-scheme: dark) {
          :root { --ink: #e6edf3; --quiet: #9da7b3; --page: #0d1117; --soft: #161b22; --line: #3d444d; --link: #79c0ff;
               --shade: #ffffff59; } }
        body { margin: 0 auto; padding: 2.5rem 1.25rem 5rem; max-width: 42rem; color: var(--ink); background: var(--page);
               font: 17px/1.6 Charter, "Bitstream Charter", Georgia, "Noto Serif CJK SC", serif; }
        header { border-bottom: 2px solid #1f77b4; margin-bottom: 2rem; }
        h1, h2, h3, h4, nav, table, figure, figcaption, .subtitle {
               font-family: system-ui, -apple-system, "Segoe UI", Helvetica, Arial, "Noto Sans CJK SC", sans-serif; }
        h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .3rem; }
        h2 { font-size: 1.35rem; margin: 2.6rem 0 .6rem; } h3 { font-size: 1.08rem; margin: 1.8rem 0 .4rem; }
        h4 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
        .subtitle { color: var(--quiet); margin: 0 0 1.2rem; font-size: .95rem; }
        nav { font-size: .92rem; background: var(--soft); border-radius: 8px; padding: .8rem 1.2rem; } nav ol { margin: 0; padding-left: 1.3rem; }
        a { color: var(--link); text-underline-offset: 2px; }
        figure { margin: 1.2rem 0; } figcaption { color: var(--quiet); font-size: .88rem; margin-top: .3rem; }
        table { border-collapse: collapse; font-size: 90%; } th, td { padding: 4px 10px; border-bottom: 1px solid var(--line); text-align: left; }
        /* A shadow at a side where more of a table waits: the local layers, which scroll with it, cover the fixed ones at its ends. */
        .scroll { overflow-x: auto; background: linear-gradient(to right, var(--page) 40%, transparent) left / 3rem 100% no-repeat local,
               linear-gradient(to left, var(--page) 40%, transparent) right / 3rem 100% no-repeat local,
               linear-gradient(to right, var(--shade), transparent) left / 1.1rem 100% no-repeat scroll,
               linear-gradient(to left, var(--shade), transparent) right / 1.1rem 100% no-repeat scroll; }
        .scroll > table { width: max-content; max-width: none; } svg, img { max-width: 100%; height: auto; }
        .chart { background: none; } .chart > svg, .chart > img { display: block; background: #ffffff; border-radius: 8px; }
        details { margin: .6rem 0; } summary { color: var(--quiet); font: .85rem system-ui, sans-serif; cursor: pointer; }
        pre { background: var(--soft); border-radius: 8px; padding: .8rem 1rem; overflow-x: auto;
               font: 12.5px/1.35 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
        code { font: .85em ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; background: var(--soft); border-radius: 4px; padding: .1em .3em; }
        pre code { padding: 0; font-size: 1em; }
        ul.files { list-style: none; padding: 0; } ul.files li { padding: .15rem 0; } .size { color: var(--quiet); font-size: .88rem; }
        @media (max-width: 40rem) { body { padding: 1.25rem 1rem 3rem; font-size: 16px; } h1 { font-size: 1.6rem; }
          .chart > svg, .chart > img { max-width: none !important; width: 40rem; }
          .chart::before { content: "wider than this screen: swipe →"; position: sticky; left: 0; display: block; width: max-content; color: var(--quiet);
               font: .8rem system-ui, sans-serif; } }
        @media print { nav, summary { display: none; } figure, pre, table { break-inside: avoid; } }
        """;

    private readonly StringBuilder _body = new();
    private readonly List<(string Id, string Text)> _contents = [];

    /// <summary>A heading: level 2 (a section, listed in the contents), 3 or 4.</summary>
    public HtmlReport Heading(string text, int level = 2)
    {
        ArgumentNullException.ThrowIfNull(text);
        level = Math.Clamp(level, 2, 4);
        var id = $"s{_contents.Count + 1}";
        if (level == 2)
        {
            _contents.Add((id, text));
            _body.Append("<h2 id=\"").Append(id).Append("\">").Append(Markup.Escape(text)).Append("</h2>\n");
        }
        else _body.Append("<h").Append(level).Append('>').Append(Markup.Escape(text)).Append("</h").Append(level).Append(">\n");
        return this;
    }

    public HtmlReport Paragraph(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        _body.Append("<p>").Append(Markup.Escape(text)).Append("</p>\n");
        return this;
    }

    /// <summary>Text as it is, in a fixed-width font.</summary>
    public HtmlReport Preformatted(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        _body.Append("<pre>").Append(Markup.Escape(text)).Append("</pre>\n");
        return this;
    }

    /// <summary>Code that can be folded away.</summary>
    public HtmlReport Code(string code, bool open = true)
    {
        ArgumentNullException.ThrowIfNull(code);
        _body.Append(open ? "<details open>" : "<details>").Append("<summary>code</summary><pre><code>").Append(Markup.Escape(code))
            .Append("</code></pre></details>\n");
        return this;
    }

    /// <summary>Prose in Markdown.</summary>
    public HtmlReport Prose(string markdown)
    {
        ArgumentNullException.ThrowIfNull(markdown);
        foreach (var (level, text) in Interactive.Prose.Read(markdown))
        {
            if (level > 0) Heading(text, level + 1);
            else _body.Append(text).Append('\n');
        }
        return this;
    }

    public HtmlReport Add(IShowable what, string caption = "")
    {
        ArgumentNullException.ThrowIfNull(what);
        return Add(what.Show(), caption);
    }

    /// <summary>
    /// Shows the richest form of the bundle that needs no script: svg (without an XML declaration, which HTML does not know), html, png, text.
    /// </summary>
    public HtmlReport Add(MimeBundle bundle, string caption = "")
    {
        ArgumentNullException.ThrowIfNull(bundle);
        var data = bundle.Data;
        var alt = Markup.Escape(caption.Length > 0 ? caption : bundle.Text.Split('\n')[0]);
        _body.Append("<figure>");
        if (data.TryGetValue(Chart.SvgType, out var svg) && IsStatic(svg) && svg.ToString()!.IndexOf("<svg", StringComparison.Ordinal) is >= 0 and var start)
            _body.Append("<div class=\"scroll chart\">").Append(svg.ToString().AsSpan(start)).Append("</div>");
        else if (data.TryGetValue("text/html", out var html) && IsStatic(html))
            _body.Append("<div class=\"scroll\">").Append(html).Append("</div>");
        else if (data.TryGetValue(Chart.PngType, out var png))
        {
            var base64 = png is byte[] bytes ? Convert.ToBase64String(bytes) : Markup.Escape(png.ToString()!);
            _body.Append("<div class=\"scroll chart\"><img alt=\"").Append(alt).Append("\" src=\"data:image/png;base64,").Append(base64).Append("\"></div>");
        }
        else _body.Append("<pre>").Append(Markup.Escape(bundle.Text)).Append("</pre>");
        if (caption.Length > 0) _body.Append("<figcaption>").Append(Markup.Escape(caption)).Append("</figcaption>");
        _body.Append("</figure>\n");
        return this;
    }

    private static bool IsStatic(object markup) => !markup.ToString()!.Contains("<script", StringComparison.OrdinalIgnoreCase);

    /// <summary>A link to a file, by a path relative to the page.</summary>
    public HtmlReport Link(string relativePath, string text = "") => Links([(relativePath, text)]);

    /// <summary>A list of files, by paths relative to the page.</summary>
    public HtmlReport Links(IEnumerable<(string RelativePath, string Text)> files)
    {
        ArgumentNullException.ThrowIfNull(files);
        _body.Append("<ul class=\"files\">\n");
        foreach (var (path, text) in files)
        {
            var href = string.Join('/', path.Replace('\\', '/').Split('/').Select(Uri.EscapeDataString));
            _body.Append("<li><a href=\"").Append(Markup.Escape(href)).Append("\">").Append(Markup.Escape(path)).Append("</a>");
            if (text.Length > 0) _body.Append(" <span class=\"size\">").Append(Markup.Escape(text)).Append("</span>");
            _body.Append("</li>\n");
        }
        _body.Append("</ul>\n");
        return this;
    }

    /// <summary>The prose, the code and the shown outputs of an executed notebook; see <see cref="NotebookHtml"/>.</summary>
    public HtmlReport Notebook(string ipynbPath, bool openCode = false)
    {
        NotebookHtml.Render(ipynbPath, this, openCode);
        return this;
    }

    public string ToHtml()
    {
        var html = new StringBuilder();
        html.Append("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n")
            .Append("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>").Append(Markup.Escape(title)).Append("</title>\n")
            .Append("<style>\n").Append(Style).Append("\n</style>\n</head>\n<body>\n<header><h1>").Append(Markup.Escape(title)).Append("</h1>");
        if (subtitle.Length > 0) html.Append("<p class=\"subtitle\">").Append(Markup.Escape(subtitle)).Append("</p>");
        html.Append("</header>\n<main>\n");
        if (_contents.Count > 2)
        {
            html.Append("<nav aria-label=\"Contents\"><ol>\n");
            foreach (var (id, text) in _contents) html.Append("<li><a href=\"#").Append(id).Append("\">").Append(Markup.Escape(text)).Append("</a></li>\n");
            html.Append("</ol></nav>\n");
        }
        return html.Append(_body).Append("</main>\n</body>\n</html>\n").ToString();
    }

    public void Save(string path) => AtomicFile.WriteText(path, ToHtml());
}
