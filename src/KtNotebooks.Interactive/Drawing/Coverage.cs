
namespace KtNotebooks.Interactive.Drawing;

/// <summary>
/// Exact area coverage of polygons on a pixel grid. Each edge adds its signed area to the pixels that it crosses and the remainder to the pixel on their right;
/// a running sum along the row then is the share of each pixel inside. Polygons added with the same orientation merge (the sum is clamped at 1), so a
/// translucent line has no dark joints.
/// </summary>
internal sealed class Coverage(int width, int height)
{
    private readonly int _stride = width + 2;
    private readonly float[] _area = new float[(width + 2) * height];
    private int _top = int.MaxValue;
    private int _bottom;

    /// <summary>Adds a closed polygon in pixels; it is turned to the common orientation first.</summary>
    public void Add(ReadOnlySpan<Point> polygon)
    {
        double doubled = 0;
        for (var i = 0; i < polygon.Length; i++)
        {
            var (a, b) = (polygon[i], polygon[(i + 1) % polygon.Length]);
            doubled += a.X * b.Y - b.X * a.Y;
        }
        var orientation = doubled < 0 ? -1 : 1;
        for (var i = 0; i < polygon.Length; i++) AddEdge(polygon[i], polygon[(i + 1) % polygon.Length], orientation);
    }

    /// <summary>Adds a closed outline as it is turned: one that is turned the other way within it is a hole.</summary>
    public void AddOutline(ReadOnlySpan<Point> outline)
    {
        for (var i = 0; i < outline.Length; i++) AddEdge(outline[i], outline[(i + 1) % outline.Length], orientation: 1);
    }

    private void AddEdge(Point p, Point q, int orientation)
    {
        if (p.Y == q.Y) return;
        double direction = orientation;
        if (p.Y > q.Y) (p, q, direction) = (q, p, -direction);
        var slope = (q.X - p.X) / (q.Y - p.Y);
        var first = Math.Max(0, (int)Math.Floor(p.Y));
        var last = Math.Min(height, (int)Math.Ceiling(q.Y));
        if (first >= last) return;
        (_top, _bottom) = (Math.Min(_top, first), Math.Max(_bottom, last));

        for (var y = first; y < last; y++)
        {
            double y0 = Math.Max(y, p.Y), y1 = Math.Min(y + 1, q.Y);
            var x0 = Math.Clamp(p.X + (y0 - p.Y) * slope, 0, width);
            var x1 = Math.Clamp(p.X + (y1 - p.Y) * slope, 0, width);
            AddSpan(_area.AsSpan(y * _stride, _stride), Math.Min(x0, x1), Math.Max(x0, x1), direction * (y1 - y0));
        }
    }

    /// <summary>An edge piece within one row, from x0 to x1 ≥ x0, of signed height <paramref name="h"/>.</summary>
    private static void AddSpan(Span<float> row, double x0, double x1, double h)
    {
        int i0 = (int)x0, i1 = (int)x1;
        if (i0 == i1)
        {
            var inside = h * (1 - ((x0 + x1) / 2 - i0));
            row[i0] += (float)inside;
            row[i0 + 1] += (float)(h - inside);
            return;
        }
        // Cut at pixel borders: the piece in column i has height h·w/(x1−x0), and covers the column's area right of its middle.
        var perColumn = h / (x1 - x0);
        for (var i = i0; i <= i1; i++)
        {
            double left = Math.Max(x0, i), right = Math.Min(x1, i + 1);
            var piece = perColumn * (right - left);
            var inside = piece * (1 - ((left + right) / 2 - i));
            row[i] += (float)inside;
            row[i + 1] += (float)(piece - inside);
        }
    }

    /// <summary>
    /// Blends <paramref name="color"/> over the pixels [height, width, 3] by the coverage inside <paramref name="clip"/> (pixels), and forgets the coverage.
    /// </summary>
    public void Paint(Span<byte> rgb, Color color, Box? clip)
    {
        var left = clip is { } c ? Math.Clamp((int)Math.Floor(c.X), 0, width) : 0;
        var right = clip is { } d ? Math.Clamp((int)Math.Ceiling(d.Right), 0, width) : width;
        var top = clip is { } e ? (int)Math.Floor(e.Y) : 0;
        var bottom = clip is { } f ? (int)Math.Ceiling(f.Bottom) : height;
        for (var y = _top; y < _bottom; y++)
        {
            var row = _area.AsSpan(y * _stride, _stride);
            if (y >= top && y < bottom) PaintRow(row, rgb.Slice(y * width * 3, width * 3), color, left, right);
            row.Clear();
        }
        (_top, _bottom) = (int.MaxValue, 0);
    }

    private static void PaintRow(ReadOnlySpan<float> area, Span<byte> rgb, Color color, int left, int right)
    {
        float sum = 0;
        var alpha = (float)color.Alpha;
        for (var x = 0; x < right; x++)
        {
            sum += area[x];
            // Sixteen shades of an edge are all that the eye sees, and halve the PNG.
            var a = MathF.Round(Math.Min(Math.Abs(sum), 1f) * 16) / 16 * alpha;
            if (x < left || a == 0) continue;
            var pixel = rgb.Slice(x * 3, 3);
            pixel[0] = (byte)(pixel[0] + (color.R - pixel[0]) * a + 0.5f);
            pixel[1] = (byte)(pixel[1] + (color.G - pixel[1]) * a + 0.5f);
            pixel[2] = (byte)(pixel[2] + (color.B - pixel[2]) * a + 0.5f);
        }
    }
}
