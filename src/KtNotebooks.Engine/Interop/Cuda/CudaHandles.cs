using System.Runtime.InteropServices;

using static KtNotebooks.Interop.Cuda.Driver;

namespace KtNotebooks.Interop.Cuda;

/// <summary>An ordered queue of work on one card. Does not wait for the legacy default stream.</summary>
public sealed unsafe class CudaStream : SafeHandle
{
    private const uint NonBlocking = 1;
    private readonly CudaDevice _device;

    internal CudaStream(CudaDevice device)
        : base(0, ownsHandle: true)
    {
        _device = device;
        device.Use();
        nint stream;
        cuStreamCreate(&stream, NonBlocking).Ok();
        SetHandle(stream);
    }

    public override bool IsInvalid => handle == 0;

    internal nint Pointer => handle;

    /// <summary>Blocks the calling thread until all work queued so far is done.</summary>
    public void Synchronize()
    {
        if (_device.IsLost) return;
        _device.RefuseInRecording("waiting for a stream");
        _device.Use();
        cuStreamSynchronize(handle).Ok();
    }

    /// <summary>Work queued here from now on starts after the event; the calling thread does not wait.</summary>
    public void Wait(CudaEvent after)
    {
        ArgumentNullException.ThrowIfNull(after);
        if (_device.IsLost) return;
        _device.RefuseInRecording("waiting for another stream");
        _device.Use();
        cuStreamWaitEvent(handle, after.Pointer, 0).Ok();
    }

    protected override bool ReleaseHandle() => cuStreamDestroy_v2(handle) == CuResult.Success;
}

/// <summary>A mark in a stream: another stream may wait for it, or two of them give the time between.</summary>
public sealed unsafe class CudaEvent : SafeHandle
{
    private const uint DisableTiming = 2;
    private readonly CudaDevice _device;

    /// <param name="device">The card.</param>
    /// <param name="timing">For <see cref="Since"/>.</param>
    public CudaEvent(CudaDevice device, bool timing = false)
        : base(0, ownsHandle: true)
    {
        ArgumentNullException.ThrowIfNull(device);
        _device = device;
        device.Use();
        nint made;
        cuEventCreate(&made, timing ? 0 : DisableTiming).Ok();
        SetHandle(made);
    }

    public override bool IsInvalid => handle == 0;

    internal nint Pointer => handle;

    public void Record(CudaStream stream)
    {
        ArgumentNullException.ThrowIfNull(stream);
        if (_device.IsLost) return;
        _device.RefuseInRecording("a mark for another stream");
        _device.Use();
        cuEventRecord(handle, stream.Pointer).Ok();
    }

    /// <summary>Blocks the calling thread until the mark is reached.</summary>
    public void Synchronize()
    {
        if (_device.IsLost) return;
        _device.Use();
        cuEventSynchronize(handle).Ok();
    }

    /// <summary>Is the work before the mark done? Does not wait.</summary>
    public bool IsReached
    {
        get
        {
            _device.Use();
            var status = cuEventQuery(handle);
            if (status != CuResult.NotReady) status.Ok(nameof(cuEventQuery));
            return status == CuResult.Success;
        }
    }

    /// <summary>Milliseconds from <paramref name="start"/> to this event; waits for this one.</summary>
    public float Since(CudaEvent start)
    {
        ArgumentNullException.ThrowIfNull(start);
        _device.Use();
        cuEventSynchronize(handle).Ok();
        float milliseconds;
        cuEventElapsedTime(&milliseconds, start.handle, handle).Ok();
        return milliseconds;
    }

    protected override bool ReleaseHandle() => cuEventDestroy_v2(handle) == CuResult.Success;
}

/// <summary>Loaded machine code of one compiled program.</summary>
internal sealed unsafe class CudaModule : SafeHandle
{
    public CudaModule(CudaDevice device, ReadOnlySpan<byte> image)
        : base(0, ownsHandle: true)
    {
        device.Use();
        nint module;
        fixed (byte* p = image) cuModuleLoadData(&module, p).Ok();
        SetHandle(module);
    }

    public override bool IsInvalid => handle == 0;

    public nint Function(string name)
    {
        var text = stackalloc byte[name.Length + 1];
        for (var i = 0; i < name.Length; i++) text[i] = (byte)name[i];
        text[name.Length] = 0;
        nint function;
        cuModuleGetFunction(&function, handle, text).Ok();
        return function;
    }

    protected override bool ReleaseHandle() => cuModuleUnload(handle) == CuResult.Success;
}
