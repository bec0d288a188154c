using System.Runtime.CompilerServices;
using System.Runtime.ExceptionServices;
using System.Runtime.InteropServices;

namespace KtNotebooks.Interop;

/// <summary>
/// Managed loops on the one thread pool of the process, that of the native kernels (pool.h): `cpu_infer` threads, pinned where they are all there are. The
/// caller runs tasks too, as managed code of its own: a notebook's cell may be aborted there, which below native frames would end the process. Without
/// the native library .NET's pool takes its place.
/// </summary>
internal static unsafe class CpuLoop
{
    /// <summary>
    /// body(i) for i in [0, count), in any order, on any thread; a loop inside a body runs in that body's thread. The first exception of a body ends the loop
    /// and is thrown here. What flows with the caller (<see cref="AsyncLocal{T}"/>) is seen by all.
    /// </summary>
    public static void For(long count, Action<long> body)
    {
        if (count <= 1 || Cpu.Threads == 1)
        {
            for (long i = 0; i < count; i++) body(i);
            return;
        }
        if (!Cpu.IsNative)
        {
            Parallel.For(0, count, new ParallelOptions { MaxDegreeOfParallelism = Cpu.Threads }, body);
            return;
        }
        var work = new Work(body);
        void* job = null;
        GCHandle handle = default;
        try
        {
            try
            {
            }
            finally // no abort between a job that began and its end
            {
                handle = GCHandle.Alloc(work);
                job = Native.kt_begin(count, &Run, (void*)GCHandle.ToIntPtr(handle));
            }
            if (job is null)
                for (long i = 0; i < count; i++) body(i);
            else
                for (long i; !work.Failed && (i = Native.kt_next(job)) >= 0;) body(i);
        }
        catch
        {
            work.Stop();
            throw;
        }
        finally
        {
            if (job is not null) Native.kt_end(job);
            if (handle.IsAllocated) handle.Free();
        }
        work.Throw();
    }

    [UnmanagedCallersOnly(CallConvs = [])]
    private static void Run(void* context, long index) => Unsafe.As<Work>(GCHandle.FromIntPtr((nint)context).Target!).Run(index);

    private sealed class Work(Action<long> body)
    {
        private readonly ExecutionContext? _flow = ExecutionContext.Capture();
        private ExceptionDispatchInfo? _failure;
        private volatile bool _failed;

        /// <summary>Nobody begins a further task.</summary>
        public bool Failed => _failed;

        public void Stop() => _failed = true;

        /// <summary>On a thread of the pool.</summary>
        public void Run(long index)
        {
            if (_failed) return;
            try
            {
                if (_flow is null) body(index);
                else ExecutionContext.Run(_flow, _ => body(index), null);
            }
            catch (Exception error)
            {
                Interlocked.CompareExchange(ref _failure, ExceptionDispatchInfo.Capture(error), null);
                _failed = true;
            }
        }

        public void Throw() => _failure?.Throw();
    }
}
