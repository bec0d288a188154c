using System.Collections.Concurrent;
using System.Runtime;
using System.Runtime.ExceptionServices;

namespace KtNotebooks.Jupyter.Cells;

/// <summary>The user stopped the cell. Its name is what the notebook shows.</summary>
public sealed class InterruptedException : OperationCanceledException
{
    public InterruptedException() : base("the cell was interrupted; variables keep their values") { }
    public InterruptedException(string message) : base(message) { }
    public InterruptedException(string message, Exception inner) : base(message, inner) { }
}

/// <summary>
/// The one thread that runs user code, and the way to stop it. A token alone stops nothing in .NET, so an interrupt escalates:
/// 1. the cell's token is cancelled (engine loops and well-behaved code end here);
/// 2. after a grace (80 ms, or 3 s for code that has asked for the token) the runtime aborts the thread (ControlledExecution);
/// 3. while the thread sits in a managed wait, which an abort cannot end, Thread.Interrupt wakes it.
/// The next cell's code waits until loops that this one left on other threads have come to their end too (LeftLoops).
/// Only code that blocks inside native calls resists. Kernel-owned queues are changed in finally blocks only, which aborts respect.
/// </summary>
internal sealed class CellThread : IDisposable
{
    private const int GraceMilliseconds = 80, PoliteGraceMilliseconds = 3000, PulseMilliseconds = 100, GiveUpMilliseconds = 5000;
    private const int StackBytes = 16 << 20;

    private readonly BlockingCollection<Action> _jobs = [];
    private readonly Thread _thread;
    private readonly Lock _gate = new();
    private readonly ManualResetEventSlim _loopsEnded = new(true);
    private Run? _running;
    private Cell? _cell;

    /// <summary>One guarded stretch of user code.</summary>
    private sealed class Run(Cell cell)
    {
        public Cell Cell { get; } = cell;
        public CancellationTokenSource Abort { get; } = new();
        public ManualResetEventSlim Ended { get; } = new();
        public bool Interrupting { get; set; }

        /// <summary>The thread is in user code, where Thread.Interrupt may hit it.</summary>
        public bool InUserCode { get; set; }
    }

    internal CellThread()
    {
        _thread = new Thread(() => { foreach (var job in _jobs.GetConsumingEnumerable()) job(); }, StackBytes) { IsBackground = true, Name = "cell" };
        _thread.Start();
    }

    /// <summary>Runs kernel work (compiling, loading) on the cell thread, after what was posted before.</summary>
    internal Task<T> Post<T>(Func<T> job)
    {
        var done = new TaskCompletionSource<T>(TaskCreationOptions.RunContinuationsAsynchronously);
        _jobs.Add(() =>
        {
            try
            {
                done.SetResult(job());
            }
            catch (Exception e)
            {
                done.SetException(e);
            }
        });
        return done.Task;
    }

    /// <summary>The thread now works for a cell: compiling it, running it.</summary>
    internal void Enter(Cell cell)
    {
        lock (_gate) _cell = cell;
    }

    internal void Leave()
    {
        lock (_gate)
        {
            _cell = null;
            if (_loopsEnded.IsSet) CellInterrupt.Set(false);
        }
    }

    /// <summary>
    /// Runs user code on the calling cell thread until its task has ended, interruptibly.
    /// Throws what the code threw, or <see cref="InterruptedException"/>.
    /// </summary>
    internal T Guard<T>(Cell cell, Func<Task<T>> code)
    {
        var run = new Run(cell);
        var pump = new CellPump();
        Task<T>? task = null;
        ExceptionDispatchInfo? failure = null;
        bool asked;
        Uninterrupted(_loopsEnded.Wait);
        lock (_gate)
        {
            _running = run;
            asked = cell.StopAsked;
        }
        if (asked) Interrupt();
        SynchronizationContext.SetSynchronizationContext(pump);
        try
        {
#pragma warning disable SYSLIB0046 // Aborting is "obsolete" because it may hit any line of the code; that is what a user who presses stop asks for.
            ControlledExecution.Run(
                () =>
                {
                    try
                    {
                        Uninterrupted(() => { lock (_gate) run.InUserCode = true; });
                        pump.RunUntil(task = code());
                    }
                    finally
                    {
                        LeaveUserCode(run);
                    }
                },
                run.Abort.Token);
#pragma warning restore SYSLIB0046
        }
        catch (Exception e)
        {
            failure = ExceptionDispatchInfo.Capture(e);
        }
        finally
        {
            SynchronizationContext.SetSynchronizationContext(null);
            End(run);
            pump.Close();
        }
        if (task is { IsCompletedSuccessfully: true })
        {
            // The cell's own code ended well: what failed is an async void method that it had started, whose exceptions come through the pump.
            if (failure is not null && !run.Interrupting) CellFailures.Show(failure.SourceException);
            return task.Result;
        }
        if (run.Abort.IsCancellationRequested) throw new InterruptedException();
        var error = failure?.SourceException ?? task?.Exception?.InnerException;
        if (error is OperationCanceledException or null && cell.KernelCancel.IsCancellationRequested) throw new InterruptedException();
        failure?.Throw();
        return task!.GetAwaiter().GetResult();
    }

    /// <summary>
    /// Stops what the thread does for a cell: its code as the class says, the kernel's own work for it (compiling, restoring packages) by the token.
    /// Returns at once; a second call during an interrupt changes nothing.
    /// </summary>
    internal void Interrupt()
    {
        lock (_gate)
        {
            if (_running is null && _cell is { StopAsked: false } cell)
            {
                cell.StopAsked = true;
                Start("interrupt: work", () => EscalateWork(cell));
            }
            if (_running is not { Interrupting: false } run) return;
            run.Interrupting = run.Cell.StopAsked = true;
            Start(LeftLoops.Name, () => Escalate(run));
        }
    }

    public void Dispose() => _jobs.CompleteAdding();

    /// <summary>Never the pool's threads, which may all be spinning in the cell's own tasks.</summary>
    private static void Start(string name, Action action) => new Thread(() => action()) { IsBackground = true, Name = name }.Start();

    /// <summary>On a thread of its own: callbacks of the user's token, and the runtime's abort, may both block.</summary>
    private static void Ask(Cell cell) => Start("interrupt: ask", () => Swallow(cell.AskToStop));

    /// <summary>The compiler waits for the pool. Where loops of earlier cells have taken all of it, they end, as those of the cell itself would.</summary>
    private void EscalateWork(Cell cell)
    {
        Ask(cell);
        Thread.Sleep(GraceMilliseconds);
        lock (_gate)
        {
            if (_cell == cell && _running is null) CellInterrupt.Set(true);
        }
    }

    private void Escalate(Run run)
    {
        Ask(run.Cell);
        if (run.Ended.Wait(run.Cell.WatchesCancel ? PoliteGraceMilliseconds : GraceMilliseconds)) return;
        lock (_gate)
        {
            if (_running != run) return;
            CellInterrupt.Set(true);
            _loopsEnded.Reset();
        }
        Start("interrupt: abort", () => Swallow(run.Abort.Cancel));
        var reported = false;
        for (var waited = 0; !run.Ended.Wait(PulseMilliseconds); waited += PulseMilliseconds)
        {
            lock (_gate)
            {
                if (run.InUserCode && _thread.ThreadState.HasFlag(ThreadState.WaitSleepJoin)) _thread.Interrupt();
            }
            if (waited < GiveUpMilliseconds || reported) continue;
            reported = true;
            run.Cell.Output.Write("stderr", "[kernel] the cell is still inside native code, which cannot be stopped; wait for it or restart the kernel\n");
        }
        LeftLoops.WaitForEnd();
        lock (_gate)
        {
            CellInterrupt.Set(false);
            _loopsEnded.Set();
        }
    }

    /// <summary>
    /// After this no Thread.Interrupt comes any more, and one that came late has been taken up. It must happen inside ControlledExecution.Run: that method
    /// waits, on its way out, for the abort to be delivered and takes it back, and an interrupt of that wait would leave the abort to hit the kernel's own
    /// code later (seen under load: the cell thread was gone).
    /// </summary>
    private void LeaveUserCode(Run run)
    {
        Uninterrupted(() => { lock (_gate) run.InUserCode = false; });
        if (run.Interrupting) Uninterrupted(() => Thread.Sleep(1));
    }

    private void End(Run run)
    {
        Uninterrupted(() =>
        {
            lock (_gate)
            {
                _running = null;
                run.InUserCode = false; // also where the abort came before the code's first line
            }
        });
        run.Ended.Set();
        if (run.Interrupting) Uninterrupted(() => Thread.Sleep(1));
    }

    /// <summary>Does something short, again if a Thread.Interrupt breaks its wait.</summary>
    private static void Uninterrupted(Action action)
    {
        while (true)
        {
            try
            {
                action();
                return;
            }
            catch (ThreadInterruptedException)
            {
            }
        }
    }

    private static void Swallow(Action action)
    {
        try
        {
            action();
        }
        catch (AggregateException e)
        {
            Console.Error.WriteLine($"[kernel] a cancellation callback failed: {e.InnerException?.Message}");
        }
        catch (ObjectDisposedException)
        {
        }
    }
}
