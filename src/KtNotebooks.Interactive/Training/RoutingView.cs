namespace KtNotebooks.Interactive;

/// <summary>
/// Which experts a run uses, while it runs: a row a layer, a column an expert, the colour how many times its even share the expert had to do in the last steps;
/// updated in place. Wants `log_routing: true`.
/// <code>
/// using (var view = new RoutingView()) { trainer.OnStep += s => view.Update(s.Step, s.Loads); trainer.Run(); }
/// </code>
/// </summary>
[TypeFormatterSource(typeof(ShowableFormatters), PreferredMimeTypes = [Chart.SvgType, Chart.PngType, "text/plain"])]
public sealed class RoutingView : IShowable, IDisposable
{
    /// <summary>What a step counts beside those before it: about the last ten are seen.</summary>
    private const double Share = 0.1;

    private readonly Lock _state = new();
    private readonly SortedDictionary<string, double[]> _loads = new(Comparer<string>.Create(ByLayer));
    private readonly string _title;
    private readonly LiveDisplay _display;
    private string _status = "waiting for the first step";

    public RoutingView(string title = "load of experts", TimeSpan? interval = null, IDisplayHost? host = null, TimeProvider? time = null)
    {
        _title = title;
        _display = new(final => final ? Show() : Draw().Preview(), interval, host, time);
    }

    /// <summary>Adds a step. Returns at once; drawing happens elsewhere.</summary>
    /// <param name="step">Its number.</param>
    /// <param name="loads">By layer: how many routes each expert got.</param>
    public void Update(int step, IReadOnlyDictionary<string, long[]> loads)
    {
        ArgumentNullException.ThrowIfNull(loads);
        if (loads.Count == 0) return;
        lock (_state)
        {
            foreach (var (layer, counts) in loads)
            {
                var mean = Math.Max(1e-9, counts.Average());
                if (!_loads.TryGetValue(layer, out var all) || all.Length != counts.Length) _loads[layer] = [.. counts.Select(c => c / mean)];
                else for (var e = 0; e < all.Length; e++) all[e] += Share * ((counts[e] / mean) - all[e]);
            }
            var (dead, experts) = (loads.Values.Sum(c => c.Count(n => n == 0)), loads.Values.Sum(c => c.Length));
            _status = $"step {step:#,0} · busiest {Ticks.Format(_loads.Values.Max(l => l.Max()))} × its share · {dead} of {experts} experts without a token";
        }
        _display.Changed();
    }

    /// <summary>The picture as it stands.</summary>
    public MimeBundle Show() => Draw().Show();

    private Chart Draw()
    {
        lock (_state)
        {
            if (_loads.Count == 0) return new LineChart(_title) { Subtitle = _status };
            var values = new double[_loads.Count, _loads.Values.Max(l => l.Length)];
            var row = 0;
            foreach (var load in _loads.Values)
            {
                for (var e = 0; e < values.GetLength(1); e++) values[row, e] = e < load.Length ? load[e] : double.NaN;
                row++;
            }
            return new HeatMap($"{_title}: {_status}", values, x: "expert", y: "layer") { RowNames = [.. _loads.Keys.Select(NameOf)], Low = 0 };
        }
    }

    /// <summary>Sends the last state; further updates are not shown.</summary>
    public void Dispose() => _display.Dispose();

    /// <summary>3 of model.layers.3.mlp.</summary>
    private static string NameOf(string path) => NumberOf(path) is { } number ? number.ToString() : path;

    private static int? NumberOf(string path)
    {
        foreach (var part in path.Split('.'))
            if (int.TryParse(part, out var number)) return number;
        return null;
    }

    private static int ByLayer(string? a, string? b)
    {
        var order = Comparer<int?>.Default.Compare(NumberOf(a ?? ""), NumberOf(b ?? ""));
        return order != 0 ? order : string.CompareOrdinal(a, b);
    }
}
