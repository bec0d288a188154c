namespace KtNotebooks.Jupyter.Protocol;

/// <summary>Jupyter counts cursor positions in Unicode code points, .NET strings in UTF-16 units; an emoji is one there and two here.</summary>
internal static class CodePoints
{
    internal static int ToUtf16(string text, int codePoints)
    {
        var at = 0;
        for (; codePoints > 0 && at < text.Length; codePoints--) at += char.IsSurrogatePair(text, at) ? 2 : 1;
        return at;
    }

    internal static int FromUtf16(string text, int index)
    {
        var count = 0;
        for (var at = 0; at < index && at < text.Length; count++) at += char.IsSurrogatePair(text, at) ? 2 : 1;
        return count;
    }
}
