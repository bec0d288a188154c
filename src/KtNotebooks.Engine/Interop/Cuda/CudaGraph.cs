using System.Runtime.InteropServices;

using static KtNotebooks.Interop.Cuda.Driver;

namespace KtNotebooks.Interop.Cuda;

/// <summary>
/// Work of one card that was recorded once and is queued again as a whole, with one call instead of one a kernel. Its kernels read and write the same
/// addresses every time: what they work in comes from a pool of its own, and what changes between two runs must lie in memory that the caller fills before.
/// Where code on the host belongs into the middle (<see cref="CudaDevice.RecordHostWork"/>) the recording is cut: the thread that launches waits for the
/// piece before, runs the code and queues the next piece. The driver can call the host from inside a graph, but took 0.3 ms for each call on a machine
/// with an H100, and a thread of the sixteen that compute.
/// </summary>
internal sealed class CudaGraph : IDisposable
{
    private readonly CudaDevice _device;
    private readonly IReadOnlyList<Piece> _pieces;
    private readonly IReadOnlyList<IDisposable> _kept;

    private CudaGraph(CudaDevice device, CudaRecording recording) => (_device, _pieces, _kept) = (device, recording.Pieces, recording.Kept);

    /// <summary>Runs <paramref name="work"/> on the calling thread with every kernel recorded and none run. Other threads go on queueing meanwhile.</summary>
    /// <param name="device">The card that all of it is for.</param>
    /// <param name="pool">Where its tensors come from; it must live as long as the graph. Several graphs that never run at once may share one.</param>
    /// <param name="work">What is recorded.</param>
    /// <exception cref="NotRecordableException">It waits for the card, or copies from or to host memory.</exception>
    public static CudaGraph Record(CudaDevice device, CudaPool pool, Action work)
    {
        device.Use();
        using var stream = new CudaStream(device);
        var recording = new CudaRecording(device, stream, pool);
        recording.Begin();
        try
        {
            using (CudaDevice.Record(recording)) work();
        }
        catch
        {
            recording.Drop();
            throw;
        }
        recording.End();
        return new CudaGraph(device, recording);
    }

    /// <summary>Queues all of it on the compute stream, and runs what belongs to the host between on this thread; what that throws ends it.</summary>
    public void Launch()
    {
        foreach (var piece in _pieces)
        {
            if (piece.Before is { } work)
            {
                _device.Compute.Synchronize();
                work();
            }
            piece.Launch(_device);
        }
    }

    public void Dispose()
    {
        foreach (var piece in _pieces) piece.Dispose();
        foreach (var kept in _kept) kept.Dispose();
    }

    /// <summary>What is queued with one call.</summary>
    internal sealed unsafe class Piece : SafeHandle
    {
        public Piece(nint executable, Action? before)
            : base(0, ownsHandle: true)
        {
            SetHandle(executable);
            Before = before;
        }

        /// <summary>Runs on the host, when all that was queued before is over; null: nothing does.</summary>
        public Action? Before { get; }

        public override bool IsInvalid => handle == 0;

        public void Launch(CudaDevice device)
        {
            device.Use();
            cuGraphLaunch(handle, device.Compute.Pointer).Ok();
        }

        protected override bool ReleaseHandle() => cuGraphExecDestroy(handle) == CuResult.Success;
    }
}

/// <summary>Where a recording thread's work and memory go.</summary>
internal sealed unsafe class CudaRecording(CudaDevice device, CudaStream stream, CudaPool pool) : IDisposable
{
    private readonly List<CudaGraph.Piece> _pieces = [];
    private Action? _before;

    public CudaDevice Device => device;

    public CudaStream Stream => stream;

    public CudaPool Pool => pool;

    /// <summary>What was recorded up to now.</summary>
    public IReadOnlyList<CudaGraph.Piece> Pieces => _pieces;

    /// <summary>What the graph needs as long as it is there.</summary>
    public List<IDisposable> Kept { get; } = [];

    public void Begin()
    {
        const int Relaxed = 2;
        cuStreamBeginCapture_v2(stream.Pointer, Relaxed).Ok();
    }

    /// <summary>What comes next waits for this code.</summary>
    public void Cut(Action work)
    {
        End();
        _before = work;
        Begin();
    }

    public void End()
    {
        nint graph, executable;
        cuStreamEndCapture(stream.Pointer, &graph).Ok();
        try
        {
            cuGraphInstantiateWithFlags(&executable, graph, 0).Ok();
        }
        finally
        {
            _ = cuGraphDestroy(graph);
        }
        _pieces.Add(new CudaGraph.Piece(executable, _before));
    }

    /// <summary>Ends a recording that nobody will use.</summary>
    public void Drop()
    {
        nint graph;
        if (cuStreamEndCapture(stream.Pointer, &graph) == CuResult.Success && graph != 0) _ = cuGraphDestroy(graph);
        foreach (var piece in _pieces) piece.Dispose();
        foreach (var kept in Kept) kept.Dispose();
    }

    public void Dispose() => CudaDevice.EndRecording();
}

/// <summary>Something that cannot be recorded and run again: it would happen once.</summary>
internal sealed class NotRecordableException(string what) : InvalidOperationException($"[CudaGraph] {what} cannot be recorded");
