using System.Text;
using System.Text.Json.Nodes;

using KtNotebooks.Interactive.Drawing;

namespace KtNotebooks.Interactive;

/// <summary>
/// A matrix as colours, for instance how often each expert (column) of each layer (row) was chosen. Values that are not finite are grey.
/// </summary>
public sealed class HeatMap : Chart
{
    private static readonly Color Missing = Color.Hex("#d0d7de");
    private readonly double[,] _values;
    private readonly string _x;
    private readonly string _y;
    private readonly double _low;
    private readonly double _high;

    /// <param name="title">Above the picture.</param>
    /// <param name="values">[rows, columns], row 0 at the top.</param>
    /// <param name="x">Name of the columns, such as "expert".</param>
    /// <param name="y">Name of the rows, such as "layer".</param>
    public HeatMap(string title, double[,] values, string x = "", string y = "") : base(title)
    {
        ArgumentNullException.ThrowIfNull(values);
        if (values.Length == 0)
            throw new ArgumentException($"[HeatMap] values must have at least one row and column, but is {values.GetLength(0)} x {values.GetLength(1)}",
                nameof(values));
        (_values, _x, _y) = ((double[,])values.Clone(), x, y);
        var finite = _values.Cast<double>().Where(double.IsFinite).ToArray();
        (_low, _high) = finite.Length > 0 ? (finite.Min(), finite.Max()) : (0, 1);
    }

    /// <summary>Names of the rows; null numbers them from <see cref="FirstRow"/>.</summary>
    public IReadOnlyList<string>? RowNames { get; init; }

    /// <summary>Names of the columns; null numbers them from 0.</summary>
    public IReadOnlyList<string>? ColumnNames { get; init; }

    /// <summary>The number of the first row: the first MoE layer of a model is rarely layer 0.</summary>
    public int FirstRow { get; init; }

    /// <summary>The value of the darkest colour; null takes the lowest value.</summary>
    public double? Low { get; init; }

    /// <summary>The value of the brightest colour; null takes the highest value.</summary>
    public double? High { get; init; }

    private int Rows => _values.GetLength(0);
    private int Columns => _values.GetLength(1);
    private double Bottom => Low ?? _low;
    private double Top => High ?? _high;

    private string RowName(int i) => RowNames is { } names && i < names.Count ? names[i] : (FirstRow + i).ToString();

    private string ColumnName(int i) => ColumnNames is { } names && i < names.Count ? names[i] : i.ToString();

    private double Share(double value) => Top > Bottom ? (value - Bottom) / (Top - Bottom) : 0.5;

    private Color ColorOf(double value) => double.IsFinite(value) ? Palette.Heat(Share(value)) : Missing;

    internal override Scene Draw()
    {
        var (bottom, top) = Ticks.Usable(Bottom, Top);
        var scale = Axis.Tight(bottom, top, 5);
        var scaleWidth = scale.Labels.Select(l => StrokeFont.Width(l, 11)).DefaultIfEmpty(0).Max();
        var plot = Plot.Begin(this, Describe(), Enumerable.Range(0, Rows).Select(RowName), _y, _x, right: 54 + scaleWidth);
        var area = plot.Area;

        var colors = new Color[Rows, Columns];
        for (var r = 0; r < Rows; r++)
            for (var c = 0; c < Columns; c++)
                colors[r, c] = ColorOf(_values[r, c]);
        plot.Scene.Cells(area, colors);

        double cellWidth = area.Width / Columns, cellHeight = area.Height / Rows;
        for (var r = 0; r < Rows; r += Every(Rows, cellHeight, 14)) plot.DrawYLabel(area.Y + cellHeight * (r + 0.5), RowName(r));
        var widest = Enumerable.Range(0, Columns).Max(c => StrokeFont.Width(ColumnName(c), 11));
        for (var c = 0; c < Columns; c += Every(Columns, cellWidth, widest + 8)) plot.DrawXLabel(area.X + cellWidth * (c + 0.5), ColumnName(c));
        DrawValues(plot.Scene, area, cellWidth, cellHeight);

        // The colour bar, brightest on top.
        var bar = new Color[128, 1];
        for (var i = 0; i < 128; i++) bar[i, 0] = Palette.Heat(1 - i / 127.0);
        plot.Scene.Cells(new(area.Right + 18, area.Y, 14, area.Height), bar);
        for (var i = 0; i < scale.Marks.Length; i++)
            plot.Scene.Text(area.Right + 38, plot.Y(scale, scale.Marks[i]) + 4, scale.Labels[i], 11, Palette.Quiet);
        return plot.Scene;
    }

    internal override void Draw(PlotlyFigure figure)
    {
        figure.Axis("xaxis", _x)["type"] = "category";
        var rows = figure.Axis("yaxis", _y);
        rows["type"] = "category";
        rows["autorange"] = "reversed";
        var trace = figure.Trace("heatmap");
        trace["colorscale"] = "Viridis";
        (trace["zmin"], trace["zmax"]) = (PlotlyFigure.Number(Bottom), PlotlyFigure.Number(Top));
        trace["x"] = PlotlyFigure.Texts(Enumerable.Range(0, Columns).Select(ColumnName));
        trace["y"] = PlotlyFigure.Texts(Enumerable.Range(0, Rows).Select(RowName));
        trace["z"] = new JsonArray([.. Enumerable.Range(0, Rows)
            .Select(r => (JsonNode)PlotlyFigure.Numbers(Enumerable.Range(0, Columns).Select(c => _values[r, c])))]);
    }

    /// <summary>The numbers themselves where every one fits into its cell.</summary>
    private void DrawValues(Scene scene, Box area, double cellWidth, double cellHeight)
    {
        var widest = _values.Cast<double>().Max(v => StrokeFont.Width(Ticks.Format(v), 10));
        if (widest + 6 > cellWidth || cellHeight < 16) return;
        for (var r = 0; r < Rows; r++)
            for (var c = 0; c < Columns; c++)
            {
                var ink = ColorOf(_values[r, c]).Brightness > 0.5 ? Palette.Ink : new Color(255, 255, 255);
                scene.Text(area.X + cellWidth * (c + 0.5), area.Y + cellHeight * (r + 0.5) + 3.6, Ticks.Format(_values[r, c]), 10, ink, Anchor.Middle);
            }
    }

    /// <summary>Label every n-th: the smallest of 1, 2, 4, 8, … that leaves <paramref name="room"/> pixels for each.</summary>
    private static int Every(int count, double cell, double room)
    {
        var every = 1;
        while (every < count && every * cell < room) every *= 2;
        return every;
    }

    private string Describe()
    {
        var (r, c) = Highest();
        return $"{(Title.Length > 0 ? Title + ": " : "")}{Rows} x {Columns} values from {Ticks.Format(_low)} to {Ticks.Format(_high)}, "
            + $"highest at {(_y.Length > 0 ? _y : "row")} {RowName(r)}, {(_x.Length > 0 ? _x : "column")} {ColumnName(c)}";
    }

    private (int Row, int Column) Highest()
    {
        var best = (0, 0);
        for (var i = 0; i < _values.Length; i++)
            if (_values[i / Columns, i % Columns] == _high) return (i / Columns, i % Columns);
        return best;
    }

    /// <summary>Small matrices as numbers, larger ones as shades, at most 128 columns and 64 rows of them.</summary>
    public override string ToText()
    {
        var text = new StringBuilder();
        if (Columns <= 12 && Rows <= 40)
        {
            var table = new Table([_y, .. Enumerable.Range(0, Columns).Select(ColumnName)]);
            for (var r = 0; r < Rows; r++) table.Row([RowName(r), .. Enumerable.Range(0, Columns).Select(c => (object)_values[r, c])]);
            return (Title.Length > 0 ? Title + "\n" : "") + table.ToText();
        }
        int down = (Rows + 63) / 64, across = (Columns + 127) / 128;
        var margin = Enumerable.Range(0, Rows).Max(r => TextWidth.Of(RowName(r)));
        for (var r = 0; r < Rows; r += down)
        {
            text.Append(TextWidth.PadLeft(RowName(r), margin)).Append(" │");
            for (var c = 0; c < Columns; c += across) text.Append(Shade(_values[r, c]));
            text.Append('\n');
        }
        return Describe() + "\n" + text.ToString().TrimEnd('\n') + $"\n' ' = {Ticks.Format(Bottom)}, '█' = {Ticks.Format(Top)}";
    }

    private char Shade(double value) => double.IsFinite(value) ? " ░▒▓█"[(int)Math.Clamp(Share(value) * 5, 0, 4)] : '?';
}
