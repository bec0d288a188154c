using System.Diagnostics;

using KtNotebooks.Experts;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Bench;

/// <summary>What a benchmark found on one card.</summary>
/// <param name="Parts">Time on the compute stream by part of the step; waiting for another card is a part of its own.</param>
/// <param name="CopyMs">Time of the copy stream.</param>
/// <param name="BusWaitMs">Of the compute stream's time what it stood before copies that were not over.</param>
/// <param name="CopiedBytes">Expert bytes over its bus a step.</param>
/// <param name="PeakDeviceBytes">The most that was in use as the driver sees it.</param>
/// <param name="PoolPeakBytes">The most that the engine's own pool held.</param>
public sealed record DeviceFigures(string Device, IReadOnlyDictionary<string, double> Parts, double CopyMs, long CopiedBytes, long PeakDeviceBytes,
    long PoolPeakBytes, double BusWaitMs = 0);

/// <summary>
/// Measures one device while steps run: the parts of each on its compute stream (on the CPU by the clock), its copies, and the memory in use, which the
/// driver is asked for a hundred times a second.
/// </summary>
internal sealed class DeviceMeter : IDisposable
{
    private readonly CudaDevice? _card;
    private readonly Thread? _sampler;
    private readonly List<(string Name, string Detail, CudaEvent? Mark, long Ticks)> _marks = [];
    private readonly List<Dictionary<string, double>> _parts = [];
    private readonly List<double> _copyMs = [], _waitMs = [];
    private readonly List<ExpertStream> _streams = [];
    private readonly List<TraceSpan> _trace = [];
    private CudaEvent? _began;
    private long _beganTicks;
    private volatile bool _stop;
    private long _peak, _copied, _copiedBefore;

    public DeviceMeter(Device device)
    {
        Device = device;
        if (device.Kind != DeviceKind.Cuda) return;
        _card = CudaDevice.Get(device.Index);
        _sampler = new Thread(Sample) { IsBackground = true, Name = $"memory sampler of {device}" };
        _sampler.Start();
    }

    public Device Device { get; }

    public string? Name => _card?.ToString();

    public DeviceFigures Figures => new(_card?.ToString() ?? "CPU", _parts.SelectMany(p => p.Keys).Distinct()
        .ToDictionary(k => k, k => Median(_parts.Select(p => p.GetValueOrDefault(k)))), Median(_copyMs), _copied, Interlocked.Read(ref _peak),
        _card?.Pool.PeakBytes ?? 0, Median(_waitMs));

    public static double Median(IEnumerable<double> values)
    {
        double[] sorted = [.. values.Order()];
        return sorted.Length == 0 ? 0 : (sorted[(sorted.Length - 1) / 2] + sorted[sorted.Length / 2]) / 2;
    }

    /// <summary>A stream whose copies count.</summary>
    public void Watch(ExpertStream stream)
    {
        _streams.Add(stream);
        stream.IsTimed = true;
    }

    /// <summary>What the last step did and when, of <see cref="StartTrace"/>.</summary>
    public IReadOnlyList<TraceSpan> Trace => _trace;

    /// <summary>Waits for the card.</summary>
    public void Settle() => _card?.Compute.Synchronize();

    /// <summary>The next step's parts and copies are kept with their times from now on, of a card at rest.</summary>
    public void StartTrace()
    {
        _trace.Clear();
        if (_card is null) return;
        _began = new CudaEvent(_card, timing: true);
        _began.Record(_card.Compute);
        _beganTicks = Stopwatch.GetTimestamp();
    }

    /// <summary>What is queued from now on belongs to this part; an empty name: to none.</summary>
    /// <param name="detail">For a trace: the layer and the part of the window.</param>
    public void Begin(string name, string detail = "")
    {
        CudaEvent? mark = null;
        if (_card is not null)
        {
            mark = new CudaEvent(_card, timing: true);
            mark.Record(_card.Compute);
        }
        _marks.Add((name, detail, mark, Stopwatch.GetTimestamp()));
    }

    /// <summary>Closes a step; one of the warm-up leaves no figures.</summary>
    public void EndStep(bool keep)
    {
        var sums = new Dictionary<string, double>();
        for (var i = 0; i + 1 < _marks.Count; i++)
        {
            var ((name, detail, from, started), (_, _, to, ended)) = (_marks[i], _marks[i + 1]);
            if (name.Length == 0) continue;
            if (_began is not null)
            {
                var what = $"{name} {detail}".Trim();
                _trace.Add(new TraceSpan("compute", what, from!.Since(_began), to!.Since(_began)));
                _trace.Add(new TraceSpan("host", what, Stopwatch.GetElapsedTime(_beganTicks, started).TotalMilliseconds,
                    Stopwatch.GetElapsedTime(_beganTicks, ended).TotalMilliseconds));
            }
            sums[name] = sums.GetValueOrDefault(name) + (from is null ? Stopwatch.GetElapsedTime(started, ended).TotalMilliseconds : to!.Since(from));
        }
        foreach (var (_, _, mark, _) in _marks) mark?.Dispose();
        _marks.Clear();
        Action<CudaEvent, CudaEvent>? Keep(string lane, string what) => _began is not { } began ? null
            : (from, to) => _trace.Add(new TraceSpan(lane, what, from.Since(began), to.Since(began)));
        var copyMs = _streams.Sum(s => s.TakeCopyTime(Keep("bus", "copy")));
        var waitMs = _streams.Sum(s => s.TakeWaitTime(Keep("waits", "for a copy")));
        var copied = _streams.Sum(s => s.CopiedBytes) - _copiedBefore;
        _began?.Dispose();
        _began = null;
        _copiedBefore += copied;
        if (!keep) return;
        _parts.Add(sums);
        _copyMs.Add(copyMs);
        _waitMs.Add(waitMs);
        _copied = copied;
    }

    /// <summary>Figures of what is measured from now on.</summary>
    public void Reset()
    {
        _parts.Clear();
        _copyMs.Clear();
        _waitMs.Clear();
        Interlocked.Exchange(ref _peak, 0);
    }

    public void Dispose()
    {
        _stop = true;
        _sampler?.Join();
    }

    private void Sample()
    {
        while (!_stop)
        {
            var used = _card!.TotalBytes - _card.FreeBytes;
            if (used > _peak) Interlocked.Exchange(ref _peak, used);
            Thread.Sleep(10);
        }
    }
}
