using KtNotebooks.Interactive.Drawing;

using Xunit;

namespace KtNotebooks.Tests.Interactive;

/// <summary>Letters of the fonts that this machine has, TrueType's and PostScript's, as pixels.</summary>
public sealed class ChineseLetterTests
{
    private const int Size = 64;

    public static TheoryData<string> Fonts => [.. ChineseLetters.Candidates().DefaultIfEmpty("")];

    [Theory]
    [MemberData(nameof(Fonts))]
    public void A_mouth_is_a_frame_a_one_is_a_bar_and_a_made_up_letter_is_not_there(string file)
    {
        Require.Hardware("chinese-font", file.Length == 0 ? "no font with Chinese letters is here (Debian: fonts-wqy-microhei)" : null);
        var font = new OutlineFont(File.ReadAllBytes(file));
        var mouth = Draw(font, '口');
        Assert.True(Ink(mouth, 0.45, 0.5, 0.1) == 0, "the middle of 口 is filled");
        Assert.True(Ink(mouth, 0, 0.5, 0.35) > 0 && Ink(mouth, 0.65, 0.5, 0.35) > 0, "口 lacks a side");
        var one = Draw(font, '一');
        Assert.True(Ink(one, 0.2, 0.5, 0.6) > 5 * Ink(one, 0.2, 0.9, 0.6) && Ink(one, 0.2, 0.1, 0.6) == 0, "一 is no bar");
        Assert.NotEqual(Draw(font, '国'), Draw(font, '图'));
        Assert.Null(font.Find(0x10FFFE));
    }

    [Fact]
    public void Labels_have_letters_and_not_boxes_where_a_font_is_here()
    {
        Require.Hardware("chinese-font", ChineseLetters.Candidates().Any() ? null : "no font with Chinese letters is here (Debian: fonts-wqy-microhei)");
        Assert.NotEqual(Label("中"), Label("口"));
    }

    [Fact]
    public void What_is_no_font_is_refused_and_not_read_beyond_its_end()
    {
        foreach (var bytes in new[] { [], [0, 1, 0, 0], "ttcf\0\0\0\0\0\0\0\u0001\0\0\0\u00ff"u8.ToArray(), new byte[4096] })
            Assert.True(Record.Exception(() => new OutlineFont(bytes)) is InvalidDataException or ArgumentException or IndexOutOfRangeException);
    }

    private static byte[] Label(string text)
    {
        var scene = new Scene(40, 30, "test");
        scene.Text(2, 22, text, 20, new(0, 0, 0));
        return Raster.ToPng(scene, 1);
    }

    /// <summary>[Size, Size, 3]: a letter that fills the square, its baseline at seven eighths.</summary>
    private static byte[] Draw(OutlineFont font, int letter)
    {
        var coverage = new Coverage(Size, Size);
        var rgb = new byte[Size * Size * 3];
        Array.Fill(rgb, (byte)255);
        foreach (var outline in font.Find(letter)!)
            coverage.AddOutline(Array.ConvertAll(outline, p => new Point(p.X * Size / 100, (0.875 - p.Y / 100) * Size)));
        coverage.Paint(rgb, new(0, 0, 0), null);
        return rgb;
    }

    /// <summary>Dark pixels of a square whose left edge and middle are given as shares of the picture.</summary>
    private static int Ink(byte[] rgb, double left, double middle, double side)
    {
        var dark = 0;
        for (var y = (int)((middle - side / 2) * Size); y < Math.Min(Size, (middle + side / 2) * Size); y++)
            for (var x = (int)(left * Size); x < Math.Min(Size, (left + side) * Size); x++)
                if (y >= 0 && rgb[(y * Size + x) * 3] < 128) dark++;
        return dark;
    }
}
