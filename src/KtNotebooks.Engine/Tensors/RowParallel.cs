using KtNotebooks.Interop;

namespace KtNotebooks.Tensors;

/// <summary>Splits rows over the processors in equal, fixed ranges, so that the same work always gives the same bits.</summary>
public static class RowParallel
{
    /// <summary>Work below this many elements is not worth waking another thread.</summary>
    private const long MinElements = 1 << 14;

    /// <summary>Calls body(first, last) over [0, rows) in at most <see cref="Cpu.Threads"/> ranges, on the threads of <see cref="CpuLoop"/>.</summary>
    public static void For(long rows, long elementsPerRow, Action<long, long> body)
    {
        ArgumentNullException.ThrowIfNull(body);
        var parts = (int)Math.Min(Math.Min(Cpu.Threads, rows), Math.Max(1, rows * elementsPerRow / MinElements));
        if (parts <= 1)
        {
            if (rows > 0) body(0, rows);
            return;
        }
        CpuLoop.For(parts, part => body(rows * part / parts, rows * (part + 1) / parts));
    }
}
