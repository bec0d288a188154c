using System.Text;

namespace KtNotebooks.Jupyter.Protocol;

/// <summary>
/// JSON as clients send it: bytes that are no UTF-8 and halves of surrogate pairs (a pasted half emoji) become U+FFFD, where .NET would refuse the whole
/// message.
/// </summary>
internal static class JsonText
{
    private const string Replacement = "\\ufffd";

    internal static string Read(byte[] utf8)
    {
        var text = Encoding.UTF8.GetString(utf8);
        return text.Contains("\\ud", StringComparison.OrdinalIgnoreCase) ? Mend(text) : text;
    }

    private static string Mend(string text)
    {
        var mended = new StringBuilder(text.Length);
        for (var at = 0; at < text.Length;)
        {
            // Outside of strings JSON has no backslash, so an escape is where a backslash is.
            var length = text[at] != '\\' ? 1
                : Unit(text, at) is not { } unit ? 2 : char.IsHighSurrogate(unit) && Unit(text, at + 6) is { } low && char.IsLowSurrogate(low) ? 12 : 6;
            if (length == 6 && char.IsSurrogate(Unit(text, at)!.Value)) mended.Append(Replacement);
            else mended.Append(text, at, Math.Min(length, text.Length - at));
            at += length;
        }
        return mended.ToString();
    }

    /// <returns>The UTF-16 unit that an escape \uXXXX at this place stands for; null if none is there.</returns>
    private static char? Unit(string text, int at) =>
        at + 6 <= text.Length && text[at] == '\\' && text[at + 1] == 'u'
            && ushort.TryParse(text.AsSpan(at + 2, 4), System.Globalization.NumberStyles.AllowHexSpecifier, null, out var unit) ? (char)unit : null;
}
