using System.Xml.Linq;

using KtNotebooks.Interactive.Drawing;

using Xunit;

namespace KtNotebooks.Tests.Interactive;

public class DrawingTests
{
    private static readonly Color Black = new(0, 0, 0);

    private static PngReader Draw(Action<Scene> draw, double scale = 1)
    {
        var scene = new Scene(40, 30, "test");
        draw(scene);
        return PngReader.Read(Raster.ToPng(scene, scale));
    }

    [Fact]
    public void A_png_has_its_chunks_in_order_and_the_scaled_size()
    {
        var png = Draw(_ => { }, scale: 2);
        Assert.Equal(["IHDR", "pHYs", "PLTE", "IDAT", "IEND"], png.Chunks);
        Assert.Equal((80, 60), (png.Width, png.Height));
        Assert.True(png.IsWhite(0, 0));
    }

    [Fact]
    public void A_rectangle_on_pixel_borders_is_exact()
    {
        var png = Draw(s => s.Rect(new(10, 5, 4, 3), new(10, 20, 30)));
        for (var y = 0; y < 30; y++)
            for (var x = 0; x < 40; x++)
                Assert.Equal(x is >= 10 and < 14 && y is >= 5 and < 8 ? ((byte)10, (byte)20, (byte)30) : ((byte)255, (byte)255, (byte)255), png[x, y]);
    }

    [Fact]
    public void Half_a_covered_pixel_is_half_as_dark() => Assert.InRange(Draw(s => s.Rect(new(10.5, 5, 4, 3), Black))[10, 6].R, 127, 128);

    [Fact]
    public void A_translucent_line_has_no_darker_joints()
    {
        // A blunt zigzag: where its segments meet, coverage must not add up beyond one.
        var png = Draw(s => s.Polyline([new(2, 10), new(12, 14), new(22, 10), new(32, 14)], Black.Fade(0.4), 4));
        Assert.Equal(153, png.Rgb.Min()); // 255 · 0.6
    }

    [Fact]
    public void Areas_of_disc_and_triangle_are_right()
    {
        static double Dark(PngReader png) => png.Rgb.Where((_, i) => i % 3 == 0).Sum(v => (255 - v) / 255.0);
        Assert.Equal(Math.PI * 64, Dark(Draw(s => s.Circle(new(20, 15), 8, Black))), Math.PI * 64 * 0.02);
        Assert.Equal(20 * 13 / 2.0, Dark(Draw(s => s.Polygon([new(3.3, 4.2), new(23.3, 4.2), new(9, 17.2)], Black))), 1.5);
    }

    [Fact]
    public void Shapes_beyond_the_page_are_cut_off()
    {
        var png = Draw(s =>
        {
            s.Rect(new(-50, -50, 60, 60), Black);
            s.Polyline([new(-1000, 25), new(1000, 25)], Black, 2);
            s.Circle(new(40, 0), 3, Black);
        });
        Assert.Equal((0, 0, 0), png[9, 9]);
        Assert.True(png.IsWhite(10, 10));
        Assert.Equal((0, 0, 0), png[39, 25]);
        Assert.Equal((0, 0, 0), png[0, 24]);
    }

    [Fact]
    public void A_clip_holds()
    {
        var png = Draw(s => s.Polyline([new(0, 10), new(40, 10)], Black, 4, clip: new(10, 0, 20, 30)));
        Assert.True(png.IsWhite(9, 10));
        Assert.Equal((0, 0, 0), png[10, 10]);
        Assert.Equal((0, 0, 0), png[29, 10]);
        Assert.True(png.IsWhite(30, 10));
    }

    [Fact]
    public void Every_printable_ascii_character_has_a_shape_of_its_own()
    {
        var seen = new Dictionary<string, char>();
        for (var c = '!'; c <= '~'; c++)
        {
            var character = c;
            var pixels = Convert.ToBase64String(Draw(s => s.Text(8, 22, character.ToString(), 20, Black)).Rgb);
            Assert.Contains(Draw(s => s.Text(8, 22, character.ToString(), 20, Black)).Rgb, v => v < 100);
            Assert.False(seen.TryGetValue(pixels, out var twin), $"'{c}' looks like '{twin}'");
            seen[pixels] = c;
        }
    }

    [Fact]
    public void Characters_without_a_glyph_are_boxes_and_keep_their_room()
    {
        Assert.Contains(Draw(s => s.Text(2, 22, "律", 20, Black)).Rgb, v => v < 100);
        Assert.Equal(2 * StrokeFont.Width("律", 20), StrokeFont.Width("律师", 20), 6);
        Assert.True(StrokeFont.Width("律", 20) > StrokeFont.Width("i", 20));
    }

    [Fact]
    public void Text_is_as_wide_as_measured()
    {
        var png = Draw(s => s.Text(20, 20, "Hm", 14, Black, Anchor.Middle));
        var dark = Enumerable.Range(0, 40).Where(x => Enumerable.Range(0, 30).Any(y => !png.IsWhite(x, y))).ToArray();
        var width = StrokeFont.Width("Hm", 14);
        Assert.InRange(dark[0], 20 - width / 2 - 1, 20 - width / 2 + 2);
        Assert.InRange(dark[^1], 20 + width / 2 - 3, 20 + width / 2 + 1);
    }

    [Fact]
    public void Svg_is_well_formed_whatever_the_text()
    {
        var scene = new Scene(100, 50, "a <b> & \"c\" \0 \uD800 ]]>");
        scene.Text(1, 10, "</text><script>alert(1)</script>", 10, Black, turn: -90);
        scene.Text(1, 10, "tab\t bell\a escape\x1B[31m 律师 😀 \uFFFF", 10, Black, bold: true);
        scene.Polyline([new(0, 0), new(1e-9, 12345.678)], Black.Fade(0.5), clip: new(0, 0, 5, 5));
        scene.Cells(new(0, 0, 10, 10), new Color[,] { { Black, Black }, { Black, Black } });
        var svg = XDocument.Parse(Svg.Write(scene));
        Assert.DoesNotContain(svg.Descendants(), e => e.Name.LocalName == "script");
        Assert.Contains(svg.Descendants(), e => e.Value.Contains("律师 😀"));
    }

    [Fact]
    public void Up_to_256_colours_are_exact_and_rarer_ones_take_the_nearest()
    {
        var exact = new byte[256 * 3];
        for (var i = 0; i < 256; i++) (exact[i * 3], exact[i * 3 + 1], exact[i * 3 + 2]) = ((byte)i, (byte)(255 - i), (byte)(i * 7));
        Assert.Equal(exact, PngReader.Read(Png.Encode(exact, 16, 16)).Rgb);

        byte[] twice = [.. exact, .. exact, 10, 246, 70, .. exact[..^3]]; // (10, 246, 70) is one off from colour 10 in green and occurs once
        var png = PngReader.Read(Png.Encode(twice, 256, 3));
        Assert.Equal((10, 245, 70), png[0, 2]);
        Assert.Equal(exact, png.Rgb[..(256 * 3)]);
    }

    [Fact]
    public void A_wrong_number_of_pixels_is_an_error() =>
        Assert.Contains("wanted 2 x 2 x 3 bytes", Assert.Throws<ArgumentException>(() => Png.Encode(new byte[11], 2, 2)).Message);
}
