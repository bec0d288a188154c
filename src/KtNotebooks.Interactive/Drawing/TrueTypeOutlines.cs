using System.Buffers.Binary;

namespace KtNotebooks.Interactive.Drawing;

/// <summary>The table glyf: quadratic curves, and letters made of other letters.</summary>
/// <param name="file">The font file.</param>
/// <param name="glyf">Where the table begins.</param>
/// <param name="loca">Where the table of the letters' places begins.</param>
/// <param name="isLong">Whether those are 32-bit numbers.</param>
internal sealed class TrueTypeOutlines(byte[] file, int glyf, int loca, bool isLong) : IGlyphOutlines
{
    private const int Deepest = 5;

    public List<Point[]> Of(int glyph)
    {
        var pen = new OutlinePen();
        Draw(glyph, pen, p => p, depth: 0);
        pen.Close();
        return pen.Done;
    }

    private void Draw(int glyph, OutlinePen pen, Func<Point, Point> place, int depth)
    {
        if (depth > Deepest) throw new InvalidDataException("[OutlineFont] a letter is made of itself");
        var (start, end) = (Place(glyph), Place(glyph + 1));
        if (end <= start) return; // a space
        var at = glyf + start;
        var contours = Short(at);
        if (contours >= 0) DrawSimple(at + 10, contours, pen, place);
        else DrawParts(at + 10, pen, place, depth);
    }

    private int Place(int glyph) => isLong ? (int)BinaryPrimitives.ReadUInt32BigEndian(file.AsSpan(loca + 4 * glyph)) : 2 * (ushort)Short(loca + 2 * glyph);

    private void DrawSimple(int at, int contours, OutlinePen pen, Func<Point, Point> place)
    {
        if (contours == 0) return;
        var ends = new int[contours];
        for (var i = 0; i < contours; i++, at += 2) ends[i] = (ushort)Short(at);
        at += 2 + (ushort)Short(at); // hints
        var flags = new byte[ends[^1] + 1];
        for (var i = 0; i < flags.Length;)
        {
            var flag = file[at++];
            var repeats = (flag & 8) != 0 ? file[at++] : 0;
            for (var r = 0; r <= repeats && i < flags.Length; r++) flags[i++] = flag;
        }
        var x = Coordinates(ref at, flags, isShort: 2, isSame: 16);
        var y = Coordinates(ref at, flags, isShort: 4, isSame: 32);
        for (int c = 0, first = 0; c < contours; first = ends[c++] + 1)
            DrawContour([.. Enumerable.Range(first, ends[c] - first + 1).Select(i => (place(new(x[i], y[i])), (flags[i] & 1) != 0))], pen);
    }

    private double[] Coordinates(ref int at, byte[] flags, int isShort, int isSame)
    {
        var values = new double[flags.Length];
        double value = 0;
        for (var i = 0; i < flags.Length; i++)
        {
            if ((flags[i] & isShort) != 0) value += (flags[i] & isSame) != 0 ? file[at++] : -file[at++];
            else if ((flags[i] & isSame) == 0) (value, at) = (value + Short(at), at + 2);
            values[i] = value;
        }
        return values;
    }

    /// <summary>Points on the outline and control points; between two of the latter lies one on the outline that is not written.</summary>
    private static void DrawContour((Point At, bool On)[] points, OutlinePen pen)
    {
        if (points.Length < 2) return;
        var start = Array.FindIndex(points, p => p.On);
        // Turned so that the last point is one on the outline: there it begins, too.
        (Point At, bool On)[] round = start >= 0 ? [.. points[(start + 1)..], .. points[..(start + 1)]]
            : [.. points, (Middle(points[0].At, points[^1].At), true)];
        pen.Move(round[^1].At);
        Point? control = null;
        foreach (var (at, on) in round)
        {
            if (control is { } c) pen.Curve(c, on ? at : Middle(c, at));
            else if (on) pen.Line(at);
            control = on ? null : at;
        }
    }

    private void DrawParts(int at, OutlinePen pen, Func<Point, Point> place, int depth)
    {
        for (var more = true; more;)
        {
            var (flags, glyph) = (Short(at), (ushort)Short(at + 2));
            at += 4;
            var words = (flags & 1) != 0;
            double dx = words ? Short(at) : (sbyte)file[at], dy = words ? Short(at + 2) : (sbyte)file[at + 1];
            at += words ? 4 : 2;
            if ((flags & 2) == 0) (dx, dy) = (0, 0); // to be joined at points: not in letters of this kind
            double xx = 1, xy = 0, yx = 0, yy = 1;
            if ((flags & 8) != 0) xx = yy = Next();
            else if ((flags & 0x40) != 0) (xx, yy) = (Next(), Next());
            else if ((flags & 0x80) != 0) (xx, xy, yx, yy) = (Next(), Next(), Next(), Next());
            Draw(glyph, pen, p => place(new(xx * p.X + yx * p.Y + dx, xy * p.X + yy * p.Y + dy)), depth + 1);
            more = (flags & 0x20) != 0;
        }

        double Next()
        {
            at += 2;
            return Short(at - 2) / 16384.0;
        }
    }

    private static Point Middle(Point a, Point b) => new((a.X + b.X) / 2, (a.Y + b.Y) / 2);

    private short Short(int at) => BinaryPrimitives.ReadInt16BigEndian(file.AsSpan(at));
}
