using System.Globalization;
using System.Text;

namespace KtNotebooks.Interactive.Drawing;

/// <summary>
/// A sans-serif of our own made of pen strokes, so that PNGs need no font file. The shapes are in <see cref="Glyphs"/>, in hundredths of the font size,
/// y upwards from the baseline; the advance widths are Helvetica's, so a label is as wide here as in an SVG. Chinese characters are as wide as they are high,
/// and their shapes are a system font's (<see cref="ChineseLetters"/>). Characters that there are none of are drawn as a small box.
/// </summary>
public static partial class StrokeFont
{
    /// <summary>Shapes are superellipses |x|ⁿ + |y|ⁿ = 1 with n = 2/0.9: a little squarer than circles, as in most sans-serifs.</summary>
    private const double Roundness = 0.9;

    private static readonly Dictionary<int, Glyph> Table = Parse();

    /// <summary>Pen strokes, or outlines to be filled.</summary>
    private readonly record struct Glyph(double Advance, Point[][] Strokes, bool AreOutlines = false);

    /// <summary>Pen width as a share of the font size.</summary>
    public static double Weight(bool bold) => bold ? 0.122 : 0.082;

    /// <summary>Width of a text of this font size, both in the same unit.</summary>
    public static double Width(string text, double size, bool bold = false)
    {
        ArgumentNullException.ThrowIfNull(text);
        double width = 0;
        foreach (var rune in text.EnumerateRunes()) width += rune.Value < FirstWide ? Find(rune).Advance : IsUnseen(rune) ? 0 : 100;
        return width * size * (bold ? BoldAdvance : 1) / 100;
    }

    /// <summary>Bold letters are about a twentieth wider.</summary>
    private const double BoldAdvance = 1.06;

    /// <summary>The pen strokes, and the outlines to be filled, of a text that starts at (0, 0), y upwards, in the unit of <paramref name="size"/>.</summary>
    internal static IEnumerable<(Point[] Points, bool IsOutline)> Strokes(string text, double size, bool bold)
    {
        double pen = 0, scaleX = size / 100 * (bold ? BoldAdvance : 1), scaleY = size / 100;
        foreach (var rune in text.EnumerateRunes())
        {
            var glyph = Find(rune);
            foreach (var stroke in glyph.Strokes)
            {
                var placed = new Point[stroke.Length];
                for (var i = 0; i < placed.Length; i++) placed[i] = new((pen + stroke[i].X) * scaleX, stroke[i].Y * scaleY);
                yield return (placed, glyph.AreOutlines);
            }
            pen += glyph.Advance;
        }
    }

    /// <summary>From here on characters are as wide as they are high.</summary>
    private const int FirstWide = 0x2E80;

    private static Glyph Find(Rune rune) =>
        Table.TryGetValue(rune.Value, out var glyph) ? glyph
        : IsUnseen(rune) ? new(0, [])
        : rune.Value >= FirstWide && ChineseLetters.Find(rune.Value) is { } outlines ? new(100, outlines, AreOutlines: true)
        : rune.Value >= FirstWide ? new(100, [[new(12, 4), new(88, 4), new(88, 72), new(12, 72), new(12, 4)]])
        : new(56, [[new(8, 4), new(48, 4), new(48, 68), new(8, 68), new(8, 4)]]);

    private static bool IsUnseen(Rune rune) =>
        Rune.GetUnicodeCategory(rune) is UnicodeCategory.NonSpacingMark or UnicodeCategory.Format or UnicodeCategory.Control;

    private static Dictionary<int, Glyph> Parse()
    {
        var table = new Dictionary<int, Glyph>();
        foreach (var line in Glyphs.Split('\n', StringSplitOptions.RemoveEmptyEntries))
        {
            var rune = Rune.GetRuneAt(line, 0);
            var fields = line[rune.Utf16SequenceLength..].Split(' ', StringSplitOptions.RemoveEmptyEntries);
            table[rune.Value] = new(double.Parse(fields[0], CultureInfo.InvariantCulture), Path(fields.AsSpan(1)));
        }
        return table;
    }

    /// <summary>
    /// Reads a path: M x y lifts the pen, L x y draws a line, Q x y x y a quadratic curve, A cx cy rx ry from sweep an arc in degrees (counter-clockwise when
    /// positive) joined by a line to the pen, O the same after lifting the pen.
    /// </summary>
    private static Point[][] Path(ReadOnlySpan<string> fields)
    {
        var strokes = new List<Point[]>();
        var current = new List<Point>();
        for (var i = 0; i < fields.Length;)
        {
            var command = fields[i++];
            if (command is "M" or "O" && current.Count > 0)
            {
                strokes.Add([.. current]);
                current.Clear();
            }
            switch (command)
            {
                case "M" or "L":
                    current.Add(new(Number(fields[i]), Number(fields[i + 1])));
                    i += 2;
                    break;
                case "Q":
                    AddCurve(current, new(Number(fields[i]), Number(fields[i + 1])), new(Number(fields[i + 2]), Number(fields[i + 3])));
                    i += 4;
                    break;
                case "A" or "O":
                    AddArc(current, new(Number(fields[i]), Number(fields[i + 1])), Number(fields[i + 2]), Number(fields[i + 3]),
                        from: Number(fields[i + 4]), sweep: Number(fields[i + 5]));
                    i += 6;
                    break;
                default:
                    throw new InvalidDataException($"[StrokeFont] unknown path command '{command}'");
            }
        }
        if (current.Count > 0) strokes.Add([.. current]);
        return [.. strokes];
    }

    private static double Number(string field) => double.Parse(field, CultureInfo.InvariantCulture);

    private static void AddCurve(List<Point> stroke, Point control, Point end)
    {
        var start = stroke[^1];
        for (var k = 1; k <= 8; k++)
        {
            double t = k / 8.0, u = 1 - t;
            stroke.Add(new(u * u * start.X + 2 * u * t * control.X + t * t * end.X, u * u * start.Y + 2 * u * t * control.Y + t * t * end.Y));
        }
    }

    private static void AddArc(List<Point> stroke, Point center, double rx, double ry, double from, double sweep)
    {
        var steps = (int)Math.Ceiling(Math.Abs(sweep) / 12);
        for (var k = 0; k <= steps; k++)
        {
            var (sin, cos) = Math.SinCos((from + sweep * k / steps) * Math.PI / 180);
            stroke.Add(new(center.X + rx * Squared(cos), center.Y + ry * Squared(sin)));
        }
        static double Squared(double v) => Math.Abs(v) < 1e-9 ? 0 : Math.Sign(v) * Math.Pow(Math.Abs(v), Roundness);
    }
}
