using System.Text;
using System.Text.Json.Nodes;

using KtNotebooks.Interactive.Drawing;

namespace KtNotebooks.Interactive;

/// <summary>
/// Lines over a common x axis. Values that are not finite (or not positive on a logarithmic axis) leave a gap.
/// <code>
/// new LineChart("Loss", x: "step", y: "loss").Add("train", losses).Add("eval", evalSteps, evalLosses, markers: true)
/// </code>
/// </summary>
public sealed class LineChart(string title = "", string x = "", string y = "") : Chart(title)
{
    private readonly List<Series> _series = [];
    private bool _logY;

    private sealed record Series(string Name, double[] X, double[] Y, Color Color, double Width, bool Markers);

    /// <summary>A line of <paramref name="ys"/> over 1, 2, 3, …</summary>
    public LineChart Add(string name, IEnumerable<double> ys, bool markers = false) => Add(name, null, ys, markers);

    /// <summary>A line. Without a colour it takes the next one of <see cref="Palette"/>; markers put a dot on every point.</summary>
    public LineChart Add(string name, IEnumerable<double>? xs, IEnumerable<double> ys, bool markers = false, Color? color = null, double width = 2)
    {
        ArgumentNullException.ThrowIfNull(name);
        ArgumentNullException.ThrowIfNull(ys);
        double[] values = [.. ys];
        double[] places = xs is null ? [.. Enumerable.Range(1, values.Length).Select(i => (double)i)] : [.. xs];
        if (places.Length != values.Length)
            throw new ArgumentException($"[LineChart] '{name}': xs and ys must have the same length, but are {places.Length} and {values.Length}", nameof(ys));
        _series.Add(new(name, places, values, color ?? Palette.At(_series.Count), width, markers));
        return this;
    }

    /// <summary>Raw values pale, and the same smoothed by <see cref="LossCurve.Smooth"/> over them.</summary>
    public LineChart AddSmoothed(IEnumerable<double>? xs, IEnumerable<double> ys, Color? color = null)
    {
        double[] values = [.. ys];
        double[]? places = xs is null ? null : [.. xs];
        var ink = color ?? Palette.Blue;
        Add("original", places, values, color: ink.Fade(0.4));
        return Add("smoothed", places, LossCurve.Smooth(values), color: ink);
    }

    /// <summary>Makes the vertical axis logarithmic.</summary>
    public LineChart LogY()
    {
        _logY = true;
        return this;
    }

    internal override Scene Draw()
    {
        var shown = _series.SelectMany(s => s.X.Zip(s.Y))
            .Where(p => double.IsFinite(p.First) && double.IsFinite(p.Second) && (!_logY || p.Second > 0)).ToArray();
        double lowX = Low(shown.Select(p => p.First)), highX = High(shown.Select(p => p.First));
        double lowY = Low(shown.Select(p => p.Second)), highY = High(shown.Select(p => p.Second));
        var yAxis = _logY ? Axis.Log(lowY, highY) : Axis.Nice(lowY, highY, 6);
        var xAxis = Axis.Tight(lowX, highX, (int)Math.Clamp(Width / 80, 2, 10), whole: shown.All(p => p.First == Math.Floor(p.First)));
        var plot = Plot.Begin(this, Describe(), yAxis.Labels, y, x);
        plot.DrawXGrid(xAxis);
        plot.DrawYGrid(yAxis);
        plot.DrawBaseline();

        // Lines may swell half their width beyond the data's rectangle.
        var clip = new Box(plot.Area.X - 4, plot.Area.Y - 4, plot.Area.Width + 8, plot.Area.Height + 8);
        var all = new List<Point>();
        foreach (var s in _series)
            foreach (var run in Runs(s, plot, xAxis, yAxis))
            {
                List<Point> line = [.. Thin(run, plot.Area.Width).Select(i => run[i])];
                all.AddRange(Along(line));
                if (line.Count > 1) plot.Scene.Polyline(line, s.Color, s.Width, clip);
                if (s.Markers || line.Count == 1)
                    foreach (var p in line) plot.Scene.Circle(p, s.Width + 1.25, s.Color, clip);
            }
        if (_series.Any(s => s.Name.Length > 0) && (_series.Count > 1 || y != _series[0].Name))
            plot.DrawLegend([.. _series.Select(s => (s.Name, s.Color, true))], all);
        return plot.Scene;
    }

    internal override void Draw(PlotlyFigure figure)
    {
        figure.Axis("xaxis", x);
        var yAxis = figure.Axis("yaxis", y);
        if (_logY) yAxis["type"] = "log";
        foreach (var s in _series)
        {
            var trace = figure.Trace("scatter", s.Name);
            int[] kept = [.. Kept(s)];
            trace["mode"] = s.Markers || kept.Length == 1 ? "lines+markers" : "lines";
            trace["line"] = new JsonObject { ["color"] = PlotlyFigure.Css(s.Color), ["width"] = s.Width };
            trace["x"] = PlotlyFigure.Numbers(kept.Select(i => s.X[i]));
            trace["y"] = PlotlyFigure.Numbers(kept.Select(i => s.Y[i]));
        }
    }

    /// <summary>Which points of a long series the interactive form has: as many as can be told apart on a wide screen.</summary>
    private static IEnumerable<int> Kept(Series s)
    {
        const double Columns = 1500;
        double low = Low(s.X.Where(double.IsFinite)), high = High(s.X.Where(double.IsFinite));
        return Thin([.. s.X.Zip(s.Y, (x, y) => new Point((x - low) / (high - low) * Columns, y))], Columns);
    }

    private static double Low(IEnumerable<double> values) => values.DefaultIfEmpty(double.NaN).Min();

    private static double High(IEnumerable<double> values) => values.DefaultIfEmpty(double.NaN).Max();

    /// <summary>Unbroken stretches of points in pixels.</summary>
    private static IEnumerable<List<Point>> Runs(Series s, Plot plot, Axis xAxis, Axis yAxis)
    {
        var run = new List<Point>();
        for (var i = 0; i < s.X.Length; i++)
        {
            if (xAxis.Shows(s.X[i]) && yAxis.Shows(s.Y[i])) run.Add(new(plot.X(xAxis, s.X[i]), plot.Y(yAxis, s.Y[i])));
            else if (run.Count > 0)
            {
                yield return run;
                run = [];
            }
        }
        if (run.Count > 0) yield return run;
    }

    /// <summary>First, lowest, highest and last point of each column: looks the same and bounds the file, however many steps were logged.</summary>
    private static IEnumerable<int> Thin(List<Point> points, double columns)
    {
        if (points.Count <= 4 * columns) return Enumerable.Range(0, points.Count);
        var kept = new List<int>();
        for (var start = 0; start < points.Count;)
        {
            var column = Math.Floor(points[start].X);
            int low = start, high = start, end = start;
            do
            {
                if (points[end].Y < points[low].Y) low = end;
                if (points[end].Y > points[high].Y) high = end;
                end++;
            }
            while (end < points.Count && Math.Floor(points[end].X) == column);
            kept.AddRange(new SortedSet<int> { start, low, high, end - 1 });
            start = end;
        }
        return kept;
    }

    /// <summary>The line as points a few pixels apart: what a legend would hide.</summary>
    private static IEnumerable<Point> Along(List<Point> line)
    {
        yield return line[0];
        for (var i = 1; i < line.Count; i++)
        {
            var (p, q) = (line[i - 1], line[i]);
            var steps = Math.Max(1, (int)((Math.Abs(q.X - p.X) + Math.Abs(q.Y - p.Y)) / 8));
            for (var k = 1; k <= steps; k++) yield return new(p.X + (q.X - p.X) * k / steps, p.Y + (q.Y - p.Y) * k / steps);
        }
    }

    private string Describe() => (Title.Length > 0 ? Title + ": " : "") + string.Join("; ", _series.Select(Summary));

    private static string Summary(Series s)
    {
        var finite = s.Y.Where(double.IsFinite).ToArray();
        if (finite.Length == 0) return $"{s.Name}: no finite values";
        var least = Array.IndexOf(s.Y, finite.Min());
        return $"{s.Name}: {finite.Length} {(finite.Length == 1 ? "point" : "points")}, first {Ticks.Format(finite[0])}, last {Ticks.Format(finite[^1])}, "
            + $"lowest {Ticks.Format(s.Y[least])} at {Ticks.Format(s.X[least])}";
    }

    public override string ToText()
    {
        var text = new StringBuilder();
        if (Title.Length > 0) text.AppendLine(Title);
        if (Subtitle.Length > 0) text.AppendLine(Subtitle);
        text.Append(TextPlot.Draw([.. _series.Select(s => (s.X, s.Y))], _logY, x));
        foreach (var s in _series) text.AppendLine(Summary(s));
        return text.ToString().TrimEnd();
    }
}
