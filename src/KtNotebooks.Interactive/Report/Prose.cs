using Markdig;
using Markdig.Renderers;
using Markdig.Syntax;
using Markdig.Syntax.Inlines;

namespace KtNotebooks.Interactive;

/// <summary>
/// Markdown with tables, by Markdig. Raw HTML is shown as text. Links lead to http(s), # and relative places only, pictures come from beside the page or lie in
/// it: a page asks nothing of the network.
/// </summary>
internal static class Prose
{
    private static readonly MarkdownPipeline Pipeline = new MarkdownPipelineBuilder().DisableHtml().UsePipeTables().Build();

    /// <summary>Block by block: headings as their level and plain text, others (level 0) as HTML.</summary>
    public static IEnumerable<(int Level, string Text)> Read(string markdown)
    {
        var document = Markdown.Parse(markdown, Pipeline);
        foreach (var inline in document.Descendants<Inline>().ToArray())
        {
            if (inline is LinkInline link && !(link.IsImage ? IsLocal(link.Url) : IsSafe(link.Url))) link.ReplaceBy(new ContainerInline());
            if (inline is AutolinkInline { IsEmail: false } auto && !IsSafe(auto.Url)) auto.ReplaceBy(new LiteralInline(auto.Url));
        }
        return document.Select(block => block is HeadingBlock heading ? (heading.Level, Plain(heading)) : (0, Html(block))).Where(b => b.Item2.Length > 0);
    }

    private static string Html(Block block)
    {
        using var text = new StringWriter();
        var renderer = new HtmlRenderer(text);
        Pipeline.Setup(renderer);
        renderer.Render(block);
        var html = text.ToString().TrimEnd();
        return block is Markdig.Extensions.Tables.Table ? $"<div class=\"scroll\">{html}</div>" : html;
    }

    private static string Plain(HeadingBlock heading) => string.Concat((heading.Inline?.Descendants() ?? []).Select(i => i switch
    {
        LiteralInline literal => literal.Content.ToString(),
        CodeInline code => code.Content,
        HtmlEntityInline entity => entity.Transcoded.ToString(),
        LineBreakInline => " ",
        _ => "",
    }));

    private static bool IsSafe(string? url) => IsLocal(url) || url!.StartsWith("https://", StringComparison.OrdinalIgnoreCase)
        || url.StartsWith("http://", StringComparison.OrdinalIgnoreCase);

    private static bool IsLocal(string? url) => url is null || !url.Contains(':') || url.StartsWith("data:image/png;base64,", StringComparison.Ordinal);
}
