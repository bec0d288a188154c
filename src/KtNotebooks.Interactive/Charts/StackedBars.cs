using System.Text;
using System.Text.Json.Nodes;

using KtNotebooks.Interactive.Drawing;

namespace KtNotebooks.Interactive;

/// <summary>
/// A lying bar for each row, made of parts end to end; parts of one name have one colour in all rows. The sum stands after the bar. Parts that are not
/// above zero are left out.
/// <code>
/// new StackedBars("one step", "ms").Row("compute", ("attention", 90), ("experts", 1019)).Row("copy", ("copy", 1027))
/// </code>
/// </summary>
public sealed class StackedBars(string title, string x = "") : Chart(title)
{
    private const double LegendLine = 20, LabelSize = 11, Sample = 12, Gap = 16;

    private readonly List<(string Name, (string Part, double Value)[] Parts)> _rows = [];

    /// <param name="name">Left of the bar; empty rows without a name make room.</param>
    /// <param name="parts">From the left.</param>
    public StackedBars Row(string name, params (string Part, double Value)[] parts)
    {
        _rows.Add((name, [.. parts.Where(p => double.IsFinite(p.Value) && p.Value > 0)]));
        return this;
    }

    private string[] Names => [.. _rows.SelectMany(r => r.Parts).Select(p => p.Part).Distinct()];

    internal override Scene Draw()
    {
        var names = Names;
        var axis = Axis.Nice(0, _rows.Select(Sum).DefaultIfEmpty(0).Max(), 6);
        var plot = Plot.Begin(this, Describe(), _rows.Select(r => r.Name), "", x, right: 24);
        plot.DrawXGrid(axis);
        var legend = names.Length > 1 ? DrawLegend(plot, names) : 0;
        var (top, height) = (plot.Area.Y + legend, (plot.Area.Height - legend) / Math.Max(1, _rows.Count));
        for (var r = 0; r < _rows.Count; r++)
        {
            var (middle, bar) = (top + (height * (r + 0.5)), Math.Min(26, height * 0.72));
            plot.DrawYLabel(middle, _rows[r].Name);
            var at = 0.0;
            foreach (var (part, value) in _rows[r].Parts)
            {
                var (from, to) = (plot.X(axis, at), plot.X(axis, at + value));
                plot.Scene.Rect(new(from, middle - (bar / 2), to - from, bar), Palette.At(Array.IndexOf(names, part)));
                at += value;
            }
            if (at == 0) continue;
            var text = Ticks.Format(at);
            var end = plot.X(axis, at) + 5;
            // After the bar, or inside its end where it would leave the picture.
            if (end + StrokeFont.Width(text, LabelSize) < Width - 4) plot.Scene.Text(end, middle + (LabelSize * 0.36), text, LabelSize, Palette.Ink);
            else plot.Scene.Text(end - 10, middle + (LabelSize * 0.36), text, LabelSize, new Color(255, 255, 255), Anchor.End);
        }
        plot.Scene.Line(Plot.Crisp(plot.Area.X), plot.Area.Y, Plot.Crisp(plot.Area.X), plot.Area.Bottom, Palette.Axis);
        return plot.Scene;
    }

    internal override void Draw(PlotlyFigure figure)
    {
        figure.Layout("barmode", "stack");
        figure.Axis("xaxis", x);
        // By number: names may be empty, or the same twice.
        var rows = figure.Axis("yaxis", "");
        rows["tickvals"] = PlotlyFigure.Numbers(_rows.Select((_, i) => (double)i));
        rows["ticktext"] = PlotlyFigure.Texts(_rows.Select(r => r.Name));
        rows["autorange"] = "reversed";
        foreach (var (name, n) in Names.Select((name, n) => (name, n)))
        {
            var trace = figure.Trace("bar", name);
            trace["orientation"] = "h";
            trace["marker"] = new JsonObject { ["color"] = PlotlyFigure.Css(Palette.At(n)) };
            trace["x"] = PlotlyFigure.Numbers(_rows.Select(r => r.Parts.Where(p => p.Part == name).Sum(p => p.Value)));
            trace["y"] = PlotlyFigure.Numbers(_rows.Select((_, i) => (double)i));
        }
    }

    /// <summary>In lines above the bars; returns their height.</summary>
    private static double DrawLegend(Plot plot, string[] names)
    {
        var places = new List<(double X, int Line)>();
        var (at, line) = (plot.Area.X, 0);
        foreach (var name in names)
        {
            var width = Sample + 6 + StrokeFont.Width(name, LabelSize) + Gap;
            if (at > plot.Area.X && at + width > plot.Area.Right) (at, line) = (plot.Area.X, line + 1);
            places.Add((at, line));
            at += width;
        }
        var height = ((line + 1) * LegendLine) + 4;
        plot.Scene.Rect(new(plot.Area.X - 2, plot.Area.Y - 2, plot.Area.Width + 4, height), new Color(255, 255, 255));
        for (var i = 0; i < names.Length; i++)
        {
            var y = plot.Area.Y + (LegendLine * (places[i].Line + 0.5));
            plot.Scene.Rect(new(places[i].X + 4, y - (Sample / 2), Sample, Sample), Palette.At(i), 2);
            plot.Scene.Text(places[i].X + Sample + 10, y + (LabelSize * 0.36), names[i], LabelSize, Palette.Ink);
        }
        return height;
    }

    public override string ToText()
    {
        var text = new StringBuilder();
        if (Title.Length > 0) text.AppendLine(Title);
        var most = _rows.Select(Sum).DefaultIfEmpty(1).Max();
        var name = _rows.Select(r => TextWidth.Of(r.Name)).DefaultIfEmpty(0).Max();
        var number = _rows.Select(r => Ticks.Format(Sum(r)).Length).DefaultIfEmpty(0).Max();
        foreach (var row in _rows)
        {
            if (row.Parts.Length == 0)
            {
                text.AppendLine(row.Name);
                continue;
            }
            text.Append(TextWidth.PadRight(row.Name, name)).Append("  ").Append(Ticks.Format(Sum(row)).PadLeft(number)).Append("  ")
                .Append(TextWidth.Bar(Sum(row) / most, 40));
            text.AppendLine(row.Parts.Length > 1 ? $"  {string.Join(", ", row.Parts.Select(Said))}" : "");
        }
        return text.ToString().TrimEnd() is { Length: > 0 } full ? full : "nothing";
    }

    private static double Sum((string Name, (string Part, double Value)[] Parts) row) => row.Parts.Sum(p => p.Value);

    private static string Said((string Part, double Value) p) => $"{p.Part} {Ticks.Format(p.Value)}";

    private string Describe() =>
        (Title.Length > 0 ? Title + ": " : "")
        + string.Join("; ", _rows.Where(r => r.Parts.Length > 0).Select(r => $"{r.Name}: {string.Join(", ", r.Parts.Select(Said))}"));
}
