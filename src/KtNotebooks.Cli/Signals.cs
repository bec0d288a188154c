using System.Runtime.InteropServices;

using KtNotebooks.Interop;

namespace KtNotebooks.Cli;

/// <summary>
/// Ctrl-C, SIGTERM and SIGHUP (the terminal is closed): the first one cancels, so that a run saves what it has; the second one ends the program at
/// once, whatever it does. A signal that was ignored when the program began stays ignored: nohup.
/// </summary>
internal sealed class Signals : IDisposable
{
    /// <summary>The exit code of what was stopped.</summary>
    public const int Stopped = 130;

    private const int HangUp = 1;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(2);
    private readonly CancellationTokenSource _stop = new();
    private readonly List<PosixSignalRegistration> _registrations = [];
    private readonly List<int> _terminals = [];
    private int _count;

    public Signals()
    {
        Terminal.Remember();
        if (!Console.IsInputRedirected) _terminals.Add(0);
        if (!Console.IsOutputRedirected) _terminals.Add(1);
        if (!Console.IsErrorRedirected) _terminals.Add(2);
        _registrations.Add(PosixSignalRegistration.Create(PosixSignal.SIGINT, Take));
        _registrations.Add(PosixSignalRegistration.Create(PosixSignal.SIGTERM, Take));
        if (!Terminal.IsIgnored(HangUp)) _registrations.Add(PosixSignalRegistration.Create(PosixSignal.SIGHUP, Take));
    }

    public CancellationToken Token => _stop.Token;

    public void Dispose()
    {
        foreach (var registration in _registrations) registration.Dispose();
        _stop.Dispose();
    }

    private void Take(PosixSignalContext signal)
    {
        signal.Cancel = true;
        if (signal.Signal == PosixSignal.SIGHUP)
        {
            foreach (var descriptor in _terminals) Terminal.Silence(descriptor);
        }
        // A closed terminal often sends its signal twice, from the shell and from the system: that is no impatience.
        else if (Interlocked.Increment(ref _count) > 1)
        {
            Terminal.EndNow(Stopped);
        }
        _ = Task.Run(() => _stop.Cancel()); // what listens runs there, and the next signal is heard meanwhile
        if (signal.Signal == PosixSignal.SIGINT && _terminals.Contains(2)) _ = Say();
    }

    private static async Task Say()
    {
        await Task.Delay(Patience);
        Console.Error.WriteLine("stopping at the next place where nothing is lost; Ctrl-C once more ends at once");
    }
}
