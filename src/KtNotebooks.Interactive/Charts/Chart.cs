using System.Text.Json.Nodes;

using KtNotebooks.Files;
using KtNotebooks.Interactive.Drawing;

namespace KtNotebooks.Interactive;

/// <summary>
/// A picture with numbers. Shown as image/svg+xml, image/png and text/plain, and as the same figure for Plotly, which VS Code and JupyterLab with its
/// extension draw to be zoomed and read with the mouse. Never as text/html: where html is present it beats the images, and GitHub would gut it.
/// </summary>
[TypeFormatterSource(typeof(ShowableFormatters), PreferredMimeTypes = [SvgType, PngType, "text/plain"])]
public abstract class Chart : IShowable
{
    public const string SvgType = "image/svg+xml";
    public const string PngType = "image/png";
    public const string PlotlyType = "application/vnd.plotly.v1+json";

    private protected Chart(string title) => Title = title;

    public string Title { get; }

    /// <summary>A quiet line under the title.</summary>
    public string Subtitle { get; init; } = "";

    /// <summary>Share of the work done, 0…1, as a bar above the data; null draws none.</summary>
    public double? Progress { get; init; }

    /// <summary>CSS pixels.</summary>
    public double Width { get; init; } = 640;

    /// <summary>CSS pixels.</summary>
    public double Height { get; init; } = 400;

    /// <summary>Device pixels of the PNG for one CSS pixel: two keep it sharp on today's screens.</summary>
    public double PngScale { get; init; } = 2;

    internal abstract Scene Draw();

    /// <summary>Fills the figure with what this chart draws.</summary>
    internal abstract void Draw(PlotlyFigure figure);

    /// <summary>The chart and its numbers as text.</summary>
    public abstract string ToText();

    public string ToSvg() => Svg.Write(Draw());

    /// <summary>The figure as Plotly's JSON, {"data": […], "layout": {…}}.</summary>
    public string ToPlotly() => Figure().ToJsonString();

    public byte[] ToPng() => Raster.ToPng(Draw(), PngScale);

    public MimeBundle Show()
    {
        var scene = Draw();
        return new MimeBundle(ToText())
            .With(PlotlyType, Figure())
            .With(SvgType, Svg.Write(scene))
            .With(PngType, Raster.ToPng(scene, PngScale))
            .WithSize(PngType, scene.Width, scene.Height);
    }

    /// <summary>The quick form for live charts: svg and text. The last state of a live chart is a whole <see cref="Show"/>.</summary>
    internal MimeBundle Preview() => new MimeBundle(ToText()).With(SvgType, Svg.Write(Draw()));

    private JsonObject Figure()
    {
        var figure = new PlotlyFigure(this);
        Draw(figure);
        return figure.Root;
    }

    public void SaveSvg(string path) => AtomicFile.WriteText(path, ToSvg());

    public void SavePng(string path) => AtomicFile.Write(path, ToPng());
}
