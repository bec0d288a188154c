using System.Text;
using System.Text.Json.Nodes;

using KtNotebooks.Interactive.Drawing;

namespace KtNotebooks.Interactive;

/// <summary>
/// Shares of a whole as rectangles whose areas are the values, nearly square (Bruls, Huizing, van Wijk 2000), largest first from the upper left. Values
/// that are not above zero are left out.
/// <code>
/// new Treemap("parameters", unit: "M").Add("routed experts", 4.9).Add("attention", 0.7)
/// </code>
/// </summary>
public sealed class Treemap(string title, string unit = "") : Chart(title)
{
    private const double LabelSize = 12, KeySize = 11, KeyLine = 34, Swatch = 12;

    private readonly List<(string Name, double Value, Color Color)> _parts = [];

    private double Total => Shown.Sum(p => p.Value);

    private IEnumerable<(string Name, double Value, Color Color)> Shown => _parts.Where(p => double.IsFinite(p.Value) && p.Value > 0)
        .OrderByDescending(p => p.Value);

    /// <param name="name">Written into the rectangle where it fits.</param>
    /// <param name="value">Its area.</param>
    /// <param name="color">Without one the part takes the next one of <see cref="Palette"/>.</param>
    public Treemap Add(string name, double value, Color? color = null)
    {
        _parts.Add((name, value, color ?? Palette.At(_parts.Count)));
        return this;
    }

    /// <summary>The rectangles of values above zero, largest first, that fill a box.</summary>
    public static IReadOnlyList<Box> Layout(IReadOnlyList<double> values, Box box)
    {
        var boxes = new List<Box>();
        var scale = box.Width * box.Height / values.Sum();
        for (var first = 0; first < values.Count;)
        {
            // A row along the shorter side takes values as long as its worst rectangle does not get longer.
            var side = Math.Min(box.Width, box.Height);
            var (count, sum) = (1, values[first] * scale);
            while (first + count < values.Count
                && Worst(values[first], values[first + count], sum + (values[first + count] * scale), scale, side) <= Worst(values[first],
                    values[first + count - 1], sum, scale, side))
                sum += values[first + count++] * scale;
            var depth = sum / side;
            var at = 0.0;
            for (var i = first; i < first + count; i++)
            {
                var length = values[i] * scale / depth;
                boxes.Add(box.Width >= box.Height ? new(box.X, box.Y + at, depth, length) : new(box.X + at, box.Y, length, depth));
                at += length;
            }
            box = box.Width >= box.Height ? new(box.X + depth, box.Y, box.Width - depth, box.Height) : new(box.X, box.Y + depth, box.Width, box.Height - depth);
            first += count;
        }
        return boxes;
    }

    internal override Scene Draw()
    {
        var plot = Plot.Begin(this, Describe(), [], "", "");
        var parts = Shown.ToArray();
        if (parts.Length == 0) return plot.Scene;
        double[] values = [.. parts.Select(p => p.Value)];
        var all = new Box(12, plot.Area.Y, Width - 24, Height - plot.Area.Y - 12);
        var boxes = Layout(values, all);
        // What is too small for its name stands in a key beside the map.
        string[] unnamed = [.. parts.Zip(boxes).Where(p => !IsNamed(p.Second)).SelectMany(p => new[] { p.First.Name, Number(p.First.Value) })];
        if (unnamed.Length > 0)
        {
            var key = Math.Min(unnamed.Max(text => StrokeFont.Width(text, KeySize)) + Swatch + 22, all.Width / 2);
            boxes = Layout(values, all with { Width = all.Width - key });
            DrawKey(plot.Scene, [.. parts.Zip(boxes).Where(p => !IsNamed(p.Second)).Select(p => p.First)], all.Right - key + 14, all);
        }
        foreach (var (part, box) in parts.Zip(boxes))
        {
            var gap = Math.Min(1, Math.Min(box.Width, box.Height) * 0.1);
            plot.Scene.Rect(new(box.X + gap, box.Y + gap, box.Width - (2 * gap), box.Height - (2 * gap)), part.Color);
            var ink = part.Color.Brightness > 0.5 ? Palette.Ink : new Color(255, 255, 255);
            if (!IsNamed(box)) continue;
            var y = box.Y + LabelSize + 5;
            foreach (var (line, isName) in Lines(part.Name, box.Width - 12, LabelSize, bold: true).Select(l => (l, true))
                .Concat(Lines(Number(part.Value), box.Width - 12, LabelSize - 1).Select(l => (l, false))))
            {
                if (y > box.Y + box.Height - 5) break;
                var size = isName ? LabelSize : LabelSize - 1;
                plot.Scene.Text(box.X + 7, y, Plot.Fit(line, box.Width - 12, size, bold: isName), size, ink, bold: isName);
                y += 1.3 * LabelSize + (isName ? 1 : 0);
            }
        }
        return plot.Scene;
    }

    private static bool IsNamed(Box box) => box.Height >= LabelSize + 8 && box.Width >= 40;

    private void DrawKey(Scene scene, (string Name, double Value, Color Color)[] parts, double x, Box all)
    {
        var y = all.Y + Swatch;
        foreach (var part in parts.TakeWhile((_, i) => all.Y + ((i + 1) * KeyLine) <= all.Y + all.Height))
        {
            var (text, width) = (x + Swatch + 6, all.Right - x - Swatch - 6);
            scene.Rect(new Box(x, y - Swatch + 2, Swatch, Swatch), part.Color);
            scene.Text(text, y, Plot.Fit(part.Name, width, KeySize), KeySize, Palette.Ink);
            scene.Text(text, y + 14, Plot.Fit(Number(part.Value), width, KeySize), KeySize, Palette.Quiet);
            y += KeyLine;
        }
    }

    /// <summary>Whole words to a line, as many as its width takes; a number keeps its %.</summary>
    private static List<string> Lines(string text, double width, double size, bool bold = false)
    {
        List<string> lines = [];
        foreach (var word in text.Replace(" %", "\u00a0%", StringComparison.Ordinal).Split(' ').Select(w => w.Replace('\u00a0', ' ')))
            if (lines.Count > 0 && StrokeFont.Width($"{lines[^1]} {word}", size, bold) <= width) lines[^1] += " " + word;
            else lines.Add(word);
        return lines;
    }

    internal override void Draw(PlotlyFigure figure)
    {
        var trace = figure.Trace("treemap");
        trace["labels"] = PlotlyFigure.Texts(Shown.Select(p => p.Name));
        trace["parents"] = PlotlyFigure.Texts(Shown.Select(_ => ""));
        trace["values"] = PlotlyFigure.Numbers(Shown.Select(p => p.Value));
        trace["text"] = PlotlyFigure.Texts(Shown.Select(p => Number(p.Value)));
        trace["textinfo"] = "label+text";
        trace["hoverinfo"] = "label+text";
        trace["marker"] = new JsonObject { ["colors"] = PlotlyFigure.Texts(Shown.Select(p => PlotlyFigure.Css(p.Color))) };
    }

    public override string ToText()
    {
        var text = new StringBuilder();
        if (Title.Length > 0) text.AppendLine(Title);
        var name = Shown.Select(p => TextWidth.Of(p.Name)).DefaultIfEmpty(0).Max();
        var number = Shown.Select(p => Number(p.Value).Length).DefaultIfEmpty(0).Max();
        foreach (var p in Shown) text.Append(TextWidth.PadRight(p.Name, name)).Append("  ").Append(Number(p.Value).PadLeft(number)).Append("  ")
            .AppendLine(TextWidth.Bar(p.Value / Total, 40));
        return text.ToString().TrimEnd() is { Length: > 0 } full ? full : "nothing";
    }

    /// <summary>The longer side over the shorter one of the worst rectangle of a row.</summary>
    private static double Worst(double largest, double smallest, double sum, double scale, double side)
    {
        var square = side * side;
        return Math.Max(square * largest * scale / (sum * sum), sum * sum / (square * smallest * scale));
    }

    private string Number(double value) => $"{Ticks.Format(value)}{(unit.Length > 0 ? " " + unit : "")}, {100 * value / Total:F1} %";

    private string Describe() => $"{(Title.Length > 0 ? Title + ": " : "")}{string.Join("; ", Shown.Select(p => $"{p.Name} {Number(p.Value)}"))}";
}
