using System.Text;

namespace KtNotebooks.Interactive;

/// <summary>Curves as text: a Braille character holds 2 × 4 dots, so 60 × 10 characters show 120 × 40 points.</summary>
internal static class TextPlot
{
    private const int Columns = 60;
    private const int Rows = 10;

    public static string Draw(IReadOnlyList<(double[] X, double[] Y)> series, bool logY, string xName)
    {
        var points = series.SelectMany(s => s.X.Zip(s.Y))
            .Where(p => double.IsFinite(p.First) && double.IsFinite(p.Second) && (!logY || p.Second > 0)).ToArray();
        if (points.Length == 0) return "(nothing to draw)\n";
        var xAxis = Axis.Tight(points.Min(p => p.First), points.Max(p => p.First), 4);
        double low = points.Min(p => p.Second), high = points.Max(p => p.Second);
        var yAxis = logY ? Axis.Log(low, high) : Axis.Tight(low, high, 4);

        var dots = new byte[Rows, Columns];
        foreach (var (x, y) in series)
        {
            (int X, int Y)? before = null;
            for (var i = 0; i < x.Length; i++)
            {
                if (!xAxis.Shows(x[i]) || !yAxis.Shows(y[i]))
                {
                    before = null;
                    continue;
                }
                var at = (X: (int)Math.Round(xAxis.Place(x[i]) * (Columns * 2 - 1)), Y: (int)Math.Round((1 - yAxis.Place(y[i])) * (Rows * 4 - 1)));
                Line(dots, before ?? at, at);
                before = at;
            }
        }

        var text = new StringBuilder();
        string top = Ticks.Format(high), bottom = Ticks.Format(low);
        var margin = Math.Max(top.Length, bottom.Length);
        for (var r = 0; r < Rows; r++)
        {
            text.Append((r == 0 ? top : r == Rows - 1 ? bottom : "").PadLeft(margin)).Append(r is 0 or Rows - 1 ? " ┤" : " │");
            for (var c = 0; c < Columns; c++) text.Append((char)(0x2800 + dots[r, c]));
            text.Append('\n');
        }
        string left = Ticks.Format(points.Min(p => p.First)), right = Ticks.Format(points.Max(p => p.First));
        text.Append(' ', margin).Append(" └").Append('─', Columns).Append('\n');
        var free = Columns - left.Length - right.Length;
        var name = xName.Length + 2 <= free ? Center(xName, free) : new(' ', Math.Max(1, free));
        text.Append(' ', margin + 2).Append(left).Append(name).Append(right).Append('\n');
        return text.ToString();
    }

    private static string Center(string text, int width) => text.PadLeft((width + text.Length) / 2).PadRight(width);

    private static void Line(byte[,] dots, (int X, int Y) from, (int X, int Y) to)
    {
        var steps = Math.Max(1, Math.Max(Math.Abs(to.X - from.X), Math.Abs(to.Y - from.Y)));
        for (var k = 0; k <= steps; k++) Set(dots, from.X + (to.X - from.X) * k / steps, from.Y + (to.Y - from.Y) * k / steps);
    }

    /// <summary>Braille numbers its dots 1 2 3 7 down the left column and 4 5 6 8 down the right one.</summary>
    private static void Set(byte[,] dots, int x, int y)
    {
        ReadOnlySpan<byte> bits = [0x01, 0x08, 0x02, 0x10, 0x04, 0x20, 0x40, 0x80];
        if (x >= 0 && y >= 0 && x < Columns * 2 && y < Rows * 4) dots[y / 4, x / 2] |= bits[y % 4 * 2 + x % 2];
    }
}
