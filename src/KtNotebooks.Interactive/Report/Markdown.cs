using System.Text;
using System.Text.RegularExpressions;

namespace KtNotebooks.Interactive;

/// <summary>
/// The part of Markdown that our notebooks' prose uses: # headings, paragraphs, - and 1. lists, fenced code, tables, `code`, **bold**, *emphasis*,
/// [links](url). Everything else, raw HTML too, is shown as text. Links lead to http(s), # and relative places only.
/// </summary>
internal static partial class Markdown
{
    /// <summary>One block. Headings carry their level and plain text, others are ready HTML.</summary>
    internal readonly record struct Block(int HeadingLevel, string Text, string Html);

    public static List<Block> Read(string markdown)
    {
        var blocks = new List<Block>();
        var lines = markdown.ReplaceLineEndings("\n").Split('\n');
        for (var i = 0; i < lines.Length;)
        {
            var line = lines[i].TrimEnd();
            if (line.Length == 0) i++;
            else if (HeadingLine().Match(line) is { Success: true } heading)
            {
                blocks.Add(new(heading.Groups[1].Length, Plain(heading.Groups[2].Value), ""));
                i++;
            }
            else if (line.StartsWith("```", StringComparison.Ordinal))
            {
                var code = Take(lines, ref i, 1, l => !l.StartsWith("```", StringComparison.Ordinal));
                i++;
                blocks.Add(Html($"<pre><code>{Markup.Escape(string.Join('\n', code))}</code></pre>"));
            }
            else if (ItemLine().IsMatch(line)) blocks.Add(Html(List(Take(lines, ref i, 0, l => l.Length > 0 && (ItemLine().IsMatch(l) || l[0] == ' ')))));
            else if (line[0] == '|') blocks.Add(Html(TableOf(Take(lines, ref i, 0, l => l.StartsWith('|')))));
            else
            {
                var text = Take(lines, ref i, 0, IsPlain);
                blocks.Add(Html($"<p>{Inline(string.Join('\n', text))}</p>"));
            }
        }
        return blocks;
    }

    private static bool IsPlain(string line) =>
        line.Length > 0 && line[0] != '|' && !HeadingLine().IsMatch(line) && !ItemLine().IsMatch(line) && !line.StartsWith("```", StringComparison.Ordinal);

    private static Block Html(string html) => new(0, "", html);

    private static List<string> Take(string[] lines, ref int i, int skip, Func<string, bool> belongs)
    {
        var taken = new List<string>();
        for (i += skip; i < lines.Length && belongs(lines[i]); i++) taken.Add(lines[i]);
        return taken;
    }

    private static string List(List<string> lines)
    {
        var tag = char.IsAsciiDigit(lines[0].TrimStart()[0]) ? "ol" : "ul";
        var html = new StringBuilder($"<{tag}>");
        var item = "";
        foreach (var line in lines)
        {
            if (ItemLine().Match(line) is { Success: true } match)
            {
                if (item.Length > 0) html.Append("<li>").Append(Inline(item)).Append("</li>");
                item = match.Groups[1].Value;
            }
            else item += "\n" + line.Trim();
        }
        return html.Append("<li>").Append(Inline(item)).Append("</li></").Append(tag).Append('>').ToString();
    }

    private static string TableOf(List<string> lines)
    {
        var html = new StringBuilder("<div class=\"scroll\"><table style=\"border-collapse:collapse;font-size:90%\">");
        foreach (var (line, row) in lines.Select((l, r) => (l, r)))
        {
            if (row == 1 && line.All(c => c is '|' or '-' or ':' or ' ')) continue;
            var tag = row == 0 ? "th" : "td";
            const string style = "padding:4px 10px;border-bottom:1px solid #d8dee4;text-align:left";
            html.Append("<tr>");
            foreach (var cell in line.Trim().Trim('|').Split('|'))
                html.Append($"<{tag} style=\"{style}\">").Append(Inline(cell.Trim())).Append($"</{tag}>");
            html.Append("</tr>");
        }
        return html.Append("</table></div>").ToString();
    }

    /// <summary>Escapes first, then adds markup of its own: nothing of the author's can become a tag.</summary>
    private static string Inline(string text)
    {
        var parts = Markup.Escape(text).Split('`');
        for (var i = 0; i < parts.Length; i++)
        {
            if (i % 2 == 1 && i < parts.Length - 1)
            {
                parts[i] = $"<code>{parts[i]}</code>";
                continue;
            }
            if (i % 2 == 1) parts[i] = "`" + parts[i]; // a tick without a partner
            parts[i] = LinkText().Replace(parts[i], Link);
            parts[i] = Bold().Replace(parts[i], "<strong>$1</strong>");
            parts[i] = Emphasis().Replace(parts[i], "<em>$1</em>");
        }
        return string.Concat(parts);
    }

    private static string Link(Match link) =>
        IsSafe(link.Groups[2].Value) ? $"<a href=\"{link.Groups[2].Value}\">{link.Groups[1].Value}</a>" : link.Groups[1].Value;

    private static bool IsSafe(string url) =>
        url.StartsWith("https://", StringComparison.OrdinalIgnoreCase) || url.StartsWith("http://", StringComparison.OrdinalIgnoreCase) || !url.Contains(':');

    private static string Plain(string text) => LinkText().Replace(text.Replace("`", "").Replace("**", ""), "$1");

    [GeneratedRegex(@"^(#{1,6})\s+(.*?)\s*#*$")]
    private static partial Regex HeadingLine();

    [GeneratedRegex(@"^\s*(?:[-*+]|\d+[.)])\s+(.*)$")]
    private static partial Regex ItemLine();

    [GeneratedRegex(@"\[([^\]]+)\]\(([^)\s]+)\)")]
    private static partial Regex LinkText();

    [GeneratedRegex(@"\*\*(?=\S)(.+?)(?<=\S)\*\*", RegexOptions.Singleline)]
    private static partial Regex Bold();

    [GeneratedRegex(@"(?<![\w*])\*(?=\S)([^*]+?)(?<=\S)\*(?![\w*])")]
    private static partial Regex Emphasis();
}
