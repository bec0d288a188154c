using System.Runtime.InteropServices;

namespace KtNotebooks.Tensors;

/// <summary>Allocation, clearing and copying, by device: the one place that knows where bytes live.</summary>
public static unsafe class Memory
{
    public static Buffer Allocate(Device device, long byteLength) => device.Kind switch
    {
        DeviceKind.Cpu => HostBuffer.Allocate(byteLength),
        _ => throw new NotSupportedException($"no backend for device {device} in this build"),
    };

    public static void Clear(Tensor tensor)
    {
        ArgumentNullException.ThrowIfNull(tensor);
        NativeMemory.Clear((void*)tensor.Pointer, (nuint)tensor.ByteLength);
    }

    /// <summary>Copies all bytes; same type and count, any shapes.</summary>
    public static void Copy(Tensor source, Tensor target)
    {
        ArgumentNullException.ThrowIfNull(source);
        ArgumentNullException.ThrowIfNull(target);
        if (source.Type != target.Type || source.Count != target.Count) throw new ArgumentException($"[Copy] {source} does not fit {target}");
        NativeMemory.Copy((void*)source.Pointer, (void*)target.Pointer, (nuint)source.ByteLength);
    }

    /// <summary>A tensor in host memory with the same values: an alias where it is there already.</summary>
    public static Tensor ToHost(this Tensor tensor) => tensor.To(Device.Cpu);

    public static Tensor To(this Tensor tensor, Device device)
    {
        ArgumentNullException.ThrowIfNull(tensor);
        if (tensor.Device == device) return tensor.Alias();
        var copy = Tensor.Empty(tensor.Type, device, tensor.Shape);
        Copy(tensor, copy);
        return copy;
    }

    /// <summary>The same values in another float type, on the host: an alias where nothing changes.</summary>
    public static Tensor To(this Tensor tensor, DType type)
    {
        ArgumentNullException.ThrowIfNull(tensor);
        if (tensor.Type == type) return tensor.Alias();
        var copy = Tensor.Empty(type, tensor.Device, tensor.Shape);
        var scratch = new float[tensor.Width];
        for (long row = 0; row < tensor.Rows; row++) FloatRows.Store(copy, row, FloatRows.Load(tensor, row, scratch));
        return copy;
    }

    /// <summary>An independent copy on the same device.</summary>
    public static Tensor Clone(this Tensor tensor)
    {
        ArgumentNullException.ThrowIfNull(tensor);
        var copy = Tensor.Empty(tensor.Type, tensor.Device, tensor.Shape);
        Copy(tensor, copy);
        return copy;
    }
}
