namespace KtNotebooks.Weights;

/// <summary>
/// Runs the pieces of a file's work on some threads, each with memory of its own, in order of the pieces, so that reading and writing go nearly straight
/// through the files.
/// </summary>
internal static class ShardWork
{
    /// <summary>The same without memory.</summary>
    public static void Run(int threads, long pieces, Action<long> body, CancellationToken cancel) =>
        Run(threads, pieces, () => Nothing.Instance, (piece, _) => body(piece), cancel);

    /// <param name="threads">How many.</param>
    /// <param name="pieces">Number of pieces.</param>
    /// <param name="memory">Made once a thread.</param>
    /// <param name="body">Called for each piece with the thread's memory.</param>
    /// <exception cref="OperationCanceledException">Cancelled between two pieces.</exception>
    public static void Run<T>(int threads, long pieces, Func<T> memory, Action<long, T> body, CancellationToken cancel)
        where T : IDisposable
    {
        long next = -1;
        var failed = false;
        var tasks = Enumerable.Range(0, (int)Math.Clamp(pieces, 1, threads)).Select(_ => Task.Factory.StartNew(
            () =>
            {
                using var own = memory();
                while (!Volatile.Read(ref failed) && Interlocked.Increment(ref next) is var piece && piece < pieces)
                {
                    try
                    {
                        cancel.ThrowIfCancellationRequested();
                        body(piece, own);
                    }
                    catch
                    {
                        Volatile.Write(ref failed, true); // the others need not go on
                        throw;
                    }
                }
            },
            CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default)).ToArray();
        try
        {
            Task.WaitAll(tasks, CancellationToken.None);
        }
        catch (AggregateException error)
        {
            System.Runtime.ExceptionServices.ExceptionDispatchInfo.Throw(error.Flatten().InnerExceptions[0]);
        }
    }

    private sealed class Nothing : IDisposable
    {
        public static Nothing Instance { get; } = new();

        public void Dispose()
        {
        }
    }
}
