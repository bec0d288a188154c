using System.Globalization;
using System.Text;

namespace KtNotebooks.Interactive;

/// <summary>Columns that text takes in a terminal: Chinese, Japanese and Korean characters and emoji take two.</summary>
internal static class TextWidth
{
    public static int Of(string text)
    {
        var width = 0;
        foreach (var rune in text.EnumerateRunes()) width += Of(rune);
        return width;
    }

    public static int Of(Rune rune) => rune.Value switch
    {
        < 0x300 => 1,
        >= 0x1100 and <= 0x115F or >= 0x2E80 and <= 0xA4CF or >= 0xAC00 and <= 0xD7A3 or >= 0xF900 and <= 0xFAFF or >= 0xFE30 and <= 0xFE6F
            or >= 0xFF00 and <= 0xFF60 or >= 0xFFE0 and <= 0xFFE6 or >= 0x1F300 and <= 0x1FAFF or >= 0x20000 and <= 0x3FFFD => 2,
        _ => Rune.GetUnicodeCategory(rune) is UnicodeCategory.NonSpacingMark or UnicodeCategory.EnclosingMark or UnicodeCategory.Format ? 0 : 1,
    };

    public static string PadRight(string text, int width) => text + new string(' ', Math.Max(0, width - Of(text)));

    public static string PadLeft(string text, int width) => new string(' ', Math.Max(0, width - Of(text))) + text;

    /// <summary>A horizontal bar of up to <paramref name="width"/> columns in eighths of a column.</summary>
    public static string Bar(double share, int width)
    {
        if (!double.IsFinite(share) || share <= 0) return "";
        var eighths = (int)Math.Round(Math.Min(1, share) * width * 8);
        return new string('█', eighths / 8) + (eighths % 8 > 0 ? "▏▎▍▌▋▊▉"[eighths % 8 - 1].ToString() : "");
    }

    /// <summary>Lines of at most <paramref name="width"/> columns; breaks at spaces, inside a word only where it must or between wide characters.</summary>
    public static List<string> Wrap(string text, int width)
    {
        var lines = new List<string>();
        foreach (var paragraph in text.ReplaceLineEndings("\n").Split('\n'))
        {
            var line = new StringBuilder();
            int used = 0, breakAt = 0; // breakAt: characters of the line that may end it
            foreach (var rune in paragraph.EnumerateRunes())
            {
                var w = Of(rune);
                if (used + w > width && used > 0)
                {
                    var (head, rest) = breakAt > 0 ? (line.ToString(0, breakAt), line.ToString(breakAt, line.Length - breakAt)) : (line.ToString(), "");
                    lines.Add(head.TrimEnd());
                    line.Clear().Append(rest.TrimStart());
                    (used, breakAt) = (Of(line.ToString()), 0);
                }
                line.Append(rune);
                used += w;
                if (rune.Value == ' ' || w == 2) breakAt = line.Length;
            }
            lines.Add(line.ToString().TrimEnd());
        }
        return lines;
    }
}
