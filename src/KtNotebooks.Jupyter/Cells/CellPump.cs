namespace KtNotebooks.Jupyter.Cells;

/// <summary>
/// The synchronization context of a running cell: continuations of its awaits run on the cell thread, one after another.
/// It is what makes `await Task.Delay(…)` interruptible: the thread waits here, in managed code, and not in a pool.
/// </summary>
internal sealed class CellPump : SynchronizationContext
{
    private readonly Queue<(SendOrPostCallback Callback, object? State)> _work = [];
    private bool _closed;

    public override void Post(SendOrPostCallback d, object? state)
    {
        lock (_work)
        {
            if (!_closed)
            {
                _work.Enqueue((d, state));
                Monitor.Pulse(_work);
                return;
            }
        }
        // A background task that outlives its cell goes on in the thread pool.
        ThreadPool.QueueUserWorkItem(static w => w.d(w.state), (d, state), preferLocal: false);
    }

    public override void Send(SendOrPostCallback d, object? state) =>
        throw new NotSupportedException("[cell] a synchronous Send to the cell thread would deadlock; use Post");

    public override SynchronizationContext CreateCopy() => this;

    internal void RunUntil(Task task)
    {
        task.ContinueWith(static (_, pump) => ((CellPump)pump!).Wake(), this, CancellationToken.None, TaskContinuationOptions.ExecuteSynchronously,
            TaskScheduler.Default);
        while (true)
        {
            (SendOrPostCallback Callback, object? State) next;
            lock (_work)
            {
                while (_work.Count == 0 && !task.IsCompleted) Monitor.Wait(_work);
                if (_work.Count == 0) return;
                next = _work.Dequeue();
            }
            next.Callback(next.State);
        }
    }

    internal void Close()
    {
        (SendOrPostCallback Callback, object? State)[] rest;
        lock (_work)
        {
            _closed = true;
            rest = [.. _work];
            _work.Clear();
        }
        foreach (var (callback, state) in rest) Post(callback, state);
    }

    private void Wake()
    {
        lock (_work) Monitor.Pulse(_work);
    }
}
