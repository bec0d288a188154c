using System.ComponentModel;
using System.Diagnostics;
using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;

namespace KtNotebooks.Jupyter;

/// <summary>A function called itself until the stack was nearly full. .NET itself would end the process.</summary>
public sealed class EndlessRecursionException : Exception
{
    public EndlessRecursionException() : this(null) { }
    public EndlessRecursionException(string? function)
        : base($"{function ?? "a function"} calls itself too deep: the stack is full; does it end for every input?") { }
    public EndlessRecursionException(string message, Exception inner) : base(message, inner) { }

    /// <summary>The innermost call. The whole trace would have a hundred thousand lines.</summary>
    internal StackFrame? Innermost { get; init; }
}

/// <summary>Called by the code of cells; see RecursionGuards. Public because cells are assemblies of their own.</summary>
[EditorBrowsable(EditorBrowsableState.Never)]
public static class CellRecursion
{
    /// <summary>
    /// Of stack between the outermost check and the innermost of async functions: an exception is thrown again by each of them, with a trace that has grown,
    /// which takes the square of their number.
    /// </summary>
    private const long AsyncBytes = 1 << 20;

    [ThreadStatic]
    private static nuint _top;

    /// <summary>Throws when the stack is nearly full.</summary>
    /// <param name="local">
    /// A local of the caller. Its address keeps the JIT from making a loop of a function whose last act is to call itself, as it does once the function has
    /// run often enough: endless recursion would then never fill the stack, and the cell would run for ever, on some days.
    /// </param>
    [MethodImpl(MethodImplOptions.NoInlining)]
    public static void Check(out byte local)
    {
        local = 0;
        if (!RuntimeHelpers.TryEnsureSufficientExecutionStack()) Full();
    }

    /// <summary>The same in an async function.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    public static unsafe void CheckAsync()
    {
        byte local;
        var here = (nuint)(&local);
        if (here > _top) _top = here;
        if (_top - here > AsyncBytes || !RuntimeHelpers.TryEnsureSufficientExecutionStack()) Full();
    }

    [DoesNotReturn]
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void Full()
    {
        var frame = new StackFrame(2, needFileInfo: true);
        throw new EndlessRecursionException(Cells.CellErrors.Method(frame)) { Innermost = frame };
    }
}
