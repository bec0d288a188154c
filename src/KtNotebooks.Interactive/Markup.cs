using System.Text;

namespace KtNotebooks.Interactive;

/// <summary>Text to HTML and XML.</summary>
internal static class Markup
{
    /// <summary>The caption of an HTML table.</summary>
    public static string Caption(string text) =>
        $"<caption style=\"caption-side:top;text-align:left;font-weight:bold;padding:4px 0\">{Escape(text)}</caption>\n";

    /// <summary>
    /// Escapes text for the body or a quoted attribute of HTML and XML. What XML cannot carry at all (control characters, lone surrogates) becomes U+FFFD.
    /// </summary>
    public static string Escape(string text)
    {
        var safe = new StringBuilder(text.Length + 16);
        foreach (var rune in text.EnumerateRunes()) // a lone surrogate arrives as U+FFFD
        {
            switch (rune.Value)
            {
                case '&': safe.Append("&amp;"); break;
                case '<': safe.Append("&lt;"); break;
                case '>': safe.Append("&gt;"); break;
                case '"': safe.Append("&quot;"); break;
                case '\'': safe.Append("&#39;"); break;
                case '\t' or '\n' or '\r': safe.Append((char)rune.Value); break;
                case < 0x20 or 0x7F or 0xFFFE or 0xFFFF: safe.Append('\uFFFD'); break;
                default: safe.Append(rune); break;
            }
        }
        return safe.ToString();
    }
}
