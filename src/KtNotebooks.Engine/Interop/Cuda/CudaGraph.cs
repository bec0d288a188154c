using System.Runtime.InteropServices;

using static KtNotebooks.Interop.Cuda.Driver;

namespace KtNotebooks.Interop.Cuda;

/// <summary>
/// Work of one card that was recorded once and is queued again as a whole, with one call instead of one a kernel. Its kernels read and write the same
/// addresses every time: what they work in comes from a pool of its own, and what changes between two runs must lie in memory that the caller fills before.
/// </summary>
internal sealed unsafe class CudaGraph : SafeHandle
{
    private readonly CudaDevice _device;
    private readonly IReadOnlyList<IDisposable> _kept;

    private CudaGraph(CudaDevice device, nint executable, IReadOnlyList<IDisposable> kept)
        : base(0, ownsHandle: true)
    {
        (_device, _kept) = (device, kept);
        SetHandle(executable);
    }

    public override bool IsInvalid => handle == 0;

    /// <summary>Runs <paramref name="work"/> on the calling thread with every kernel recorded and none run. Other threads go on queueing meanwhile.</summary>
    /// <param name="device">The card that all of it is for.</param>
    /// <param name="pool">Where its tensors come from; it must live as long as the graph. Several graphs that never run at once may share one.</param>
    /// <param name="work">What is recorded.</param>
    /// <exception cref="NotRecordableException">It waits for the card, or copies from or to host memory.</exception>
    public static CudaGraph Record(CudaDevice device, CudaPool pool, Action work)
    {
        const int Relaxed = 2;
        device.Use();
        using var stream = new CudaStream(device);
        var recording = new CudaRecording(device, stream, pool);
        nint graph, executable;
        cuStreamBeginCapture_v2(stream.Pointer, Relaxed).Ok();
        try
        {
            using (CudaDevice.Record(recording)) work();
        }
        catch
        {
            if (cuStreamEndCapture(stream.Pointer, &graph) == CuResult.Success && graph != 0) _ = cuGraphDestroy(graph);
            foreach (var kept in recording.Kept) kept.Dispose();
            throw;
        }
        cuStreamEndCapture(stream.Pointer, &graph).Ok();
        try
        {
            cuGraphInstantiateWithFlags(&executable, graph, 0).Ok();
        }
        finally
        {
            _ = cuGraphDestroy(graph);
        }
        return new CudaGraph(device, executable, recording.Kept);
    }

    /// <summary>Queues all of it on the compute stream.</summary>
    public void Launch()
    {
        _device.Use();
        cuGraphLaunch(handle, _device.Compute.Pointer).Ok();
    }

    /// <summary>Whether code on the host is a part of it.</summary>
    public bool UsesHost => _kept.Any(k => k is HostWork);

    /// <summary>After all that was launched has run: throws what code on the host threw in it.</summary>
    public void ThrowIfFailed()
    {
        foreach (var work in _kept.OfType<HostWork>()) work.ThrowIfFailed();
    }

    protected override void Dispose(bool disposing)
    {
        base.Dispose(disposing);
        if (!disposing) return;
        foreach (var kept in _kept) kept.Dispose();
    }

    protected override bool ReleaseHandle() => cuGraphExecDestroy(handle) == CuResult.Success;
}

/// <summary>Where a recording thread's work and memory go.</summary>
internal sealed class CudaRecording(CudaDevice device, CudaStream stream, CudaPool pool) : IDisposable
{
    public CudaDevice Device => device;

    public CudaStream Stream => stream;

    public CudaPool Pool => pool;

    /// <summary>What the graph needs as long as it is there.</summary>
    public List<IDisposable> Kept { get; } = [];

    public void Dispose() => CudaDevice.EndRecording();
}

/// <summary>Something that cannot be recorded and run again: it would happen once.</summary>
internal sealed class NotRecordableException(string what) : InvalidOperationException($"[CudaGraph] {what} cannot be recorded");
