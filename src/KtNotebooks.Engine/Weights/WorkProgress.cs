using System.Diagnostics;

namespace KtNotebooks.Weights;

/// <summary>How far a long piece of work, on files for the most part, has come.</summary>
/// <param name="Done">Bytes written (or taken) so far, those of earlier runs left out.</param>
/// <param name="Total">Bytes of this run.</param>
/// <param name="Unit">What is counted in place of bytes, as tokens; null: bytes.</param>
public readonly record struct WorkProgress(string What, long Done, long Total, TimeSpan Elapsed, string? Unit = null)
{
    /// <summary>Bytes, or what else is counted, a second.</summary>
    public double PerSecond => Done / Math.Max(Elapsed.TotalSeconds, 1e-3);

    /// <summary>What is left, at the speed so far.</summary>
    public TimeSpan Remaining => Done == 0 ? TimeSpan.Zero : Elapsed * ((double)(Total - Done) / Done);
}

/// <summary>Counts bytes, or units, from several threads and reports at most ten times a second, and at the end.</summary>
public sealed class WorkMeter(long total, Action<WorkProgress>? report, string? unit = null)
{
    private readonly Stopwatch _watch = Stopwatch.StartNew();
    private readonly Lock _gate = new();
    private TimeSpan _next;
    private long _done;

    public TimeSpan Elapsed => _watch.Elapsed;

    public void Add(string what, long bytes)
    {
        var done = Interlocked.Add(ref _done, bytes);
        if (report is null) return;
        lock (_gate)
        {
            if (_watch.Elapsed < _next && done < total) return;
            _next = _watch.Elapsed + TimeSpan.FromMilliseconds(100);
            report(new WorkProgress(what, done, total, _watch.Elapsed, unit));
        }
    }
}
