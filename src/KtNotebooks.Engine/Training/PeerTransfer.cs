using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Training;

/// <summary>
/// A tensor that the thread of one device hands to the thread of another. Neither card waits for what the other does besides: the receiver's stream waits
/// for the mark behind the sender's last write, and the sender's memory is given back when the mark behind the copy is passed. Owns the tensor.
/// </summary>
internal sealed class PeerTransfer : IDisposable
{
    private readonly Tensor _value;
    private readonly CudaEvent? _written;
    private volatile CudaEvent? _taken;

    /// <summary>On the sender's thread, when all work that writes the value has been queued.</summary>
    public PeerTransfer(Tensor value)
    {
        _value = value;
        if (value.Device.Kind != DeviceKind.Cuda) return;
        var card = CudaDevice.Get(value.Device.Index);
        _written = new CudaEvent(card);
        _written.Record(card.Compute);
    }

    /// <summary>The receiver has its copy, and the card is through with it: the memory can go.</summary>
    public bool IsOver => _taken is { } taken && taken.IsReached;

    public bool IsGone { get; private set; }

    /// <summary>A copy on the receiver's device, on its thread; the receiver owns it.</summary>
    public Tensor Take(Device device)
    {
        if (_value.Device.Kind != DeviceKind.Cuda || device.Kind != DeviceKind.Cuda) return _value.To(device);
        var here = Tensor.Empty(_value.Type, device, _value.Shape);
        _taken = CudaDevice.Get(device.Index).CopyFrom(CudaDevice.Get(_value.Device.Index), _written!, here.Pointer, _value.Pointer, _value.ByteLength);
        return here;
    }

    public void Dispose()
    {
        if (IsGone) return;
        IsGone = true;
        if (_taken is { } taken) CudaDevice.Get(_value.Device.Index).Compute.Wait(taken); // nothing to wait for, or a step that was cut short
        _value.Dispose();
        _written?.Dispose();
        _taken?.Dispose();
    }
}
