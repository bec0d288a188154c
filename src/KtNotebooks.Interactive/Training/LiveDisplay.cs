namespace KtNotebooks.Interactive;

/// <summary>
/// Shows something once and then replaces it in place while it changes: at most once every interval (a quarter of a second: front ends cut off floods of
/// messages), and the last state always. Drawing happens on a timer thread, so that the one who calls <see cref="Changed"/>, a training loop, never waits for
/// it. Outside a notebook only the final text is printed.
/// </summary>
public sealed class LiveDisplay : IDisposable
{
    private readonly Func<bool, MimeBundle> _draw;
    private readonly IDisplayHost? _host;
    private readonly string _id = "kt-" + Guid.NewGuid().ToString("N");
    private readonly TimeSpan _interval;
    private readonly TimeProvider _time;
    private readonly Lock _sending = new();
    private readonly ITimer? _timer;
    private long _lastSent;
    private int _pending; // 1 while the timer is set
    private bool _closed;

    /// <param name="draw">
    /// The current state; called with true for the last one (draw it whole) and false for those in between (draw it quickly), never by two threads at once.
    /// </param>
    /// <param name="interval">The shortest time between two updates; null is 250 ms.</param>
    /// <param name="host">Where to show it; null takes <see cref="Display.Host"/>.</param>
    /// <param name="time">The clock; null is the system's.</param>
    public LiveDisplay(Func<bool, MimeBundle> draw, TimeSpan? interval = null, IDisplayHost? host = null, TimeProvider? time = null)
    {
        ArgumentNullException.ThrowIfNull(draw);
        _draw = draw;
        _host = host ?? Display.Host;
        _interval = interval ?? TimeSpan.FromMilliseconds(250);
        _time = time ?? TimeProvider.System;
        _lastSent = _time.GetTimestamp();
        if (_host is null) return;
        _host.Show(draw(false), _id);
        // The timer carries this thread's execution context: a kernel finds the cell that the output belongs to.
        _timer = _time.CreateTimer(_ => Send(), null, Timeout.InfiniteTimeSpan, Timeout.InfiniteTimeSpan);
    }

    /// <summary>What the host threw at an update; no further ones are tried then, the work goes on without pictures.</summary>
    public Exception? Failure { get; private set; }

    /// <summary>Says that the state changed. Returns at once.</summary>
    public void Changed()
    {
        if (_timer is null || Interlocked.Exchange(ref _pending, 1) == 1) return;
        var wait = _interval - _time.GetElapsedTime(Volatile.Read(ref _lastSent));
        _timer.Change(wait > TimeSpan.Zero ? wait : TimeSpan.Zero, Timeout.InfiniteTimeSpan);
    }

    private void Send()
    {
        lock (_sending)
        {
            if (_closed || Failure is not null) return;
            // Cleared before drawing: a change that comes while we draw gets its own update.
            Volatile.Write(ref _pending, 0);
            Volatile.Write(ref _lastSent, _time.GetTimestamp());
            try
            {
                _host!.Update(_draw(false), _id);
            }
#pragma warning disable CA1031 // An exception on a timer thread would end the process, and with it the training.
            catch (Exception e)
#pragma warning restore CA1031
            {
                Failure = e;
            }
        }
    }

    /// <summary>Sends the last state, whole.</summary>
    public void Dispose()
    {
        lock (_sending)
        {
            if (_closed) return;
            _closed = true;
            _timer?.Dispose();
            if (_host is null) Console.WriteLine(_draw(true).Text);
            else if (Failure is null) _host.Update(_draw(true), _id);
        }
    }
}
