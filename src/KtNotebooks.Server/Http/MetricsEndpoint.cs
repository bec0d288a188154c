using System.Diagnostics.Metrics;
using System.Globalization;
using System.Text;

using Microsoft.AspNetCore.Http;

namespace KtNotebooks.Server.Http;

/// <summary>GET /metrics: what the engine's meter has counted, as Prometheus' text format 0.0.4 has it.</summary>
internal sealed class MetricsEndpoint : IDisposable
{
    private readonly MeterListener _listener = new();
    private readonly Lock _gate = new();
    private readonly SortedDictionary<string, Family> _families = new(StringComparer.Ordinal);

    public MetricsEndpoint(ModelEngine engine)
    {
        _listener.InstrumentPublished = (instrument, listener) =>
        {
            if (ReferenceEquals(instrument.Meter, engine.Telemetry.Meter)) listener.EnableMeasurementEvents(instrument);
        };
        _listener.SetMeasurementEventCallback<double>((i, value, tags, _) => Take(i, value, tags));
        _listener.SetMeasurementEventCallback<long>((i, value, tags, _) => Take(i, value, tags));
        _listener.SetMeasurementEventCallback<int>((i, value, tags, _) => Take(i, value, tags));
        _listener.Start();
    }

    public Task Handle(RequestContext c)
    {
        _listener.RecordObservableInstruments();
        c.Http.Response.ContentType = "text/plain; version=0.0.4; charset=utf-8";
        return c.Http.Response.WriteAsync(Text(), c.Cancel);
    }

    public void Dispose() => _listener.Dispose();

    private string Text()
    {
        var text = new StringBuilder();
        lock (_gate)
        {
            foreach (var (name, family) in _families)
            {
                text.Append($"# HELP {name} {family.Help}\n# TYPE {name} {family.Kind}\n");
                foreach (var (labels, series) in family.Series) series.Write(text, name, labels);
            }
        }
        return text.ToString();
    }

    private void Take(Instrument instrument, double value, ReadOnlySpan<KeyValuePair<string, object?>> tags)
    {
        var bounds = (instrument as Histogram<double>)?.Advice?.HistogramBucketBoundaries;
        var gauge = instrument is ObservableGauge<int> or ObservableGauge<long>;
        var labels = Labels(tags);
        lock (_gate)
        {
            var name = Name(instrument, bounds is null && !gauge);
            if (!_families.TryGetValue(name, out var family))
                _families[name] = family = new Family(instrument.Description ?? "", bounds is not null ? "histogram" : gauge ? "gauge" : "counter");
            if (!family.Series.TryGetValue(labels, out var series)) family.Series[labels] = series = new Series(bounds);
            series.Add(value, gauge);
        }
    }

    private static string Name(Instrument instrument, bool counter) =>
        instrument.Name.Replace('.', '_') + (instrument.Unit == "s" ? "_seconds" : "") + (counter ? "_total" : "");

    private static string Labels(ReadOnlySpan<KeyValuePair<string, object?>> tags)
    {
        List<string> labels = [];
        foreach (var (name, value) in tags)
            labels.Add($"{name.Replace('.', '_')}=\"{value?.ToString()?.Replace("\\", "\\\\").Replace("\"", "\\\"").Replace("\n", "\\n")}\"");
        return string.Join(',', labels);
    }

    private static string Number(double value) => value.ToString(CultureInfo.InvariantCulture);

    private sealed class Family(string help, string kind)
    {
        public string Help => help;

        public string Kind => kind;

        public SortedDictionary<string, Series> Series { get; } = new(StringComparer.Ordinal);
    }

    private sealed class Series(IReadOnlyList<double>? bounds)
    {
        private readonly long[] _counts = new long[(bounds?.Count ?? 0) + 1];
        private double _sum;

        public void Add(double value, bool last)
        {
            _sum = last ? value : _sum + value;
            var at = 0;
            while (bounds is not null && at < bounds.Count && value > bounds[at]) at++;
            _counts[at]++;
        }

        public void Write(StringBuilder text, string name, string labels)
        {
            var braces = labels.Length == 0 ? "" : $"{{{labels}}}";
            if (bounds is null)
            {
                text.Append($"{name}{braces} {Number(_sum)}\n");
                return;
            }
            long below = 0;
            var comma = labels.Length == 0 ? "" : ",";
            for (var i = 0; i <= bounds.Count; i++)
                text.Append($"{name}_bucket{{{labels}{comma}le=\"{(i < bounds.Count ? Number(bounds[i]) : "+Inf")}\"}} {below += _counts[i]}\n");
            text.Append($"{name}_sum{braces} {Number(_sum)}\n{name}_count{braces} {below}\n");
        }
    }
}
