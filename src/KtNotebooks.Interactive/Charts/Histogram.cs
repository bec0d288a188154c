using System.Text;
using System.Text.Json.Nodes;

using KtNotebooks.Interactive.Drawing;

namespace KtNotebooks.Interactive;

/// <summary>How often values fall into equal bins with nice borders. Values that are not finite are counted apart and named in the text.</summary>
public sealed class Histogram : Chart
{
    private readonly string _x;
    private readonly int _skipped;
    private readonly double[] _edges;
    private readonly int[] _counts;
    private readonly double[] _sorted;

    /// <param name="title">Above the picture.</param>
    /// <param name="values">In any order.</param>
    /// <param name="bins">About how many; null takes Freedman and Diaconis' width 2·IQR/∛n.</param>
    /// <param name="x">Name of the horizontal axis.</param>
    public Histogram(string title, IEnumerable<double> values, int? bins = null, string x = "") : base(title)
    {
        ArgumentNullException.ThrowIfNull(values);
        if (bins is < 1) throw new ArgumentException($"[Histogram] bins must be at least 1, but is {bins}", nameof(bins));
        double[] all = [.. values];
        _x = x;
        _sorted = [.. all.Where(double.IsFinite).Order()];
        _skipped = all.Length - _sorted.Length;
        double low = _sorted.Length > 0 ? _sorted[0] : 0, high = _sorted.Length > 0 ? _sorted[^1] : 1;
        _edges = Ticks.Linear(low, high, bins ?? Automatic(_sorted));
        _counts = new int[_edges.Length - 1];
        foreach (var value in _sorted) _counts[Bin(value)]++;
    }

    /// <summary>Borders of the bins; bin i holds edge[i] ≤ v &lt; edge[i + 1], the last one its upper end as well.</summary>
    public IReadOnlyList<double> Edges => _edges;

    public IReadOnlyList<int> Counts => _counts;

    private int Bin(double value)
    {
        var i = Array.BinarySearch(_edges, value);
        return Math.Clamp(i >= 0 ? i : ~i - 1, 0, _counts.Length - 1);
    }

    private static int Automatic(double[] sorted)
    {
        if (sorted.Length < 2) return 1;
        var spread = sorted[sorted.Length * 3 / 4] - sorted[sorted.Length / 4];
        var width = 2 * spread / Math.Cbrt(sorted.Length);
        return width > 0 ? (int)Math.Clamp(Math.Ceiling((sorted[^1] - sorted[0]) / width), 5, 60) : 10;
    }

    internal override Scene Draw()
    {
        var y = Axis.Nice(0, Math.Max(1, _counts.Max()), 5);
        var x = Axis.Tight(_edges[0], _edges[^1], (int)Math.Clamp(Width / 80, 2, 10));
        var plot = Plot.Begin(this, Describe(), y.Labels, "count", _x);
        plot.DrawXGrid(x);
        plot.DrawYGrid(y);
        for (var i = 0; i < _counts.Length; i++)
        {
            double left = plot.X(x, _edges[i]), right = plot.X(x, _edges[i + 1]), top = plot.Y(y, _counts[i]);
            if (_counts[i] > 0) plot.Scene.Rect(new(left + 0.5, top, Math.Max(0.5, right - left - 1), plot.Area.Bottom - top), Palette.Blue);
        }
        plot.DrawBaseline();
        return plot.Scene;
    }

    internal override void Draw(PlotlyFigure figure)
    {
        figure.Layout("bargap", 0.02);
        figure.Axis("xaxis", _x);
        figure.Axis("yaxis", "count");
        var trace = figure.Trace("bar");
        trace["marker"] = new JsonObject { ["color"] = PlotlyFigure.Css(Palette.Blue) };
        trace["x"] = PlotlyFigure.Numbers(_counts.Select((_, i) => (_edges[i] + _edges[i + 1]) / 2));
        trace["y"] = PlotlyFigure.Numbers(_counts.Select(c => (double)c));
    }

    private string Describe() => $"{(Title.Length > 0 ? Title + ": " : "")}{Summary()}";

    private string Summary() =>
        (_sorted.Length == 0 ? "no finite values"
            : $"{_sorted.Length} values, lowest {Ticks.Format(_sorted[0])}, median {Ticks.Format(_sorted[_sorted.Length / 2])}, "
                + $"highest {Ticks.Format(_sorted[^1])}")
        + (_skipped > 0 ? $", {_skipped} not finite" : "");

    public override string ToText()
    {
        var text = new StringBuilder();
        if (Title.Length > 0) text.AppendLine(Title);
        var labels = Ticks.Labels(_edges);
        int width = labels.Max(l => l.Length), count = _counts.Max().ToString().Length;
        for (var i = 0; i < _counts.Length; i++)
        {
            var bar = TextWidth.Bar(_counts[i] / (double)Math.Max(1, _counts.Max()), 40);
            text.AppendLine($"{labels[i].PadLeft(width)} … {labels[i + 1].PadLeft(width)}  {_counts[i].ToString().PadLeft(count)}  {bar}".TrimEnd());
        }
        return text.Append(Summary()).ToString();
    }
}
