using System.Collections.Concurrent;

namespace KtNotebooks.Experts;

/// <summary>
/// Threads that wait for long work between two pieces of it: a split visit has one a layer, and a thread made anew each time costs more than its hand-over. As
/// many as work at once (two cards, two runs) are made, all in the background; each hands its work back as a task.
/// The caller's tape stays with the caller: what works here makes and frees its own tensors.
/// </summary>
internal static class HelperThread
{
    private static readonly ConcurrentBag<Worker> Idle = [];

    public static Task Run(Action work)
    {
        var done = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        if (!Idle.TryTake(out var worker)) worker = new Worker();
        worker.Start(() =>
        {
            try
            {
                work();
            }
            catch (Exception error)
            {
                return () => done.SetException(error);
            }
            return done.SetResult;
        });
        return done.Task;
    }

    private sealed class Worker
    {
        private readonly object _gate = new();
        private Func<Action>? _work;

        public Worker() => new Thread(Loop) { IsBackground = true, Name = "kt helper" }.UnsafeStart();

        public void Start(Func<Action> work)
        {
            lock (_gate)
            {
                _work = work;
                Monitor.Pulse(_gate);
            }
        }

        private void Loop()
        {
            while (true)
            {
                Func<Action> work;
                lock (_gate)
                {
                    while (_work is null) Monitor.Wait(_gate);
                    (work, _work) = (_work, null);
                }
                var tell = work();
                Idle.Add(this); // before it is told: who waits for it finds this thread again
                tell();
            }
        }
    }
}
