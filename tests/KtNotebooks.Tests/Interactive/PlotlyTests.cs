using System.Text.Json.Nodes;

using KtNotebooks.Interactive;

using Xunit;

namespace KtNotebooks.Tests.Interactive;

/// <summary>The figures for Plotly hold the numbers that were given, under the names of Plotly's schema.</summary>
public class PlotlyTests
{
    [Fact]
    public void Lines_have_their_points_gaps_as_null_and_their_axes_names()
    {
        var (trace, layout) = Only(new LineChart("a < b", "step", "loss").Add("train", [10.0, 20, 30], [3.0, double.NaN, 1.5]).LogY());
        Assert.Equal(["10", "20", "30"], Values(trace, "x"));
        Assert.Equal(["3", "null", "1.5"], Values(trace, "y"));
        Assert.Equal(("scatter", "train"), ((string?)trace["type"], (string?)trace["name"]));
        Assert.Equal(("log", "loss"), ((string?)layout["yaxis"]!["type"], (string?)layout["yaxis"]!["title"]!["text"]));
        Assert.Equal("a &lt; b", (string?)layout["title"]!["text"]);
    }

    [Fact]
    public void Long_runs_keep_their_ends_and_their_spike()
    {
        var (trace, _) = Only(new LineChart().Add("", Enumerable.Range(0, 100_000).Select(i => i == 54_321 ? 9.0 : 1 + (i % 7) * 0.01)));
        string[] x = Values(trace, "x"), y = Values(trace, "y");
        Assert.InRange(x.Length, 1000, 6001);
        Assert.Equal(("1", "100000"), (x[0], x[^1]));
        Assert.Equal("9", y[Array.IndexOf(x, "54322")]);
    }

    [Fact]
    public void Bars_have_their_errors_and_categories()
    {
        var (trace, layout) = Only(new BarChart("t", ["law", "1"], y: "BLEU").Add("before", [3.1, double.NaN], errors: [0.4, 0]));
        Assert.Equal(["law", "1"], Values(trace, "x"));
        Assert.Equal(["3.1", "null"], Values(trace, "y"));
        Assert.Equal("0.4", trace["error_y"]!["array"]![0]!.ToString());
        Assert.Equal("category", (string?)layout["xaxis"]!["type"]); // "1" is a name and no number
        Assert.Null(trace["error_y"]!["arrayminus"]);
    }

    [Fact]
    public void An_interval_is_drawn_from_its_one_end_to_the_other()
    {
        var chart = new BarChart("t", ["law", "none"]).Add("share", [1, 2], [(0, 4), (double.NaN, double.NaN)]);
        var (trace, _) = Only(chart);
        var bars = trace["error_y"]!;
        Assert.Equal(["3", "0"], Values(bars, "array"));
        Assert.Equal(["1", "0"], Values(bars, "arrayminus"));
        Assert.False((bool)bars["symmetric"]!);
        Assert.Contains("1 [0, 4]", chart.ToText(), StringComparison.Ordinal);
        Assert.DoesNotContain("[", chart.ToText().Split('\n')[^1], StringComparison.Ordinal);
    }

    [Fact]
    public void Stacked_parts_of_one_name_are_one_trace_over_all_rows()
    {
        var root = JsonNode.Parse(new StackedBars("step", "ms").Row("one", ("a", 10), ("b", 30)).Row("", ("b", 20)).ToPlotly())!;
        Assert.Equal(["10", "0"], Values(root["data"]![0]!, "x"));
        Assert.Equal(["30", "20"], Values(root["data"]![1]!, "x"));
        Assert.Equal(["one", ""], Values(root["layout"]!["yaxis"]!, "ticktext"));
    }

    [Fact]
    public void Maps_counts_and_areas_are_whole()
    {
        var (map, _) = Only(new HeatMap("m", new[,] { { 0.5, double.NaN }, { 1, 2 } }, "expert", "layer") { FirstRow = 1 });
        Assert.Equal(["[0.5,null]", "[1,2]"], Values(map, "z"));
        Assert.Equal(["1", "2"], Values(map, "y"));
        var (counts, _) = Only(new Histogram("h", [1.0, 1, 2, 9], bins: 4));
        Assert.Equal(4, Values(counts, "y").Sum(int.Parse));
        var (areas, _) = Only(new Treemap("parts").Add("none", 0).Add("large", 9).Add("small", 1));
        Assert.Equal(["large", "small"], Values(areas, "labels"));
    }

    private static (JsonNode Trace, JsonNode Layout) Only(Chart chart)
    {
        var root = JsonNode.Parse(chart.ToPlotly())!;
        return (Assert.Single(root["data"]!.AsArray())!, root["layout"]!);
    }

    private static string[] Values(JsonNode node, string name) =>
        [.. node[name]!.AsArray().Select(v => v is JsonArray ? v.ToJsonString() : v?.ToString() ?? "null")];
}
