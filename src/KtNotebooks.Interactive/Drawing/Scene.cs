namespace KtNotebooks.Interactive.Drawing;

/// <summary>An sRGB colour; <paramref name="Alpha"/> runs from 0 (clear) to 1 (opaque).</summary>
public readonly record struct Color(byte R, byte G, byte B, double Alpha = 1)
{
    public string Css => $"#{R:x2}{G:x2}{B:x2}";

    /// <summary>Reads "#rrggbb".</summary>
    public static Color Hex(string css)
    {
        ArgumentNullException.ThrowIfNull(css);
        if (css.Length != 7 || css[0] != '#' || !int.TryParse(css.AsSpan(1), System.Globalization.NumberStyles.HexNumber, null, out var rgb))
            throw new ArgumentException($"[Color] wanted #rrggbb, got '{css}'", nameof(css));
        return new((byte)(rgb >> 16), (byte)(rgb >> 8), (byte)rgb);
    }

    public Color Fade(double alpha) => this with { Alpha = alpha };

    /// <summary>The colour that lies at <paramref name="t"/> in 0…1 on the way from this one to <paramref name="other"/>.</summary>
    public Color Towards(Color other, double t)
    {
        return new(Mix(R, other.R), Mix(G, other.G), Mix(B, other.B), Alpha + (other.Alpha - Alpha) * t);
        byte Mix(byte a, byte b) => (byte)Math.Round(a + (b - a) * t);
    }

    /// <summary>Perceived brightness, 0…1 (Rec. 709 weights on the gamma-coded values: enough to choose black or white text).</summary>
    public double Brightness => (0.2126 * R + 0.7152 * G + 0.0722 * B) / 255;
}

/// <summary>A place on the page in CSS pixels, x to the right, y downwards.</summary>
public readonly record struct Point(double X, double Y);

/// <summary>An axis-parallel rectangle in CSS pixels.</summary>
public readonly record struct Box(double X, double Y, double Width, double Height)
{
    public double Right => X + Width;
    public double Bottom => Y + Height;
}

public enum Anchor { Start, Middle, End }

/// <summary>One thing on a <see cref="Scene"/>. Later shapes cover earlier ones.</summary>
public abstract record Shape;

/// <summary>A line of <paramref name="Width"/> pixels, with round joins and ends if <paramref name="Round"/>, inside <paramref name="Clip"/> only.</summary>
public sealed record Stroke(IReadOnlyList<Point> Points, Color Color, double Width, bool Round, Box? Clip) : Shape;

/// <summary>A filled polygon.</summary>
public sealed record Fill(IReadOnlyList<Point> Points, Color Color) : Shape;

/// <summary>A filled rectangle, with corners of radius <paramref name="Radius"/>.</summary>
public sealed record Block(Box Box, Color Color, double Radius) : Shape;

/// <summary>A filled circle.</summary>
public sealed record Disc(Point Center, double Radius, Color Color, Box? Clip) : Shape;

/// <summary>A grid of colours [row, column] stretched over a rectangle, each cell sharp.</summary>
public sealed record Grid(Box Box, Color[,] Cells) : Shape;

/// <summary>Text with its baseline at (<paramref name="At"/>), turned by <paramref name="Turn"/> degrees clockwise about that point.</summary>
public sealed record Label(Point At, string Text, double Size, Color Color, Anchor Anchor, bool Bold, double Turn) : Shape;

/// <summary>
/// A drawing as a list of shapes, in CSS pixels on white. <see cref="Svg"/> writes it as text and <see cref="Raster"/> as pixels, so both always show the same.
/// </summary>
public sealed class Scene(double width, double height, string description)
{
    private readonly List<Shape> _shapes = [];

    public double Width { get; } = width;
    public double Height { get; } = height;

    /// <summary>What the picture shows, for people who cannot see it.</summary>
    public string Description { get; } = description;

    public IReadOnlyList<Shape> Shapes => _shapes;

    public void Line(double x1, double y1, double x2, double y2, Color color, double width = 1) =>
        _shapes.Add(new Stroke([new(x1, y1), new(x2, y2)], color, width, Round: false, Clip: null));

    public void Polyline(IReadOnlyList<Point> points, Color color, double width = 1.5, Box? clip = null) =>
        _shapes.Add(new Stroke(points, color, width, Round: true, clip));

    public void Polygon(IReadOnlyList<Point> points, Color color) => _shapes.Add(new Fill(points, color));

    public void Rect(Box box, Color color, double radius = 0) => _shapes.Add(new Block(box, color, radius));

    public void Circle(Point center, double radius, Color color, Box? clip = null) => _shapes.Add(new Disc(center, radius, color, clip));

    public void Cells(Box box, Color[,] cells) => _shapes.Add(new Grid(box, cells));

    public void Text(double x, double y, string text, double size, Color color, Anchor anchor = Anchor.Start, bool bold = false, double turn = 0) =>
        _shapes.Add(new Label(new(x, y), text, size, color, anchor, bold, turn));
}
