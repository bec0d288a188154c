
namespace KtNotebooks.Interactive;

/// <summary>
/// Any lines that grow while one watches.
/// <code>
/// using (var live = new LiveChart("gradient norm", x: "step")) for (…) live.Add("norm", step, norm);
/// </code>
/// </summary>
[TypeFormatterSource(typeof(ShowableFormatters), PreferredMimeTypes = [Chart.SvgType, Chart.PngType, "text/plain"])]
public sealed class LiveChart : IShowable, IDisposable
{
    private readonly Lock _state = new();
    private readonly Dictionary<string, (List<double> X, List<double> Y)> _series = [];
    private readonly string _title;
    private readonly string _x;
    private readonly string _y;
    private readonly bool _logY;
    private readonly LiveDisplay _display;

    public LiveChart(
        string title = "", string x = "", string y = "", bool logY = false, TimeSpan? interval = null, IDisplayHost? host = null, TimeProvider? time = null)
    {
        (_title, _x, _y, _logY) = (title, x, y, logY);
        _display = new(final => final ? Show() : Draw().Preview(), interval, host, time);
    }

    /// <summary>Adds a point to the series of this name, which the first point makes.</summary>
    public void Add(string series, double x, double y)
    {
        lock (_state)
        {
            if (!_series.TryGetValue(series, out var points)) _series[series] = points = ([], []);
            points.X.Add(x);
            points.Y.Add(y);
        }
        _display.Changed();
    }

    /// <summary>The picture as it stands.</summary>
    public MimeBundle Show() => Draw().Show();

    private LineChart Draw()
    {
        lock (_state)
        {
            var chart = new LineChart(_title, _x, _y);
            foreach (var (name, points) in _series) chart.Add(name, points.X, points.Y);
            return _logY ? chart.LogY() : chart;
        }
    }

    /// <summary>Sends the last state; further points are not shown.</summary>
    public void Dispose() => _display.Dispose();
}
