namespace KtNotebooks.Interactive.Drawing;

/// <summary>Draws a <see cref="Scene"/> as pixels. Everything, text too, becomes polygons whose area coverage is exact (<see cref="Coverage"/>).</summary>
public sealed class Raster
{
    private readonly double _scale;
    private readonly Coverage _coverage;
    private readonly byte[] _rgb;

    private Raster(Scene scene, double scale)
    {
        _scale = scale;
        Width = Math.Max(1, (int)Math.Round(scene.Width * scale));
        Height = Math.Max(1, (int)Math.Round(scene.Height * scale));
        _coverage = new(Width, Height);
        _rgb = new byte[Width * Height * 3];
        Array.Fill(_rgb, (byte)255);
    }

    public int Width { get; }
    public int Height { get; }

    /// <summary>Pixels [Height, Width, 3].</summary>
    public ReadOnlySpan<byte> Rgb => _rgb;

    /// <param name="scene">What to draw.</param>
    /// <param name="scale">Device pixels for one CSS pixel.</param>
    public static Raster Draw(Scene scene, double scale)
    {
        ArgumentNullException.ThrowIfNull(scene);
        var raster = new Raster(scene, scale);
        foreach (var shape in scene.Shapes) raster.Draw(shape);
        return raster;
    }

    /// <summary>The scene as a PNG file of <paramref name="scale"/> device pixels for one CSS pixel.</summary>
    public static byte[] ToPng(Scene scene, double scale)
    {
        var raster = Draw(scene, scale);
        return Png.Encode(raster.Rgb, raster.Width, raster.Height, 96 * scale);
    }

    private void Draw(Shape shape)
    {
        switch (shape)
        {
            case Stroke s:
                AddStroke(Scaled(s.Points), s.Width * _scale, s.Round);
                _coverage.Paint(_rgb, s.Color, Scaled(s.Clip));
                break;
            case Fill f:
                _coverage.Add(Scaled(f.Points));
                _coverage.Paint(_rgb, f.Color, null);
                break;
            case Block b:
                _coverage.Add(Corners(b.Box, b.Radius));
                _coverage.Paint(_rgb, b.Color, null);
                break;
            case Disc d:
                AddArc(new(d.Center.X * _scale, d.Center.Y * _scale), d.Radius * _scale, 0, Math.Tau);
                _coverage.Paint(_rgb, d.Color, Scaled(d.Clip));
                break;
            case Grid g:
                DrawCells(g);
                break;
            case Label l:
                DrawText(l);
                break;
            default:
                throw new NotSupportedException($"[Raster] no rule for shape {shape.GetType().Name}");
        }
    }

    private void DrawCells(Grid grid)
    {
        int rows = grid.Cells.GetLength(0), columns = grid.Cells.GetLength(1);
        double left = grid.Box.X * _scale, top = grid.Box.Y * _scale, width = grid.Box.Width * _scale, height = grid.Box.Height * _scale;
        for (var y = Math.Max(0, (int)Math.Round(top)); y < Math.Min(Height, (int)Math.Round(top + height)); y++)
            for (var x = Math.Max(0, (int)Math.Round(left)); x < Math.Min(Width, (int)Math.Round(left + width)); x++)
            {
                var row = Math.Clamp((int)((y + 0.5 - top) / height * rows), 0, rows - 1);
                var color = grid.Cells[row, Math.Clamp((int)((x + 0.5 - left) / width * columns), 0, columns - 1)];
                var pixel = (y * Width + x) * 3;
                (_rgb[pixel], _rgb[pixel + 1], _rgb[pixel + 2]) = (color.R, color.G, color.B);
            }
    }

    private void DrawText(Label label)
    {
        var size = label.Size * _scale;
        var start = label.Anchor switch
        {
            Anchor.Middle => -StrokeFont.Width(label.Text, size, label.Bold) / 2,
            Anchor.End => -StrokeFont.Width(label.Text, size, label.Bold),
            _ => 0,
        };
        var (sin, cos) = Math.SinCos(label.Turn * Math.PI / 180);
        double originX = label.At.X * _scale, originY = label.At.Y * _scale;
        // Upright text sits on whole pixels: its many horizontal strokes stay sharp.
        if (label.Turn == 0) originY = Math.Round(originY);
        var weight = Math.Max(StrokeFont.Weight(label.Bold) * size, 0.9);
        foreach (var (stroke, isOutline) in StrokeFont.Strokes(label.Text, size, label.Bold))
        {
            var placed = new Point[stroke.Length];
            for (var i = 0; i < placed.Length; i++)
            {
                double x = start + stroke[i].X, y = -stroke[i].Y;
                placed[i] = new(originX + x * cos - y * sin, originY + x * sin + y * cos);
            }
            if (isOutline) _coverage.AddOutline(placed);
            else AddStroke(placed, weight, round: true);
        }
        _coverage.Paint(_rgb, label.Color, null);
    }

    /// <summary>A quad for each segment, a fan on the outer side of each bend, half discs at round ends: pieces that touch and hardly overlap.</summary>
    private void AddStroke(ReadOnlySpan<Point> points, double width, bool round)
    {
        if (points.Length == 0) return;
        var half = width / 2;
        double? firstAngle = null, lastAngle = null;
        Span<Point> quad = stackalloc Point[4];
        for (var i = 1; i < points.Length; i++)
        {
            var (p, q) = (points[i - 1], points[i]);
            double dx = q.X - p.X, dy = q.Y - p.Y, length = Math.Sqrt(dx * dx + dy * dy);
            if (length < 1e-9) continue;
            double nx = -dy / length * half, ny = dx / length * half;
            quad[0] = new(p.X + nx, p.Y + ny);
            quad[1] = new(q.X + nx, q.Y + ny);
            quad[2] = new(q.X - nx, q.Y - ny);
            quad[3] = new(p.X - nx, p.Y - ny);
            _coverage.Add(quad);
            var angle = Math.Atan2(dy, dx);
            if (lastAngle is { } before) AddJoin(p, half, before, angle);
            firstAngle ??= angle;
            lastAngle = angle;
        }
        if (firstAngle is not { } first || lastAngle is not { } last) AddArc(points[0], half, 0, Math.Tau); // a dot
        else if (round && points[0] != points[^1])
        {
            AddArc(points[0], half, first + Math.PI / 2, Math.PI);
            AddArc(points[^1], half, last - Math.PI / 2, Math.PI);
        }
        else if (round) AddJoin(points[0], half, last, first);
    }

    private void AddJoin(Point at, double half, double before, double after)
    {
        var turn = Math.IEEERemainder(after - before, Math.Tau);
        if (Math.Abs(turn) < 1e-6) return;
        var side = turn > 0 ? -Math.PI / 2 : Math.PI / 2; // the outer side of the bend
        AddArc(at, half, before + side, turn, withCenter: true);
    }

    private void AddArc(Point center, double radius, double start, double sweep, bool withCenter = false)
    {
        // Enough corners to stay within a tenth of a pixel of the circle.
        var steps = Math.Max(withCenter ? 1 : 3, (int)Math.Ceiling(Math.Abs(sweep) / (2 * Math.Acos(Math.Max(0.5, 1 - 0.1 / Math.Max(radius, 0.2))))));
        var polygon = new Point[steps + 1 + (withCenter ? 1 : 0)];
        for (var i = 0; i <= steps; i++)
        {
            var (sin, cos) = Math.SinCos(start + sweep * i / steps);
            polygon[i] = new(center.X + radius * cos, center.Y + radius * sin);
        }
        if (withCenter) polygon[^1] = center;
        _coverage.Add(polygon);
    }

    private Point[] Corners(Box box, double radius)
    {
        if (radius <= 0)
            return Scaled([new(box.X, box.Y), new(box.Right, box.Y), new(box.Right, box.Bottom), new(box.X, box.Bottom)]);
        radius = Math.Min(radius, Math.Min(box.Width, box.Height) / 2);
        var outline = new List<Point>();
        ReadOnlySpan<Point> centers =
        [
            new(box.Right - radius, box.Bottom - radius), new(box.X + radius, box.Bottom - radius),
            new(box.X + radius, box.Y + radius), new(box.Right - radius, box.Y + radius),
        ];
        for (var corner = 0; corner < 4; corner++)
            for (var i = 0; i <= 6; i++)
            {
                var (sin, cos) = Math.SinCos((corner + i / 6.0) * Math.PI / 2);
                outline.Add(new(centers[corner].X + radius * cos, centers[corner].Y + radius * sin));
            }
        return Scaled(outline);
    }

    private Point[] Scaled(IReadOnlyList<Point> points)
    {
        var scaled = new Point[points.Count];
        for (var i = 0; i < scaled.Length; i++) scaled[i] = new(points[i].X * _scale, points[i].Y * _scale);
        return scaled;
    }

    private Box? Scaled(Box? box) => box is { } b ? new(b.X * _scale, b.Y * _scale, b.Width * _scale, b.Height * _scale) : null;
}
