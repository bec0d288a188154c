using System.Globalization;
using System.Text;

namespace KtNotebooks.Interactive.Drawing;

/// <summary>
/// Writes a <see cref="Scene"/> as one SVG element that stands alone or inline in HTML. It uses no id, class, style sheet or script: ids of several charts
/// in one page would collide, and sanitizers drop the rest. Clipping is a nested svg element, which clips by itself.
/// </summary>
public static class Svg
{
    /// <summary>
    /// Families with the advance widths of <see cref="StrokeFont"/>, with which the layout is measured. Where none of them is there, labels are fitted.
    /// </summary>
    public const string FontFamily = "Helvetica, Arial, 'Liberation Sans', sans-serif";

    public static string Write(Scene scene)
    {
        ArgumentNullException.ThrowIfNull(scene);
        var svg = new StringBuilder(1024);
        string width = Num(scene.Width), height = Num(scene.Height);
        svg.Append($"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" role=\"img\"")
            .Append(" style=\"max-width:100%;height:auto\" font-family=\"").Append(FontFamily).Append("\">\n");
        svg.Append("<title>").Append(Markup.Escape(scene.Description)).Append("</title>\n");
        svg.Append("<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n");
        foreach (var shape in scene.Shapes) Write(svg, shape);
        return svg.Append("</svg>").ToString();
    }

    private static void Write(StringBuilder svg, Shape shape)
    {
        switch (shape)
        {
            case Stroke s:
                OpenClip(svg, s.Clip);
                svg.Append("<polyline points=\"").Append(Points(s.Points)).Append("\" fill=\"none\" stroke=\"").Append(s.Color.Css).Append('"');
                Number(svg, "stroke-width", s.Width);
                if (s.Color.Alpha < 1) Number(svg, "stroke-opacity", s.Color.Alpha);
                if (s.Round) svg.Append(" stroke-linejoin=\"round\" stroke-linecap=\"round\"");
                svg.Append("/>");
                CloseClip(svg, s.Clip);
                break;
            case Fill f:
                svg.Append("<polygon points=\"").Append(Points(f.Points)).Append('"');
                Paint(svg, f.Color);
                svg.Append("/>\n");
                break;
            case Block b:
                svg.Append("<rect");
                Place(svg, b.Box);
                if (b.Radius > 0) Number(svg, "rx", b.Radius);
                Paint(svg, b.Color);
                svg.Append("/>\n");
                break;
            case Disc d:
                OpenClip(svg, d.Clip);
                svg.Append("<circle");
                Number(svg, "cx", d.Center.X);
                Number(svg, "cy", d.Center.Y);
                Number(svg, "r", d.Radius);
                Paint(svg, d.Color);
                svg.Append("/>");
                CloseClip(svg, d.Clip);
                break;
            case Grid g:
                // One pixel a cell: a rectangle for each would take a megabyte for the 58 x 256 experts of a large model.
                svg.Append("<image");
                Place(svg, g.Box);
                svg.Append(" preserveAspectRatio=\"none\" style=\"image-rendering:pixelated\" href=\"data:image/png;base64,")
                    .Append(Convert.ToBase64String(CellsAsPng(g.Cells))).Append("\"/>\n");
                break;
            case Label l:
                svg.Append("<text");
                Number(svg, "x", l.At.X);
                Number(svg, "y", l.At.Y);
                Number(svg, "font-size", l.Size);
                if (l.Anchor != Anchor.Start) svg.Append(" text-anchor=\"").Append(l.Anchor == Anchor.Middle ? "middle" : "end").Append('"');
                if (l.Bold) svg.Append(" font-weight=\"bold\"");
                if (l.Turn != 0) svg.Append($" transform=\"rotate({Num(l.Turn)} {Num(l.At.X)} {Num(l.At.Y)})\"");
                // As wide as the layout took it for, in whatever family the reader has.
                if (l.Text.Length > 3) Number(svg, "textLength", StrokeFont.Width(l.Text, l.Size, l.Bold));
                if (l.Text.Length > 3) svg.Append(" lengthAdjust=\"spacingAndGlyphs\"");
                Paint(svg, l.Color);
                svg.Append('>').Append(Markup.Escape(l.Text)).Append("</text>\n");
                break;
            default:
                throw new NotSupportedException($"[Svg] no rule for shape {shape.GetType().Name}");
        }
    }

    private static byte[] CellsAsPng(Color[,] cells)
    {
        int rows = cells.GetLength(0), columns = cells.GetLength(1);
        var rgb = new byte[rows * columns * 3];
        for (var i = 0; i < rows * columns; i++)
        {
            var color = cells[i / columns, i % columns];
            (rgb[i * 3], rgb[i * 3 + 1], rgb[i * 3 + 2]) = (color.R, color.G, color.B);
        }
        return Png.Encode(rgb, columns, rows);
    }

    private static void Paint(StringBuilder svg, Color color)
    {
        svg.Append(" fill=\"").Append(color.Css).Append('"');
        if (color.Alpha < 1) Number(svg, "fill-opacity", color.Alpha);
    }

    private static void Place(StringBuilder svg, Box box)
    {
        Number(svg, "x", box.X);
        Number(svg, "y", box.Y);
        Number(svg, "width", box.Width);
        Number(svg, "height", box.Height);
    }

    private static string Points(IReadOnlyList<Point> points) => string.Join(' ', points.Select(p => $"{Num(p.X)},{Num(p.Y)}"));

    private static void OpenClip(StringBuilder svg, Box? clip)
    {
        if (clip is not { } c) return;
        svg.Append("<svg");
        Place(svg, c);
        svg.Append($" viewBox=\"{Num(c.X)} {Num(c.Y)} {Num(c.Width)} {Num(c.Height)}\">");
    }

    private static void CloseClip(StringBuilder svg, Box? clip) => svg.Append(clip is null ? "\n" : "</svg>\n");

    private static void Number(StringBuilder svg, string name, double value) => svg.Append(' ').Append(name).Append("=\"").Append(Num(value)).Append('"');

    /// <summary>Hundredths of a pixel are enough for the eye and keep the text small.</summary>
    private static string Num(double value) => value.ToString("0.##", CultureInfo.InvariantCulture);
}
