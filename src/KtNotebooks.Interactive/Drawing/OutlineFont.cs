using System.Buffers.Binary;

namespace KtNotebooks.Interactive.Drawing;

/// <summary>
/// The shapes of letters in a font file, of TrueType or of PostScript outlines (https://learn.microsoft.com/typography/opentype/spec): enough of the format to
/// draw single Chinese letters, which need no kerning, no ligatures and no hints.
/// </summary>
internal sealed class OutlineFont
{
    private const uint Collection = 0x74746366, PostScript = 0x4F54544F; // "ttcf", "OTTO"
    private const int SimplifiedChinese = 2; // its place in the collections of Noto Sans CJK: JP, KR, SC, TC, HK

    private readonly byte[] _file;
    private readonly Dictionary<string, (int Start, int Length)> _tables = [];
    private readonly IGlyphOutlines _outlines;
    private readonly double _perEm;

    /// <exception cref="InvalidDataException">It is no font of this kind.</exception>
    public OutlineFont(byte[] file)
    {
        _file = file;
        var start = 0;
        if (Int(0) == Collection)
        {
            var fonts = (int)Int(8);
            start = (int)Int(12 + 4 * (fonts > SimplifiedChinese ? SimplifiedChinese : 0));
        }
        for (var i = 0; i < Short(start + 4); i++)
        {
            var at = start + 12 + 16 * i;
            _tables[System.Text.Encoding.ASCII.GetString(file, at, 4)] = ((int)Int(at + 8), (int)Int(at + 12));
        }
        _perEm = Short(Table("head") + 18);
        _outlines = Int(start) == PostScript || _tables.ContainsKey("CFF ") ? new PostScriptOutlines(Bytes("CFF "))
            : new TrueTypeOutlines(file, Table("glyf"), Table("loca"), isLong: Short(Table("head") + 50) != 0);
    }

    /// <summary>The closed outlines of a letter, y upwards from the baseline, in hundredths of the font size; null: it is not in the font.</summary>
    public Point[][]? Find(int letter)
    {
        var glyph = GlyphOf(letter);
        if (glyph == 0) return null;
        var found = _outlines.Of(glyph);
        return [.. found.Select(outline => Array.ConvertAll(outline, p => new Point(p.X * 100 / _perEm, p.Y * 100 / _perEm)))];
    }

    /// <summary>The table cmap in its two forms for Unicode: 12 for all letters, 4 for those below 0x10000.</summary>
    private int GlyphOf(int letter)
    {
        var map = Table("cmap");
        for (var i = 0; i < Short(map + 2); i++)
        {
            var at = map + (int)Int(map + 4 + 8 * i + 4);
            if (Short(at) == 12)
            {
                for (var g = 0; g < Int(at + 12); g++)
                {
                    var group = at + 16 + 12 * g;
                    if (letter >= Int(group) && letter <= Int(group + 4)) return (int)(Int(group + 8) + letter - Int(group));
                }
            }
            else if (Short(at) == 4 && letter < 0x10000 && Segment(at, letter) is > 0 and var glyph)
            {
                return glyph;
            }
        }
        return 0;
    }

    private int Segment(int at, int letter)
    {
        int doubled = Short(at + 6), ends = at + 14, starts = ends + doubled + 2, deltas = starts + doubled, ranges = deltas + doubled;
        for (var s = 0; s < doubled; s += 2)
        {
            if (letter > Short(ends + s)) continue;
            if (letter < Short(starts + s)) return 0;
            int offset = Short(ranges + s), delta = Short(deltas + s);
            if (offset == 0) return (letter + delta) & 0xFFFF;
            var glyph = Short(ranges + s + offset + 2 * (letter - Short(starts + s)));
            return glyph == 0 ? 0 : (glyph + delta) & 0xFFFF;
        }
        return 0;
    }

    private int Table(string name) =>
        _tables.TryGetValue(name, out var table) ? table.Start : throw new InvalidDataException($"[OutlineFont] no table '{name}'");

    private ReadOnlyMemory<byte> Bytes(string name) => _file.AsMemory(Table(name), _tables[name].Length);

    private int Short(int at) => BinaryPrimitives.ReadUInt16BigEndian(_file.AsSpan(at));

    private uint Int(int at) => BinaryPrimitives.ReadUInt32BigEndian(_file.AsSpan(at));
}

/// <summary>What a font's outlines are made of.</summary>
internal interface IGlyphOutlines
{
    /// <returns>Closed outlines in the font's own unit, curves as short lines.</returns>
    List<Point[]> Of(int glyph);
}

/// <summary>Collects an outline's points; curves become as many lines as drawings of letters need.</summary>
internal sealed class OutlinePen
{
    private const int Lines = 6;
    private readonly List<Point> _points = [];

    public List<Point[]> Done { get; } = [];

    public Point At { get; private set; }

    public void Move(Point to)
    {
        Close();
        Line(to);
    }

    public void Line(Point to) => _points.Add(At = to);

    /// <summary>A quadratic curve (TrueType).</summary>
    public void Curve(Point control, Point end)
    {
        var start = At;
        for (var i = 1; i <= Lines; i++)
        {
            double t = (double)i / Lines, u = 1 - t;
            Line(new(u * u * start.X + 2 * u * t * control.X + t * t * end.X, u * u * start.Y + 2 * u * t * control.Y + t * t * end.Y));
        }
    }

    /// <summary>A cubic curve (PostScript).</summary>
    public void Curve(Point first, Point second, Point end)
    {
        var start = At;
        for (var i = 1; i <= Lines; i++)
        {
            double t = (double)i / Lines, u = 1 - t, a = u * u * u, b = 3 * u * u * t, c = 3 * u * t * t, d = t * t * t;
            Line(new(a * start.X + b * first.X + c * second.X + d * end.X, a * start.Y + b * first.Y + c * second.Y + d * end.Y));
        }
    }

    public void Close()
    {
        if (_points.Count > 2) Done.Add([.. _points]);
        _points.Clear();
    }
}
