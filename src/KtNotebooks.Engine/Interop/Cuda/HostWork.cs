using System.Runtime.CompilerServices;
using System.Runtime.ExceptionServices;
using System.Runtime.InteropServices;

using static KtNotebooks.Interop.Cuda.Driver;

namespace KtNotebooks.Interop.Cuda;

/// <summary>
/// Managed code as a node of a recorded graph: the driver calls it on a thread of its own when the work before it is done, and goes on when it returns. It
/// must not call the driver. What it throws is kept for <see cref="ThrowIfFailed"/>; the nodes after it run all the same.
/// </summary>
internal sealed unsafe class HostWork : IDisposable
{
    private readonly Action _work;
    private GCHandle _handle;
    private ExceptionDispatchInfo? _failure;

    public HostWork(Action work)
    {
        _work = work;
        _handle = GCHandle.Alloc(this);
    }

    /// <summary>Its place in the order of a stream that is being recorded.</summary>
    public void Queue(CudaStream stream) => cuLaunchHostFunc(stream.Pointer, &Run, GCHandle.ToIntPtr(_handle)).Ok();

    /// <summary>After the graph has run.</summary>
    public void ThrowIfFailed() => Interlocked.Exchange(ref _failure, null)?.Throw();

    /// <summary>No graph runs it any more.</summary>
    public void Dispose() => _handle.Free();

    [UnmanagedCallersOnly(CallConvs = [typeof(CallConvCdecl)])]
    private static void Run(nint self)
    {
        var me = (HostWork)GCHandle.FromIntPtr(self).Target!;
        try
        {
            me._work();
        }
        catch (Exception error)
        {
            me._failure = ExceptionDispatchInfo.Capture(error);
        }
    }
}
