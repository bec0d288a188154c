using System.Runtime.ExceptionServices;

namespace KtNotebooks.Tensors;

/// <summary>Splits rows over the processors in equal, fixed ranges, so that the same work always gives the same bits.</summary>
public static class RowParallel
{
    /// <summary>Work below this many elements is not worth waking another thread.</summary>
    private const long MinElements = 1 << 14;

    private static int _threads = Environment.ProcessorCount;

    /// <summary>How many ranges work is cut into at most (`cpu_infer`).</summary>
    public static int Threads
    {
        get => _threads;
        set => _threads = Math.Max(1, value);
    }

    /// <summary>Calls body(first, last) over [0, rows) in at most <see cref="Threads"/> ranges.</summary>
    public static void For(long rows, long elementsPerRow, Action<long, long> body)
    {
        ArgumentNullException.ThrowIfNull(body);
        var parts = (int)Math.Min(Math.Min(_threads, rows), Math.Max(1, rows * elementsPerRow / MinElements));
        if (parts <= 1)
        {
            if (rows > 0) body(0, rows);
            return;
        }
        try
        {
            Parallel.For(0, parts, part => body(rows * part / parts, rows * (part + 1) / parts));
        }
        catch (AggregateException error) when (error.Flatten().InnerExceptions is [var first, ..])
        {
            ExceptionDispatchInfo.Throw(first); // the others say the same, or what follows from it
        }
    }
}
