using System.Xml.Linq;

using KtNotebooks.Interactive;

using Xunit;

namespace KtNotebooks.Tests.Interactive;

public class ChartTests
{
    private static readonly (byte, byte, byte) Blue = (0x1f, 0x77, 0xb4);

    public static TheoryData<string, Chart> All => new()
    {
        { "line", new LineChart("<loss> & more", "step", "loss").Add("train", [3, 2, 1.5]).Add("eval", [1, 3], [2.5, 1.7], markers: true) },
        { "smoothed", new LineChart("loss") { Subtitle = "half way", Progress = 0.5 }.AddSmoothed(null, [4, 3, 2, 1]) },
        { "log", new LineChart("log").Add("a", [1e-3, 1, 1e3, 0, -1]).LogY() },
        { "nothing", new LineChart() },
        { "empty series", new LineChart("empty").Add("a", []) },
        { "one point", new LineChart("one").Add("a", [3]) },
        { "constant", new LineChart("constant").Add("a", [0.0, 0, 0]) },
        { "not finite", new LineChart("gaps").Add("a", [1, double.NaN, 2, double.PositiveInfinity, 3, double.NegativeInfinity]) },
        { "only nan", new LineChart("nan").Add("a", [double.NaN]).LogY() },
        { "huge", new LineChart("huge").Add("a", [1e300, -1e300]) },
        { "bars", new BarChart("bars", ["a", "律师"]).Add("x", [1, -2]).Add("y", [double.NaN, 3], errors: [1, 0.5]) },
        { "no bars", new BarChart("none", []) },
        { "heat", new HeatMap("heat", new[,] { { 1.0, 2 }, { double.NaN, 4 } }, "expert", "layer") },
        { "large heat", new HeatMap("large", new double[58, 256]) },
        { "histogram", new Histogram("h", Enumerable.Range(0, 100).Select(i => (double)i)) },
        { "empty histogram", new Histogram("h", [double.NaN]) },
        { "treemap", new Treemap("parts", "GB").Add("large", 90).Add("专家", 9).Add("tiny", 0.01).Add("none", 0).Add("nan", double.NaN) },
        { "empty treemap", new Treemap("nothing") },

        {
            "stacked bars",
            new StackedBars("step", "ms").Row("计算", ("attention", 90), ("experts", 1019), ("none", 0)).Row("").Row("copy", ("copy", 1027), ("nan", double.NaN))
        },
        { "no stacked bars", new StackedBars("nothing") },
    };

    [Theory]
    [MemberData(nameof(All))]
    public void Every_chart_is_shown_for_plotly_as_svg_png_and_text_and_never_as_html(string name, Chart chart)
    {
        Assert.NotEmpty(name);
        var data = chart.Show().Data;
        Assert.Equal(["application/vnd.plotly.v1+json", "image/png", "image/svg+xml", "text/plain"], data.Keys.Order());
        var svg = XDocument.Parse((string)data["image/svg+xml"]);
        Assert.All(svg.Descendants().Attributes(), a => Assert.DoesNotContain("NaN", a.Value));
        Assert.All(svg.Descendants().Attributes(), a => Assert.DoesNotContain("Infinity", a.Value));
        Assert.DoesNotContain(svg.Descendants().Attributes(), a => a.Name.LocalName is "id" or "class");
        Assert.DoesNotContain("NaN", svg.Root!.Elements().First().Value, StringComparison.Ordinal);
        Assert.All(svg.Descendants().Where(e => e.Name.LocalName == "text" && e.Value.Length > 3), t => Assert.NotNull(t.Attribute("textLength")));
        var png = PngReader.Read((byte[])data["image/png"]);
        Assert.Equal(((int)(chart.Width * chart.PngScale), (int)(chart.Height * chart.PngScale)), (png.Width, png.Height));
        Assert.NotEmpty(chart.ToText());
    }

    [Fact]
    public void A_treemap_s_areas_are_the_values_and_fill_the_box_without_overlap()
    {
        double[] values = [50, 20, 12, 9, 5, 3, 1];
        var boxes = Treemap.Layout(values, new(10, 20, 300, 200));
        foreach (var (value, box) in values.Zip(boxes)) Assert.Equal(value * 600, box.Width * box.Height, 1e-6);
        for (var i = 0; i < boxes.Count; i++)
        {
            Assert.True(boxes[i].X >= 10 - 1e-9 && boxes[i].Right <= 310 + 1e-9 && boxes[i].Y >= 20 - 1e-9 && boxes[i].Bottom <= 220 + 1e-9);
            Assert.InRange(Math.Max(boxes[i].Width / boxes[i].Height, boxes[i].Height / boxes[i].Width), 1, 3);
            for (var j = 0; j < i; j++) Assert.True(boxes[i].X >= boxes[j].Right - 1e-9 || boxes[j].X >= boxes[i].Right - 1e-9
                || boxes[i].Y >= boxes[j].Bottom - 1e-9 || boxes[j].Y >= boxes[i].Bottom - 1e-9);
        }
    }

    [Fact]
    public void Stacked_parts_lie_end_to_end_as_long_as_their_values_and_keep_their_colour()
    {
        var svg = XDocument.Parse(new StackedBars("step").Row("one", ("a", 10), ("b", 30)).Row("two", ("b", 20)).ToSvg());
        double Number(XElement e, string name) => double.Parse((string)e.Attribute(name)!, System.Globalization.CultureInfo.InvariantCulture);
        // The legend's samples are 12 wide and rounded; bars are not.
        var bars = svg.Descendants().Where(e =>
            e.Name.LocalName == "rect" && e.Attribute("rx") is null && (string?)e.Attribute("fill") is "#1f77b4" or "#e69f00").ToArray();
        Assert.Equal(["#1f77b4", "#e69f00", "#e69f00"], bars.Where(e => e.Attribute("rx") is null).Select(e => (string)e.Attribute("fill")!));
        Assert.Equal(3 * Number(bars[0], "width"), Number(bars[1], "width"), 0.1);
        Assert.Equal(2 * Number(bars[0], "width"), Number(bars[2], "width"), 0.1);
        Assert.Equal(Number(bars[0], "x") + Number(bars[0], "width"), Number(bars[1], "x"), 0.1);
        Assert.Equal(Number(bars[0], "x"), Number(bars[2], "x"), 0.1);
        Assert.True(Number(bars[2], "y") > Number(bars[0], "y"));
    }

    [Fact]
    public void A_legend_stands_above_bars_that_leave_it_no_corner()
    {
        double[] high = [9, 9, 9, 9, 9, 9];
        var svg = XDocument.Parse(new BarChart("t", ["a", "b", "c", "d", "e", "f"]).Add("one long name of a series", high)
            .Add("another long name of a series", high, [.. high.Select(_ => 0.5)]).Add("a third", high).ToSvg());
        double Number(XElement e, string name) => double.Parse((string)e.Attribute(name)!, System.Globalization.CultureInfo.InvariantCulture);
        var rects = svg.Descendants().Where(e => e.Name.LocalName == "rect").ToArray();
        var legend = rects.Single(e => (string?)e.Attribute("rx") == "4");
        var bars = rects.Where(e => e.Attribute("rx") is null && (string?)e.Attribute("fill") is "#1f77b4" or "#e69f00" or "#009e73").ToArray();
        Assert.Equal(18, bars.Length);
        Assert.All(bars, bar => Assert.True(Number(bar, "y") > Number(legend, "y") + Number(legend, "height")));
        var errors = svg.Descendants().Where(e => e.Name.LocalName == "polyline" && (string?)e.Attribute("stroke-width") == "1.25").ToArray();
        Assert.Equal(18, errors.Length); // six lines with two caps each
        var ends = errors.SelectMany(e => ((string)e.Attribute("points")!).Split(' ')).Select(p => double.Parse(p.Split(',')[1],
            System.Globalization.CultureInfo.InvariantCulture));
        Assert.All(ends, y => Assert.True(y > Number(legend, "y") + Number(legend, "height")));
    }

    [Fact]
    public void The_line_lies_where_the_numbers_are()
    {
        // Flat at 3 with an axis from 2.7 to 3.3: the line must be blue at the same height in every column, in the middle of the data's rectangle.
        var svg = XDocument.Parse(new LineChart("t", "x", "y").Add("y", [3, 3, 3]).ToSvg());
        var line = svg.Descendants().Single(e => (string?)e.Attribute("stroke") == "#1f77b4" && (string?)e.Attribute("stroke-linejoin") == "round");
        var points = ((string)line.Attribute("points")!).Split(' ').Select(p => p.Split(',').Select(double.Parse).ToArray()).ToArray();
        Assert.Equal(3, points.Length);
        var png = PngReader.Read(new LineChart("t", "x", "y").Add("y", [3, 3, 3]).ToPng());
        for (var x = (int)(points[0][0] * 2) + 2; x < points[2][0] * 2 - 2; x++) Assert.Equal(Blue, png[x, (int)(points[0][1] * 2)]);
    }

    [Fact]
    public void Higher_values_are_drawn_higher()
    {
        var svg = XDocument.Parse(new LineChart().Add("", [1, 5, 2]).ToSvg());
        var line = svg.Descendants().Single(e => (string?)e.Attribute("stroke-linejoin") == "round");
        var y = ((string)line.Attribute("points")!).Split(' ').Select(p => double.Parse(p.Split(',')[1])).ToArray();
        Assert.True(y[1] < y[2] && y[2] < y[0]);
    }

    [Fact]
    public void Steps_are_marked_at_whole_numbers_only()
    {
        var marks = XDocument.Parse(new LineChart().Add("", [3, 2, 1]).ToSvg()).Descendants().Where(e => (string?)e.Attribute("text-anchor") == "middle");
        Assert.Equal(["1", "2", "3"], marks.Select(e => e.Value));
    }

    [Fact]
    public void A_gap_splits_the_line()
    {
        var svg = XDocument.Parse(new LineChart().Add("", [1, 2, double.NaN, 3, 4]).ToSvg());
        Assert.Equal(2, svg.Descendants().Count(e => (string?)e.Attribute("stroke-linejoin") == "round"));
    }

    [Fact]
    public void A_hundred_thousand_steps_stay_small_and_keep_their_spike()
    {
        var values = Enumerable.Range(0, 100_000).Select(i => i == 54_321 ? 9.0 : 1 + Math.Sin(i * 0.7) * 0.1).ToArray();
        var svg = new LineChart().Add("", values).ToSvg();
        Assert.True(svg.Length < 100_000, $"{svg.Length} characters");
        var y = XDocument.Parse(svg).Descendants().Single(e => (string?)e.Attribute("stroke-linejoin") == "round").Attribute("points")!.Value
            .Split(' ').Select(p => double.Parse(p.Split(',')[1])).ToArray();
        Assert.Equal(1, y.Count(v => v < y.Order().ElementAt(y.Length / 2) - 100));
    }

    [Fact]
    public void The_text_has_the_curve_and_the_numbers()
    {
        var text = new LineChart("Loss", "step").Add("train", [4, 3, 2.5, 2.75]).ToText();
        Assert.Contains("train: 4 points, first 4, last 2.75, lowest 2.5 at 3", text);
        Assert.Contains(text, c => c is > '\u2800' and <= '\u28FF');
        Assert.StartsWith("Loss", text);
    }

    [Fact]
    public void Histogram_counts_every_value_once()
    {
        var random = new Random(3);
        var values = Enumerable.Range(0, 5000).Select(_ => random.NextDouble() * random.NextDouble()).Append(1).Append(double.NaN).ToArray();
        var histogram = new Histogram("", values);
        Assert.Equal(5001, histogram.Counts.Sum());
        for (var i = 0; i < histogram.Counts.Count; i++)
        {
            var last = i == histogram.Counts.Count - 1;
            Assert.Equal(values.Count(v => v >= histogram.Edges[i] && (v < histogram.Edges[i + 1] || (last && v == histogram.Edges[^1]))), histogram.Counts[i]);
        }
        Assert.Contains("1 not finite", histogram.ToText());
    }

    [Fact]
    public void The_routing_map_of_the_largest_model_stays_small()
    {
        var random = new Random(1);
        var shares = new double[58, 256];
        for (var i = 0; i < shares.Length; i++) shares[i / 256, i % 256] = random.NextDouble();
        Assert.InRange(new HeatMap("routing", shares, "expert", "layer").ToSvg().Length, 1000, 40_000);
    }

    [Fact]
    public void Heat_colours_follow_the_values()
    {
        var png = PngReader.Read(new HeatMap("", new[,] { { 0.0, 1 } }) { Width = 300, Height = 200 }.ToPng());
        Assert.Equal((0x44, 0x01, 0x54), png[120, 100]);
        Assert.Equal((0xfd, 0xe7, 0x25), png[380, 100]);
    }

    [Fact]
    public void Saved_files_are_whole_and_nothing_else_is_left()
    {
        var folder = Directory.CreateTempSubdirectory("kt-chart").FullName;
        try
        {
            var chart = new LineChart("t").Add("a", [1, 2]);
            chart.SavePng(Path.Combine(folder, "deep", "a.png"));
            chart.SaveSvg(Path.Combine(folder, "deep", "a.svg"));
            chart.SaveSvg(Path.Combine(folder, "deep", "a.svg"));
            Assert.Equal(["a.png", "a.svg"], Directory.GetFiles(Path.Combine(folder, "deep")).Select(Path.GetFileName).Order());
            PngReader.Read(File.ReadAllBytes(Path.Combine(folder, "deep", "a.png")));
            XDocument.Load(Path.Combine(folder, "deep", "a.svg"));
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    [Fact]
    public void Wrong_lengths_are_errors_that_say_what_was_wanted()
    {
        Assert.Contains("same length, but are 2 and 3", Assert.Throws<ArgumentException>(() => new LineChart().Add("a", [1, 2], [1, 2, 3])).Message);
        Assert.Contains("wanted 2 values", Assert.Throws<ArgumentException>(() => new BarChart("", ["a", "b"]).Add("x", [1])).Message);
        Assert.Contains("at least one row", Assert.Throws<ArgumentException>(() => new HeatMap("", new double[0, 3])).Message);
    }
}
