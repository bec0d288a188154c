using System.Globalization;
using System.Text.Json.Nodes;

using KtNotebooks.Interactive.Drawing;

namespace KtNotebooks.Interactive;

/// <summary>
/// A figure in Plotly's own form (https://plotly.com/chart-studio-help/json-chart-schema): traces in "data", axes and title in "layout". It is written here and
/// not by Plotly.NET: a notebook takes the Plotly.NET that it names, of whatever version, and an engine that brought one would decide for it.
/// </summary>
internal sealed class PlotlyFigure
{
    private readonly JsonArray _traces = [];
    private readonly JsonObject _layout;

    public PlotlyFigure(Chart chart)
    {
        var subtitle = chart.Subtitle.Length > 0 ? $"<sub>{Text(chart.Subtitle)}</sub>" : "";
        var title = string.Join("<br>", new[] { Text(chart.Title), subtitle }.Where(t => t.Length > 0));
        _layout = new JsonObject { ["width"] = chart.Width, ["height"] = chart.Height };
        if (title.Length > 0) _layout["title"] = new JsonObject { ["text"] = title };
        Root = new JsonObject { ["data"] = _traces, ["layout"] = _layout };
    }

    public JsonObject Root { get; }

    /// <summary>Adds a trace, whose other properties the caller sets.</summary>
    public JsonObject Trace(string type, string name = "")
    {
        var trace = new JsonObject { ["type"] = type };
        if (name.Length > 0) trace["name"] = Text(name);
        _traces.Add((JsonNode)trace);
        return trace;
    }

    /// <summary>Sets a property of the layout.</summary>
    public PlotlyFigure Layout(string name, JsonNode value)
    {
        _layout[name] = value;
        return this;
    }

    /// <summary>An axis, "xaxis" or "yaxis", that grows with its labels, so that none is cut.</summary>
    public JsonObject Axis(string name, string title)
    {
        var axis = new JsonObject { ["automargin"] = true };
        if (title.Length > 0) axis["title"] = new JsonObject { ["text"] = Text(title) };
        _layout[name] = axis;
        return axis;
    }

    /// <summary>Nine digits; null for what JSON cannot say, which Plotly leaves out of the picture.</summary>
    public static JsonNode? Number(double value) =>
        double.IsFinite(value) ? JsonValue.Create(double.Parse(value.ToString("G9", CultureInfo.InvariantCulture), CultureInfo.InvariantCulture)) : null;

    public static JsonArray Numbers(IEnumerable<double> values) => new([.. values.Select(Number)]);

    public static JsonArray Texts(IEnumerable<string> texts) => new([.. texts.Select(t => (JsonNode?)Text(t))]);

    public static string Css(Color color) => color.Alpha < 1
        ? string.Create(CultureInfo.InvariantCulture, $"rgba({color.R},{color.G},{color.B},{color.Alpha:0.##})") : color.Css;

    /// <summary>Plotly takes texts as a little HTML.</summary>
    private static string Text(string text) => text.Replace("&", "&amp;").Replace("<", "&lt;").Replace(">", "&gt;");
}
