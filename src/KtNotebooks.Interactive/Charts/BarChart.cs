using System.Text;
using System.Text.Json.Nodes;

using KtNotebooks.Interactive.Drawing;

namespace KtNotebooks.Interactive;

/// <summary>
/// Groups of bars, one group for each category and one bar for each series in it. A value that is not finite leaves its place empty.
/// <code>
/// new BarChart("BLEU-4", ["law", "medicine"]).Add("before", [3.1, 2.7]).Add("after", [17.4, 12.9], errors: [0.4, 0.3])
/// </code>
/// </summary>
public sealed class BarChart(string title, IReadOnlyList<string> categories, string x = "", string y = "") : Chart(title)
{
    private readonly List<Series> _series = [];

    /// <summary>Errors: how far an error bar goes below and above the value; null: there are none.</summary>
    private sealed record Series(string Name, double[] Values, (double Below, double Above)[]? Errors, bool IsSymmetric, Color Color);

    /// <summary>Writes the numbers above the bars, where there is room for all of them.</summary>
    public bool ValueLabels { get; init; } = true;

    /// <param name="name">For the legend.</param>
    /// <param name="values">One for each category.</param>
    /// <param name="errors">Half the length of each error bar, or null.</param>
    /// <param name="color">Without one the series takes the next one of <see cref="Palette"/>.</param>
    public BarChart Add(string name, IEnumerable<double> values, IEnumerable<double>? errors = null, Color? color = null)
    {
        ArgumentNullException.ThrowIfNull(values);
        return Add(name, [.. values], errors?.Select(e => (Math.Abs(e), Math.Abs(e))), true, color);
    }

    /// <param name="name">For the legend.</param>
    /// <param name="values">One for each category.</param>
    /// <param name="intervals">What each error bar covers, as a bootstrap interval, which is seldom as long on both sides; not finite: none.</param>
    /// <param name="color">Without one the series takes the next one of <see cref="Palette"/>.</param>
    public BarChart Add(string name, IEnumerable<double> values, IEnumerable<(double Low, double High)> intervals, Color? color = null)
    {
        ArgumentNullException.ThrowIfNull(values);
        ArgumentNullException.ThrowIfNull(intervals);
        double[] all = [.. values];
        return Add(name, all, intervals.Select((e, i) => i < all.Length ? (Math.Max(0, all[i] - e.Low), Math.Max(0, e.High - all[i])) : e), false, color);
    }

    private BarChart Add(string name, double[] values, IEnumerable<(double Below, double Above)>? errors, bool isSymmetric, Color? color)
    {
        var series = new Series(name, values, errors is null ? null : [.. errors], isSymmetric, color ?? Palette.At(_series.Count));
        if (values.Length != categories.Count || (series.Errors is { } e && e.Length != categories.Count))
            throw new ArgumentException($"[BarChart] '{name}': wanted {categories.Count} values (and errors), one a category, got {values.Length}"
                + (series.Errors is { } got ? $" (and {got.Length})" : ""), nameof(values));
        _series.Add(series);
        return this;
    }

    /// <summary>An axis as long as the bars need, or a little longer, so that the legend stands above those that it would hide.</summary>
    internal override Scene Draw()
    {
        var scene = Draw(1, out var hides);
        for (var length = 1.1; hides && length < 2; length += 0.1)
            if (Draw(length, out var stillHides) is var longer && !stillHides) return longer;
        return scene;
    }

    private Scene Draw(double length, out bool hides)
    {
        var tips = _series.SelectMany(s => s.Values.SelectMany((v, i) => new[] { v - Below(s, i), v + Above(s, i) }));
        var ends = tips.Where(double.IsFinite).Append(0).ToArray();
        var headroom = ValueLabels ? (ends.Max() - ends.Min()) * 0.06 : 0; // numbers stand above the bars
        var axis = Axis.Nice(ends.Min() < 0 ? ends.Min() - headroom : 0, ends.Max() > 0 ? (ends.Max() + headroom) * length : 0, 6);
        var plot = Plot.Begin(this, Describe(), axis.Labels, y, x);
        plot.DrawYGrid(axis);

        var group = plot.Area.Width / Math.Max(1, categories.Count);
        var bar = Math.Min(72, group * 0.8 / Math.Max(1, _series.Count));
        var labelSize = Math.Clamp(bar / 3.2, 7, 11);
        var labels = ValueLabels && _series.SelectMany(s => s.Values).Where(double.IsFinite)
            .All(v => StrokeFont.Width(Ticks.Format(v), labelSize) <= bar + 6);
        var marks = new List<Point>();
        for (var c = 0; c < categories.Count; c++)
        {
            var middle = plot.Area.X + group * (c + 0.5);
            for (var s = 0; s < _series.Count; s++)
                if (double.IsFinite(_series[s].Values[c]))
                    marks.AddRange(DrawBar(plot, axis, _series[s], c, middle + (s - _series.Count / 2.0) * bar, bar, labelSize, labels));
            plot.DrawXLabel(middle, Plot.Fit(categories[c], group - 4, 11));
        }
        var zero = Plot.Crisp(plot.Y(axis, 0));
        plot.Scene.Line(plot.Area.X, zero, plot.Area.Right, zero, Palette.Axis);
        hides = _series.Count > 1 && !plot.DrawLegend([.. _series.Select(s => (s.Name, s.Color, false))], marks);
        return plot.Scene;
    }

    internal override void Draw(PlotlyFigure figure)
    {
        figure.Layout("barmode", "group");
        figure.Axis("xaxis", x)["type"] = "category";
        figure.Axis("yaxis", y);
        foreach (var s in _series)
        {
            var trace = figure.Trace("bar", s.Name);
            trace["marker"] = new JsonObject { ["color"] = PlotlyFigure.Css(s.Color) };
            trace["x"] = PlotlyFigure.Texts(categories);
            trace["y"] = PlotlyFigure.Numbers(s.Values);
            if (s.Errors is null) continue;
            var bars = new JsonObject { ["type"] = "data", ["array"] = PlotlyFigure.Numbers(s.Errors.Select((_, i) => Above(s, i))) };
            if (!s.IsSymmetric)
                (bars["symmetric"], bars["arrayminus"]) = (false, PlotlyFigure.Numbers(s.Errors.Select((_, i) => Below(s, i))));
            trace["error_y"] = bars;
        }
    }

    /// <summary>Draws one bar and returns what a legend should not hide: its tip from side to side, its number, its error, its body.</summary>
    private static Point[] DrawBar(Plot plot, Axis axis, Series series, int category, double left, double width, double labelSize, bool label)
    {
        double value = series.Values[category], tip = plot.Y(axis, value), zero = plot.Y(axis, 0), middle = left + width / 2;
        var gap = Math.Min(1.5, width * 0.08);
        plot.Scene.Rect(new(left + gap, Math.Min(tip, zero), width - 2 * gap, Math.Abs(tip - zero)), series.Color);
        double below = Below(series, category), above = Above(series, category), outer = plot.Y(axis, value < 0 ? value - below : value + above);
        if (below + above > 0)
        {
            double low = plot.Y(axis, value - below), high = plot.Y(axis, value + above), cap = Math.Min(5, width / 4);
            plot.Scene.Line(middle, low, middle, high, Palette.Ink, 1.25);
            plot.Scene.Line(middle - cap, low, middle + cap, low, Palette.Ink, 1.25);
            plot.Scene.Line(middle - cap, high, middle + cap, high, Palette.Ink, 1.25);
        }
        var text = Ticks.Format(value);
        if (label)
            plot.Scene.Text(middle, value < 0 ? outer + labelSize + 2 : outer - 4, text, labelSize, Palette.Ink, Anchor.Middle);
        return
        [
            new(left, tip), new(left + width, tip), new(middle, tip - labelSize), new(middle, outer),
            .. Enumerable.Range(0, 33).Select(i => new Point(middle, tip + ((zero - tip) * i / 32))),
        ];
    }

    private static double Below(Series s, int i) => s.Errors is { } e && double.IsFinite(e[i].Below) ? e[i].Below : 0;

    private static double Above(Series s, int i) => s.Errors is { } e && double.IsFinite(e[i].Above) ? e[i].Above : 0;

    private static string ErrorText(Series s, int i)
    {
        var (value, below, above) = (s.Values[i], Below(s, i), Above(s, i));
        if (below + above == 0) return "";
        return s.IsSymmetric ? $" ± {Ticks.Format(above)}" : $" [{Ticks.Format(value - below)}, {Ticks.Format(value + above)}]";
    }

    private string Describe() => $"{Title}: {string.Join("; ", _series.Select(Summary))}";

    private string Summary(Series s) => s.Name + " " + string.Join(", ", s.Values.Select((v, i) => $"{categories[i]} {Said(v)}"));

    private static string Said(double value) => double.IsNaN(value) ? "without a value" : Ticks.Format(value);

    public override string ToText()
    {
        var text = new StringBuilder();
        if (Title.Length > 0) text.AppendLine(Title);
        var most = _series.SelectMany(s => s.Values).Where(double.IsFinite).Select(Math.Abs).DefaultIfEmpty(1).Max();
        var rows = categories
            .SelectMany((c, i) => _series.Select(s => (Name: _series.Count > 1 ? $"{c} / {s.Name}" : c, Value: s.Values[i], Error: ErrorText(s, i))))
            .ToArray();
        var name = rows.Select(r => TextWidth.Of(r.Name)).DefaultIfEmpty(0).Max();
        var number = rows.Select(r => Ticks.Format(r.Value).Length).DefaultIfEmpty(0).Max();
        foreach (var row in rows)
        {
            text.Append(TextWidth.PadRight(row.Name, name)).Append("  ").Append(Ticks.Format(row.Value).PadLeft(number));
            text.Append(row.Error);
            text.Append("  ").AppendLine(TextWidth.Bar(Math.Abs(row.Value) / most, 40));
        }
        return text.ToString().TrimEnd();
    }
}
