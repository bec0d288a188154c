using System.Globalization;
using System.Text;

namespace KtNotebooks.Interactive.Drawing;

/// <summary>
/// Writes a <see cref="Scene"/> as one SVG element that stands alone or inline in HTML. It uses no id, class, style sheet or script: ids of several charts in one
/// page would collide, and sanitizers drop the rest. Clipping is a nested svg element, which clips by itself.
/// </summary>
public static class Svg
{
    /// <summary>Families with the advance widths of <see cref="StrokeFont"/>, so that layout measured with it holds here too.</summary>
    public const string FontFamily = "Helvetica, Arial, 'Liberation Sans', sans-serif";

    public static string Write(Scene scene)
    {
        ArgumentNullException.ThrowIfNull(scene);
        var svg = new StringBuilder(1024);
        svg.Append(CultureInfo.InvariantCulture,
            $"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{Num(scene.Width)}\" height=\"{Num(scene.Height)}\" viewBox=\"0 0 {Num(scene.Width)} {Num(scene.Height)}\" ");
        svg.Append("role=\"img\" style=\"max-width:100%;height:auto\" font-family=\"").Append(FontFamily).Append("\">\n");
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
                svg.Append("<polyline points=\"");
                Points(svg, s.Points);
                svg.Append("\" fill=\"none\" stroke=\"").Append(s.Color.Css).Append("\" stroke-width=\"").Append(Num(s.Width)).Append('"');
                if (s.Color.Alpha < 1) svg.Append(" stroke-opacity=\"").Append(Num(s.Color.Alpha)).Append('"');
                if (s.Round) svg.Append(" stroke-linejoin=\"round\" stroke-linecap=\"round\"");
                svg.Append("/>");
                CloseClip(svg, s.Clip);
                break;
            case Fill f:
                svg.Append("<polygon points=\"");
                Points(svg, f.Points);
                svg.Append('"');
                Paint(svg, f.Color);
                svg.Append("/>\n");
                break;
            case Block b:
                svg.Append("<rect x=\"").Append(Num(b.Box.X)).Append("\" y=\"").Append(Num(b.Box.Y)).Append("\" width=\"").Append(Num(b.Box.Width))
                    .Append("\" height=\"").Append(Num(b.Box.Height)).Append('"');
                if (b.Radius > 0) svg.Append(" rx=\"").Append(Num(b.Radius)).Append('"');
                Paint(svg, b.Color);
                svg.Append("/>\n");
                break;
            case Disc d:
                OpenClip(svg, d.Clip);
                svg.Append("<circle cx=\"").Append(Num(d.Center.X)).Append("\" cy=\"").Append(Num(d.Center.Y)).Append("\" r=\"").Append(Num(d.Radius)).Append('"');
                Paint(svg, d.Color);
                svg.Append("/>");
                CloseClip(svg, d.Clip);
                break;
            case Grid g:
                // One pixel a cell: a rectangle for each would take a megabyte for the 58 x 256 experts of a large model.
                svg.Append("<image x=\"").Append(Num(g.Box.X)).Append("\" y=\"").Append(Num(g.Box.Y)).Append("\" width=\"").Append(Num(g.Box.Width)).Append("\" height=\"")
                    .Append(Num(g.Box.Height)).Append("\" preserveAspectRatio=\"none\" style=\"image-rendering:pixelated\" href=\"data:image/png;base64,")
                    .Append(Convert.ToBase64String(CellsAsPng(g.Cells))).Append("\"/>\n");
                break;
            case Label l:
                svg.Append("<text x=\"").Append(Num(l.At.X)).Append("\" y=\"").Append(Num(l.At.Y)).Append("\" font-size=\"").Append(Num(l.Size)).Append('"');
                if (l.Anchor != Anchor.Start) svg.Append(" text-anchor=\"").Append(l.Anchor == Anchor.Middle ? "middle" : "end").Append('"');
                if (l.Bold) svg.Append(" font-weight=\"bold\"");
                if (l.Turn != 0)
                    svg.Append(" transform=\"rotate(").Append(Num(l.Turn)).Append(' ').Append(Num(l.At.X)).Append(' ').Append(Num(l.At.Y)).Append(")\"");
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
        if (color.Alpha < 1) svg.Append(" fill-opacity=\"").Append(Num(color.Alpha)).Append('"');
    }

    private static void Points(StringBuilder svg, IReadOnlyList<Point> points)
    {
        for (var i = 0; i < points.Count; i++)
        {
            if (i > 0) svg.Append(' ');
            svg.Append(Num(points[i].X)).Append(',').Append(Num(points[i].Y));
        }
    }

    private static void OpenClip(StringBuilder svg, Box? clip)
    {
        if (clip is not { } c) return;
        svg.Append("<svg x=\"").Append(Num(c.X)).Append("\" y=\"").Append(Num(c.Y)).Append("\" width=\"").Append(Num(c.Width)).Append("\" height=\"").Append(Num(c.Height))
            .Append("\" viewBox=\"").Append(Num(c.X)).Append(' ').Append(Num(c.Y)).Append(' ').Append(Num(c.Width)).Append(' ').Append(Num(c.Height)).Append("\">");
    }

    private static void CloseClip(StringBuilder svg, Box? clip) => svg.Append(clip is null ? "\n" : "</svg>\n");

    /// <summary>Hundredths of a pixel are enough for the eye and keep the text small.</summary>
    private static string Num(double value) => value.ToString("0.##", CultureInfo.InvariantCulture);
}
