using KtNotebooks.Interactive.Drawing;

namespace KtNotebooks.Interactive;

/// <summary>One axis: its range, its marks and the way from a value to a pixel.</summary>
internal sealed class Axis
{
    private readonly bool _log;
    private readonly double _low;
    private readonly double _high;

    private Axis(double low, double high, IEnumerable<double> ticks, bool log)
    {
        _log = log;
        (_low, _high) = log ? (Math.Log10(low), Math.Log10(high)) : (low, high);
        Marks = [.. ticks.Where(t => t >= low - (high - low) * 1e-9 && t <= high + (high - low) * 1e-9)];
        Labels = log ? [.. Marks.Select(m => Ticks.Labels([m])[0])] : Ticks.Labels(Marks); // decades share no number of decimals
    }

    /// <summary>The marks inside the range.</summary>
    public double[] Marks { get; }
    public string[] Labels { get; }

    /// <summary>From nice number to nice number.</summary>
    public static Axis Nice(double low, double high, int most)
    {
        var ticks = Ticks.Linear(low, high, most);
        return new(ticks[0], ticks[^1], ticks, log: false);
    }

    /// <summary>Exactly the range of the data, marks inside it; with <paramref name="whole"/> only at whole numbers, as for steps.</summary>
    public static Axis Tight(double low, double high, int most, bool whole = false)
    {
        (low, high) = Ticks.Usable(low, high);
        return new(low, high, Ticks.Linear(low, high, most).Where(t => !whole || t == Math.Floor(t)), log: false);
    }

    public static Axis Log(double low, double high)
    {
        var ticks = Ticks.Log(low, high);
        return new(ticks[0], ticks[^1], ticks, log: true);
    }

    /// <summary>0 at the low end, 1 at the high end. Not finite for what the axis cannot show.</summary>
    public double Place(double value) => ((_log ? Math.Log10(value) : value) - _low) / (_high - _low);

    public bool Shows(double value) => double.IsFinite(value) && (!_log || value > 0);
}

/// <summary>What all charts with two axes share: title, frame, grid, marks, axis names, legend.</summary>
internal sealed class Plot
{
    private const double TickSize = 11;
    private const double NameSize = 12;
    private const double TitleSize = 14;

    /// <summary>The share of the width that labels left of the data may take; longer ones are cut.</summary>
    private const double MostForLabels = 0.45;

    private readonly double _labelRoom;

    private Plot(Scene scene, Box area, double labelRoom) => (Scene, Area, _labelRoom) = (scene, area, labelRoom);

    public Scene Scene { get; }

    /// <summary>The rectangle of the data.</summary>
    public Box Area { get; }

    /// <param name="chart">Title and size.</param>
    /// <param name="description">For people who cannot see the picture.</param>
    /// <param name="left">Labels left of the data; the widest decides where the data begins.</param>
    /// <param name="yName">Name of the vertical axis or "".</param>
    /// <param name="xName">Name of the horizontal axis or "".</param>
    /// <param name="right">Room kept free on the right.</param>
    public static Plot Begin(Chart chart, string description, IEnumerable<string> left, string yName, string xName, double right = 16)
    {
        var scene = new Scene(chart.Width, chart.Height, description);
        var widest = Math.Min(chart.Width * MostForLabels, left.Select(l => StrokeFont.Width(l, TickSize)).DefaultIfEmpty(0).Max());
        var x = Math.Ceiling(12 + (yName.Length > 0 ? NameSize + 8 : 0) + widest + 8);
        var top = (chart.Title.Length > 0 ? 38.0 : 16) + (chart.Subtitle.Length > 0 ? 16 : 0) + (chart.Progress is null ? 0 : 12);
        double bottom = xName.Length > 0 ? 48 : 30;
        var area = new Box(x, top, Math.Max(20, chart.Width - x - right), Math.Max(20, chart.Height - top - bottom));
        var middle = area.X + area.Width / 2;
        if (chart.Title.Length > 0)
            scene.Text(middle, 24, Fit(chart.Title, chart.Width - 24, TitleSize, bold: true), TitleSize, Palette.Ink, Anchor.Middle, bold: true);
        if (chart.Subtitle.Length > 0)
            scene.Text(middle, chart.Title.Length > 0 ? 42 : 20, Fit(chart.Subtitle, chart.Width - 24, TickSize), TickSize, Palette.Quiet, Anchor.Middle);
        if (chart.Progress is { } done)
        {
            scene.Rect(new(area.X, top - 16, area.Width, 4), Palette.Grid, 2);
            if (done > 0) scene.Rect(new(area.X, top - 16, Math.Max(4, area.Width * Math.Min(1, done)), 4), Palette.Blue, 2);
        }
        if (xName.Length > 0) scene.Text(middle, chart.Height - 10, xName, NameSize, Palette.Ink, Anchor.Middle);
        if (yName.Length > 0) scene.Text(12 + NameSize * 0.75, area.Y + area.Height / 2, yName, NameSize, Palette.Ink, Anchor.Middle, turn: -90);
        return new(scene, area, widest);
    }

    public double X(Axis axis, double value) => Area.X + axis.Place(value) * Area.Width;

    public double Y(Axis axis, double value) => Area.Bottom - axis.Place(value) * Area.Height;

    public void DrawYGrid(Axis y)
    {
        for (var i = 0; i < y.Marks.Length; i++)
        {
            var at = Crisp(Y(y, y.Marks[i]));
            Scene.Line(Area.X, at, Area.Right, at, Palette.Grid);
            DrawYLabel(at, y.Labels[i]);
        }
    }

    public void DrawYLabel(double y, string label) =>
        Scene.Text(Area.X - 7, y + TickSize * 0.36, Fit(label, _labelRoom + 1, TickSize), TickSize, Palette.Quiet, Anchor.End);

    public void DrawXGrid(Axis x)
    {
        for (var i = 0; i < x.Marks.Length; i++)
        {
            var at = Crisp(X(x, x.Marks[i]));
            Scene.Line(at, Area.Y, at, Area.Bottom, Palette.Grid);
            Scene.Line(at, Area.Bottom, at, Area.Bottom + 4, Palette.Axis);
            DrawXLabel(at, x.Labels[i]);
        }
    }

    public void DrawXLabel(double x, string label) => Scene.Text(x, Area.Bottom + 17, label, TickSize, Palette.Quiet, Anchor.Middle);

    public void DrawBaseline() => Scene.Line(Area.X, Crisp(Area.Bottom), Area.Right, Crisp(Area.Bottom), Palette.Axis);

    /// <summary>A legend in the corner where the fewest of <paramref name="points"/> would be hidden; true: it hides none.</summary>
    public bool DrawLegend(IReadOnlyList<(string Name, Color Color, bool Line)> entries, IReadOnlyList<Point> points)
    {
        const double line = 18, pad = 8, sample = 20;
        var width = Math.Ceiling(pad * 2 + sample + 7 + entries.Max(e => StrokeFont.Width(e.Name, TickSize)) + 2);
        var height = line * entries.Count + pad;
        double right = Area.Right - width - 8, left = Area.X + 8, top = Area.Y + 8, bottom = Area.Bottom - height - 8;
        int Hidden(Point c) => points.Count(p => p.X > c.X - 6 && p.X < c.X + width + 6 && p.Y > c.Y - 6 && p.Y < c.Y + height + 6);
        var corner = new Point[] { new(right, top), new(left, top), new(right, bottom), new(left, bottom) }.MinBy(Hidden);
        Scene.Rect(new(corner.X, corner.Y, width, height), Palette.Grid, 4);
        Scene.Rect(new(corner.X + 1, corner.Y + 1, width - 2, height - 2), new(255, 255, 255), 3);
        for (var i = 0; i < entries.Count; i++)
        {
            var y = corner.Y + pad / 2 + line * (i + 0.5);
            if (entries[i].Line) Scene.Line(corner.X + pad, y, corner.X + pad + sample, y, entries[i].Color, 2.5);
            else Scene.Rect(new(corner.X + pad + 4, y - 6, 12, 12), entries[i].Color, 2);
            Scene.Text(corner.X + pad + sample + 7, y + TickSize * 0.36, entries[i].Name, TickSize, Palette.Ink);
        }
        return Hidden(corner) == 0;
    }

    /// <summary>Lines of one pixel on pixel centres stay one pixel.</summary>
    public static double Crisp(double at) => Math.Floor(at) + 0.5;

    /// <summary>Cuts a text with … where it is wider than <paramref name="width"/> pixels.</summary>
    public static string Fit(string text, double width, double size, bool bold = false)
    {
        if (StrokeFont.Width(text, size, bold) <= width) return text;
        var runes = text.EnumerateRunes().ToArray();
        for (var keep = runes.Length - 1; keep > 0; keep--)
        {
            var cut = string.Concat(runes.Take(keep)).TrimEnd() + "…";
            if (StrokeFont.Width(cut, size, bold) <= width) return cut;
        }
        return "…";
    }
}
