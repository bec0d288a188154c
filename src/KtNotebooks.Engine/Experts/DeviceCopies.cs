using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>A small frozen tensor and its copies on the devices that have asked for it.</summary>
internal sealed class DeviceCopies(Tensor tensor) : IDisposable
{
    private readonly Dictionary<Device, Tensor> _copies = [];

    public Tensor On(Device device)
    {
        if (tensor.Device == device) return tensor;
        lock (_copies) return _copies.TryGetValue(device, out var copy) ? copy : _copies[device] = tensor.To(device);
    }

    /// <summary>Frees the copies.</summary>
    public void Dispose()
    {
        foreach (var copy in _copies.Values) copy.Dispose();
        _copies.Clear();
    }
}
