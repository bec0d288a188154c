using KtNotebooks.Planning;

namespace KtNotebooks.Interactive.Drawing;

/// <summary>
/// Chinese, Japanese and Korean letters for PNGs: the shapes are taken from a font of the machine that draws, as browsers take those of an SVG. Where there is
/// none, a letter is a small box, and it is said once what to type.
/// </summary>
internal static class ChineseLetters
{
    /// <summary>Words in names of fonts, upright sans-serif ones first.</summary>
    private static readonly string[] Known =
        ["wqy-microhei", "wqy-zenhei", "DroidSansFallback", "NotoSansCJK-Regular", "NotoSansSC-Regular", "SourceHanSans", "msyh.ttc", "simhei", "STHeiti Light",
            "Hiragino Sans GB", "simsun", "uming", "NotoSerifCJK-Regular"];

    private static readonly string[] Folders =
    [
        "/usr/share/fonts", "/usr/local/share/fonts", Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".local/share/fonts"),
        Environment.GetFolderPath(Environment.SpecialFolder.Fonts), "/System/Library/Fonts", "/Library/Fonts",
    ];

    private static readonly Lazy<OutlineFont?> Font = new(Open);
    private static int _said;

    /// <summary>Closed outlines in hundredths of the font size, y upwards; null: no font here has the letter.</summary>
    public static Point[][]? Find(int letter)
    {
        if (Font.Value is not { } font)
        {
            if (Interlocked.Exchange(ref _said, 1) == 0) Console.Error.WriteLine($"kt: {MachineFacts.FontAdvice}");
            return null;
        }
        return Shape(font, letter);
    }

    /// <summary>The files that may have such letters, the best first.</summary>
    internal static IEnumerable<string> Candidates()
    {
        var options = new EnumerationOptions { RecurseSubdirectories = true, IgnoreInaccessible = true, MaxRecursionDepth = 6 };
        return Folders.Where(f => f.Length > 0 && Directory.Exists(f)).SelectMany(f => Directory.EnumerateFiles(f, "*.?t?", options))
            .Select(file => (File: file, Rank: Array.FindIndex(Known, k => Path.GetFileName(file).Contains(k, StringComparison.OrdinalIgnoreCase))))
            .Where(f => f.Rank >= 0).OrderBy(f => f.Rank).ThenBy(f => f.File, StringComparer.Ordinal).Select(f => f.File);
    }

    private static OutlineFont? Open() => Candidates().Select(TryOpen).FirstOrDefault(font => font is not null && Shape(font, '中') is not null);

    private static OutlineFont? TryOpen(string file)
    {
        try
        {
            return new OutlineFont(File.ReadAllBytes(file));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or InvalidDataException || IsDamage(e))
        {
            return null;
        }
    }

    /// <summary>A damaged font has no letters.</summary>
    private static Point[][]? Shape(OutlineFont font, int letter)
    {
        try
        {
            return font.Find(letter);
        }
        catch (Exception e) when (e is InvalidDataException || IsDamage(e))
        {
            return null;
        }
    }

    private static bool IsDamage(Exception e) => e is ArgumentException or IndexOutOfRangeException or KeyNotFoundException or OverflowException;
}
